// Package flip measures how long a change of weights takes to reach a client's request through a real Envoy, and what it costs on the wire,
// with one spec registered and with many.
//
// Invariants: both fleets run side by side and are measured in turns, so what slows the machine down slows both; a request that is not
// answered properly fails the benchmark.
package flip

import (
	"context"
	"fmt"
	"io"
	"time"
)

const (
	// many is the size of the larger fleet, in specs.
	many = 1000
	// pairs of flips: one in each fleet.
	pairs = 30
	// limit bounds the measurement, after everything runs.
	limit = 2 * time.Minute
)

// Options says what to measure.
type Options struct {
	// Xds and Specproxy are the programs.
	Xds, Specproxy string
	// Dir is where they work.
	Dir string
	// Progress is told in words.
	Progress io.Writer
}

// Sample is one flip.
type Sample struct {
	// Specs registered in the fleet.
	Specs int `json:"specs"`
	// Pair numbers the turns, from 0.
	Pair int `json:"pair"`
	// To is the version that took almost all weight.
	To string `json:"to"`
	// EffectMs is the time from the call to the first answer of that version.
	EffectMs float64 `json:"effectMs"`
	// CommandMs is the time that the call itself took.
	CommandMs float64 `json:"commandMs"`
	// ProbeMs is the mean time of one request meanwhile: the resolution of EffectMs.
	ProbeMs float64 `json:"probeMs"`
	// PushedBytes is what the control plane sent to Envoy for it, TCP payload.
	PushedBytes int64 `json:"pushedBytes"`
}

// Run starts both fleets and measures them in turns.
func Run(ctx context.Context, o Options) (_ []Sample, err error) {
	var fleets []*fleet
	defer func() {
		for _, f := range fleets {
			f.stack.Stop()
		}
	}()
	for _, specs := range []int{1, many} {
		fmt.Fprintf(o.Progress, "flip: starting a fleet of %d\n", specs)
		f, err := start(ctx, o, specs)
		if f != nil {
			fleets = append(fleets, f)
		}
		if err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(o.Progress, "flip: measuring %d flips\n", pairs*len(fleets))
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%d flips took longer than %s", pairs*len(fleets), limit))
	defer cancel()
	return measure(ctx, fleets)
}

// measure flips every fleet once in each turn; the order within a turn alternates.
func measure(ctx context.Context, fleets []*fleet) ([]Sample, error) {
	var samples []Sample
	for pair := range pairs {
		for i := range fleets {
			f := fleets[(i+pair)%len(fleets)]
			s, err := f.flip(ctx)
			if err != nil {
				return nil, fmt.Errorf("flip %d with %d specs: %w", pair, f.specs, err)
			}
			s.Pair = pair
			samples = append(samples, s)
		}
	}
	return samples, nil
}
