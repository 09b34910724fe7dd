package drain

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Child is what this program is when it was started again: "agent", "bare ADDRESS", or "client MULTIPLEXED PERSIDECAR ADDRESS…".
func Child(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	switch {
	case len(args) == 1 && args[0] == "agent":
		return agent(ctx)
	case len(args) == 2 && args[0] == "bare":
		return bare(ctx, args[1])
	case len(args) > 3 && args[0] == "client":
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return clientMain(args[1] == "true", n, args[3:], in, out)
	}
	return fmt.Errorf("no such child: %q", args)
}

// result is what a client saw.
type result struct {
	Signals int `json:"signals"`
	// Others are exchanges that ended in another way; Other is what the first of them got.
	Others int    `json:"others"`
	Other  string `json:"other,omitempty"`
	// FirstNano and LastNano are when the first and the last signal had been read, Unix time.
	FirstNano int64 `json:"firstNano"`
	LastNano  int64 `json:"lastNano"`
}

func (r *result) add(o result) {
	r.Signals += o.Signals
	r.Others += o.Others
	if r.Other == "" {
		r.Other = o.Other
	}
	if r.FirstNano == 0 || o.FirstNano != 0 && o.FirstNano < r.FirstNano {
		r.FirstNano = o.FirstNano
	}
	r.LastNano = max(r.LastNano, o.LastNano)
}

// clientTimeout bounds how long a client waits for anything: then it tells what it has got.
const clientTimeout = 3 * time.Minute

// clientMain opens n exchanges with each sidecar, says so, and tells what became of them: when all have got the signal, or at once when one has
// ended in another way, which may be before it has said that they are open.
func clientMain(multiplexed bool, n int, addresses []string, in io.Reader, out io.Writer) error {
	exchange := plainExchanges
	if multiplexed {
		exchange = streams
	}
	results := make(chan result, n*len(addresses)) // nobody waits for who has heard enough
	for _, address := range addresses {
		if err := exchange(address, n, time.Now().Add(clientTimeout), results); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(out, "open"); err != nil {
		return err
	}
	var all result
	for all.Signals < n*len(addresses) && all.Others == 0 {
		all.add(<-results)
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, string(raw)); err != nil {
		return err
	}
	_, err = bufio.NewReader(in).ReadString('\n') // until the parent has read it
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
