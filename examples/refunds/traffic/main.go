// Command traffic is the customers of the worked example and the queue behind them.
//
// It sends seeded refunds at a fixed rate, over its Envoys in turn, and logs every attempt. Invariants: a refund is sent again only
// after the retry signal (503, x-should-retry: true, x-spec-rollback) and not before the signal allows it; every other answer, and no
// answer, is final; redirects are not followed and the transport repeats nothing by itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// options are all that the traffic is told.
type options struct {
	envoys []string
	host   string
	log    string
	seed   uint64
	rate   int
	grace  time.Duration
}

func main() {
	var o options
	envoys := flag.String("envoys", "http://127.0.0.1:10000", "URLs of the Envoys, separated by commas; used in turn")
	flag.StringVar(&o.host, "host", "customer-service.agents", "host name of the spec")
	flag.StringVar(&o.log, "log", "", "file to which every attempt is appended, one JSON object a line")
	flag.Uint64Var(&o.seed, "seed", 1, "seed of the refunds")
	flag.IntVar(&o.rate, "rate", 40, "new refunds a second")
	flag.DurationVar(&o.grace, "grace", 10*time.Second, "how long to wait for refunds under way after SIGTERM")
	flag.Parse()
	o.envoys = strings.Split(*envoys, ",")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "traffic:", err)
		os.Exit(1)
	}
}

func (o options) validate() error {
	switch {
	case o.log == "":
		return errors.New("no log: name one with --log FILE")
	case o.rate < 1 || o.rate > 1000:
		return fmt.Errorf("--rate %d: between 1 and 1000 refunds a second", o.rate)
	}
	for _, e := range o.envoys {
		if !strings.HasPrefix(e, "http://") {
			return fmt.Errorf("--envoys %q: each must be an http:// URL", e)
		}
	}
	return nil
}

// run sends until ctx ends, then waits up to the grace for what is under way. Refunds still unanswered then are logged as such.
func run(ctx context.Context, o options) error {
	if err := o.validate(); err != nil {
		return err
	}
	log, err := refund.OpenLog(o.log)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(os.Stdout, "seed %d, %d refunds a second: %s\n", o.seed, o.rate, refund.Standard)
	queue := newQueue(o, log)
	sent, err := queue.run(ctx)
	fmt.Fprintf(os.Stdout, "%d refunds sent\n", sent)
	return err
}
