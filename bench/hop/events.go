package hop

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http/httputil"
	"strconv"
	"time"
)

// events reads streams and how long each event took from the agent's write, by the same clock.
func events(ctx context.Context, address string, begin, end time.Time) (int, []time.Duration, error) {
	all := newTally(eventStreams)
	for i := range eventStreams {
		all.Go(func(t *tally) error {
			c, lines, err := openEvents(ctx, address, fmt.Sprintf("every=%dns&after=%dns", eventEvery, eventEvery*time.Duration(i)/eventStreams), end)
			if err != nil {
				return err
			}
			defer c.Close()
			for {
				at, err := nextEvent(lines)
				now := time.Now()
				if err != nil || now.After(end) {
					return err
				}
				if now.After(begin) {
					t.count++
					t.delays = append(t.delays, now.Sub(at))
				}
			}
		})
	}
	return all.wait()
}

// openEvents asks for a stream and reads up to its body.
func openEvents(ctx context.Context, address, query string, end time.Time) (*wire, *bufio.Reader, error) {
	c, err := dial(ctx, address, end)
	if err != nil {
		return nil, nil, err
	}
	if _, err := c.Write([]byte("GET /events?" + query + " HTTP/1.1\r\n" + headers + "\r\n")); err != nil {
		return nil, nil, err
	}
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return nil, nil, err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			return nil, nil, fmt.Errorf("stream: %q", line)
		}
		if len(line) == 2 {
			return c, bufio.NewReader(httputil.NewChunkedReader(c.r)), nil
		}
	}
}

// nextEvent returns when the agent wrote it.
func nextEvent(lines *bufio.Reader) (time.Time, error) {
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return time.Time{}, fmt.Errorf("stream: %w", err)
		}
		if data, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("data: ")); ok {
			stamp, _, _ := bytes.Cut(data, []byte(" "))
			ns, err := strconv.ParseInt(string(stamp), 10, 64)
			return time.Unix(0, ns), err
		}
	}
}

// silent asks for a stream that falls silent after its first event.
var silent = call{fields: append([][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "measured.agents"}, {":path", "/events?every=1h"}}, shared...)}

// perConnection is how many streams one connection carries by default in Go's HTTP/2 servers, Caddy among them.
const perConnection = 250

// openIdle opens n streams over HTTP/2 that fall silent after their first event. (Over HTTP/1.1 a proxy would need 20,000 open files, which not every machine allows.)
func openIdle(ctx context.Context, address string, n int) (closeAll func(), err error) {
	var open []*wire
	closeAll = func() {
		for _, c := range open {
			c.Close()
		}
	}
	for range n / perConnection {
		c, err := dial(ctx, address, time.Now().Add(limit))
		if err != nil {
			return closeAll, err
		}
		open = append(open, c)
		m := newMux(c, silent)
		if err := m.greet(); err != nil {
			return closeAll, err
		}
		for range perConnection {
			if err := m.send(); err != nil {
				return closeAll, err
			}
		}
		for m.data < perConnection {
			if err := m.w.Flush(); err != nil {
				return closeAll, err
			}
			if _, err := m.receive(); err != nil {
				return closeAll, fmt.Errorf("stream %d of connection %d: %w", m.data, len(open), err)
			}
		}
	}
	return closeAll, nil
}
