// Package storm measures what it takes when thousands of delta streams drop and come back together: how long until all are in sync, and what is
// pushed though nothing has changed.
//
// Invariants: every client comes back with what it had; all are in sync only once the control plane counts each as proven and each client was
// answered; at the end all of them follow a flip, or the benchmark fails.
package storm

import (
	"context"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"

	"github.com/specproxy/specproxy/bench/rig"
	"github.com/specproxy/specproxy/bench/swarm"
	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/routing"
)

const (
	streams, rounds = 8_000, 20
	// specs are how many hosts every client knows.
	specs = 100
	// startTimeout bounds the first connection of all, roundTimeout one round, limit everything.
	startTimeout = 2 * time.Minute
	roundTimeout = time.Minute
	limit        = 7 * time.Minute
	// late is how long to wait after a round for anything that comes without need.
	late = 200 * time.Millisecond
	// askEvery is how often the API is asked in the middle of it.
	askEvery = 50 * time.Millisecond
)

// Options says what to measure.
type Options struct {
	// Xds is the program, Self this one.
	Xds, Self string
	// Dir is where they work.
	Dir string
	// Progress is told in words.
	Progress io.Writer
}

// Round is one time that all streams dropped and came back.
type Round struct {
	Round int `json:"round"`
	// AnsweredMs runs from the first connection until each client was answered, SyncMs until the control plane counted each as proven.
	AnsweredMs float64 `json:"answeredMs"`
	SyncMs     float64 `json:"syncMs"`
	// Pushes and Resources are what was sent though nothing has changed; Bytes is all that came, TCP payload, protocol included.
	Pushes    int64 `json:"pushes"`
	Resources int64 `json:"resources"`
	Bytes     int64 `json:"bytes"`
	// CPUMs is the control plane's processor time, ResidentBytes its memory after it, and AnonymousBytes that without pages of its files.
	CPUMs          float64 `json:"cpuMs"`
	ResidentBytes  int64   `json:"residentBytes"`
	AnonymousBytes int64   `json:"anonymousBytes"`
	// AskMs is the longest that a call of the API took meanwhile.
	AskMs float64 `json:"askMs"`
}

// Run drops the streams and lets them come back.
func Run(ctx context.Context, o Options) (_ []Round, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%d rounds took longer than %s", rounds, limit))
	defer cancel()
	var stack rig.Stack
	defer stack.Stop()
	unborn := make([]string, specs)
	for i := range unborn {
		unborn[i] = rig.Seeded(i)
	}
	control, err := rig.StartPair(ctx, &stack, o.Dir, o.Xds, unborn)
	if err != nil {
		return nil, err
	}
	for _, name := range unborn {
		if err := rig.Publish(ctx, control, name, rig.SeededVersion); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(o.Progress, "storm: connecting %d streams\n", streams)
	starting, done := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("%d streams are not all served after %s", streams, startTimeout))
	defer done()
	clients, err := swarm.Start(starting, swarm.Options{Self: o.Self, Dir: o.Dir, Name: "clients", Address: control.GRPC, Streams: streams})
	if err != nil {
		return nil, err
	}
	stack.Push(clients.Stop)
	if err := rig.Proven(starting, control, streams); err != nil {
		return nil, err
	}
	fmt.Fprintf(o.Progress, "storm: dropping them %d times\n", rounds)
	var all []Round
	for i := range rounds {
		r, err := round(ctx, control, clients)
		if err != nil {
			return nil, fmt.Errorf("round %d: %w", i+1, err)
		}
		r.Round = i
		all = append(all, r)
	}
	return all, follow(ctx, control, clients)
}

// round is one.
func round(ctx context.Context, control *rig.Control, clients *swarm.Swarm) (r Round, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, roundTimeout, fmt.Errorf("not all are in sync after %s", roundTimeout))
	defer cancel()
	if err := clients.Drop(ctx); err != nil {
		return r, err
	}
	if err := clients.Reset(ctx); err != nil {
		return r, err
	}
	_, before, err := control.Usage()
	if err != nil {
		return r, err
	}
	asking, stop := context.WithCancel(ctx)
	asked := make(chan time.Duration, 1)
	go func() { asked <- ask(asking, control) }()
	began := time.Now()
	err = clients.Return(ctx)
	r.AnsweredMs = ms(time.Since(began))
	if err == nil {
		err = rig.Proven(ctx, control, streams)
		r.SyncMs = ms(time.Since(began))
	}
	stop()
	r.AskMs = ms(<-asked)
	if err != nil {
		return r, err
	}
	if err := rig.Rest(ctx, late); err != nil {
		return r, err
	}
	resident, after, err := control.Usage()
	if err != nil {
		return r, err
	}
	if r.AnonymousBytes, err = control.Anonymous(); err != nil {
		return r, err
	}
	counts, err := clients.Counts(ctx)
	r.CPUMs, r.ResidentBytes = ms(after-before), resident
	r.Pushes, r.Resources, r.Bytes = counts.Pushes, counts.Resources, counts.Bytes
	return r, err
}

// ask calls the API until ctx ends and returns the longest that a call took.
func ask(ctx context.Context, control *rig.Control) (longest time.Duration) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return longest
		}
		began := time.Now()
		// The caller's own end cuts a call short, which says nothing.
		if _, err := control.API.GetSpec(ctx, connect.NewRequest(&operatorv1.GetSpecRequest{Spec: rig.Pair})); err == nil || ctx.Err() == nil {
			longest = max(longest, time.Since(began))
		}
	}
}

// follow flips the route, which must reach every client: whoever came back is whole.
func follow(ctx context.Context, control *rig.Control, clients *swarm.Swarm) error {
	ctx, cancel := context.WithTimeoutCause(ctx, roundTimeout, fmt.Errorf("a flip has not reached every client after %s", roundTimeout))
	defer cancel()
	if err := clients.Arm(ctx); err != nil {
		return err
	}
	_, err := control.API.SetWeights(ctx, connect.NewRequest(&operatorv1.SetWeightsRequest{Spec: rig.Pair, Reason: "benchmark", Weights: []*operatorv1.Weight{
		{Version: rig.PairVersions[1], BasisPoints: routing.Full - 1}, {Version: rig.PairVersions[0], BasisPoints: 1},
	}}))
	if err != nil {
		return fmt.Errorf("set weights: %w", err)
	}
	if _, err := clients.Await(ctx); err != nil {
		return err
	}
	return rig.Proven(ctx, control, streams)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
