// Command demo runs the worked example: a refund agent whose new version is wrong, and the rollback that takes it back.
//
// It starts every process itself on loopback, tells the story from 14:00 to 14:25 in under a minute, and has the separate checker judge
// what happened. Invariants: whatever way it ends, no process it started is left; it exits 0 only if the whole story ran and the
// checker agreed; it reads no counter of the product into the result.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// options are all that the demo is told.
type options struct {
	seed uint64
	// limit replaces the bad version's own limit, in dollars; 0 leaves it.
	limit int
	rate  int
	// canary puts a canary in front of the bad version.
	canary bool
	// small gives the bad version a canary by hand that is too small to see anything, before it gets all the traffic.
	small bool
	// bin holds xds, specproxy and specctl; programs holds the example's own.
	bin, programs, envoy string
	specs, results       string
	// conformance is the report of the tests that both versions had passed.
	conformance string
}

func main() {
	var o options
	flag.Uint64Var(&o.seed, "seed", 1, "seed of the refunds")
	flag.Func("limit", "replaces the refund limit of the bad version, in `dollars`", func(text string) (err error) {
		o.limit, err = parseLimit(text)
		return err
	})
	flag.IntVar(&o.rate, "rate", 100, "new refunds a second")
	flag.BoolVar(&o.canary, "canary", false, "deploy the bad version behind a canary: the story ends when it has been stopped by itself")
	flag.BoolVar(&o.small, "small-canary", false, "give the bad version 5 % for a moment and wave it through, before it gets all the traffic")
	flag.StringVar(&o.bin, "bin", "bin", "folder of xds, specproxy and specctl")
	flag.StringVar(&o.programs, "programs", "bin/refunds", "folder of agent, payments, traffic and check")
	flag.StringVar(&o.envoy, "envoy", ".tools/bin/envoy", "Envoy's executable")
	flag.StringVar(&o.specs, "specs", "examples/refunds/specs", "folder of the versions")
	flag.StringVar(&o.conformance, "conformance", "examples/refunds/conformance/refunds.json", "report of the tests that the versions had passed")
	flag.StringVar(&o.results, "out", "out", "folder for demo.json, demo.svg and the logs of the run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	began := time.Now()
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	if o.canary {
		fmt.Fprintf(os.Stdout, "\nIt all held, in %.0f s. Result: %s, logs: %s\n", time.Since(began).Seconds(), filepath.Join(o.results, "demo-canary.json"), filepath.Join(o.results, "demo"))
		return
	}
	fmt.Fprintf(os.Stdout, "\nIt all held, in %.0f s. Result: %s, plot: %s, logs: %s\n",
		time.Since(began).Seconds(), filepath.Join(o.results, "demo.json"), filepath.Join(o.results, "demo.svg"), filepath.Join(o.results, "demo"))
}

// parseLimit reads a limit that is wrong: below the true one.
func parseLimit(text string) (int, error) {
	const top = refund.TrueLimitCents / 100
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit >= top {
		return 0, fmt.Errorf("the limit of the bad version must be a whole number of dollars from 1 to %d: at %d it would not be wrong", top-1, top)
	}
	return limit, nil
}

func (o options) validate() error {
	for _, path := range []string{
		filepath.Join(o.bin, "xds"), filepath.Join(o.bin, "specproxy"), filepath.Join(o.bin, "specctl"), o.envoy,
		filepath.Join(o.programs, "agent"), filepath.Join(o.programs, "payments"), filepath.Join(o.programs, "traffic"), filepath.Join(o.programs, "check"),
	} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w: run `make demo`, which builds and installs what it needs", err)
		}
	}
	return nil
}

// run tells the story and has it judged. All processes have ended when it returns.
func run(ctx context.Context, o options) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	stage, err := newStage(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		if err = stage.close(err); err != nil {
			err = fmt.Errorf("%w\nthe logs of the run are in %s", err, stage.run)
		}
	}()
	versions, err := stage.readVersions()
	if err != nil {
		return err
	}
	story := &story{stage: stage, versions: versions, small: o.small, facts: refund.Facts{
		Seed: o.seed, Limit: o.limit, Abandoned: versions.bad.ref(), Target: versions.good.ref(),
		Predicted: refund.Standard.Success(versions.bad.limit * 100),
	}}
	if o.canary {
		result, err := story.tellCanary()
		if err != nil {
			return err
		}
		if err := result.write(o.results, func(text string) { fmt.Fprintf(stage.out, "\n%s\n", text) }); err != nil {
			return err
		}
		return result.judge()
	}
	if err := story.tell(); err != nil {
		return err
	}
	return stage.check()
}
