// Package flip measures how long a change of weights takes to reach a client's request through a real Envoy, and what it costs on the wire,
// with one spec registered and with many, and against the layout that has all specs in one RouteConfiguration.
//
// Invariants: all fleets run side by side and are measured in turns, so what slows the machine down slows all; a request that is not answered
// properly fails the benchmark; what is compared with must be as good as when it was first measured, or the benchmark fails.
package flip

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Layouts.
const (
	// scoped is ours: a scope per host and a RouteConfiguration per spec. single has one RouteConfiguration.
	scoped, single = "scoped", "single"
)

const (
	// turns of flips: one of each subject.
	turns = 100
	// limit bounds the measurement, after everything runs.
	limit = 6 * time.Minute
)

// sizes of the fleets, in specs; the last one is many.
var sizes = []int{1, 100, many}

// many is the size of the largest fleet.
const many = 10_000

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
	// Layout is "scoped", ours, or "single": all specs in one RouteConfiguration.
	Layout string `json:"layout"`
	// Specs registered in the fleet.
	Specs int `json:"specs"`
	// Turn numbers the turns, from 0.
	Turn int `json:"turn"`
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

// Run starts all fleets and measures them in turns.
func Run(ctx context.Context, o Options) (_ []Sample, err error) {
	var subjects []*subject
	defer func() {
		for _, s := range subjects {
			s.stack.Stop()
		}
	}()
	for _, specs := range sizes {
		fmt.Fprintf(o.Progress, "flip: starting fleets of %d\n", specs)
		f, err := start(ctx, o, specs)
		subjects = append(subjects, &f.subject)
		if err != nil {
			return nil, err
		}
		s, err := startSingle(ctx, o, specs)
		subjects = append(subjects, s)
		if err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(o.Progress, "flip: measuring %d flips\n", turns*len(subjects))
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%d flips took longer than %s", turns*len(subjects), limit))
	defer cancel()
	return measure(ctx, subjects)
}

// measure flips every subject once in each turn; the order within a turn rotates.
func measure(ctx context.Context, subjects []*subject) ([]Sample, error) {
	var samples []Sample
	for turn := range turns {
		for i := range subjects {
			f := subjects[(i+turn)%len(subjects)]
			s, err := f.flip(ctx)
			if err != nil {
				return nil, fmt.Errorf("flip %d, %s layout, with %d specs: %w", turn, f.layout, f.specs, err)
			}
			s.Turn = turn
			samples = append(samples, s)
		}
	}
	return samples, nil
}
