// Package drain measures what it takes to cancel everything that runs under a version: real exchanges, opened by a client process of its own
// through several sidecars to agents that never answer, all cancelled by one rollback.
//
// Invariants: an exchange counts as open only once its sidecar has told the control plane so; the clock runs from the command until the client
// has read the last retry signal; a run in which any exchange ended in another way fails.
package drain

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Options of a run.
type Options struct {
	// Xds and Specproxy are the programs, Self this one: it is started again as client and agent.
	Xds, Specproxy, Self string
	// Dir is the working directory.
	Dir      string
	Progress io.Writer
}

// load is one row's worth of open exchanges.
type load struct {
	exchanges, sidecars, rounds int
	// multiplexed: gRPC calls over a few HTTP/2 connections; otherwise one HTTP/1.1 connection an exchange.
	multiplexed bool
}

// loads of a run, lightest first.
var loads = []load{
	{exchanges: 10_000, sidecars: 4, rounds: 3},
	{exchanges: 100_000, sidecars: 12, rounds: 1, multiplexed: true},
}

// Samples of a run.
type Samples struct {
	Cancels []Cancel `json:"cancels"`
	Decides []Decide `json:"decides"`
	Ledgers []Ledger `json:"ledgers"`
	Peers   []Peer   `json:"peers"`
}

// Cancel is one rollback over open exchanges.
type Cancel struct {
	Exchanges   int  `json:"exchanges"`
	Sidecars    int  `json:"sidecars"`
	Multiplexed bool `json:"multiplexed"`
	// FirstMs and LastMs are from the command until the client had read the first and the last retry signal, CommandMs until the call returned.
	FirstMs   float64 `json:"firstMs"`
	LastMs    float64 `json:"lastMs"`
	CommandMs float64 `json:"commandMs"`
	// SidecarCPUMs is the processor time of all sidecars, from the command until the last signal.
	SidecarCPUMs float64 `json:"sidecarCpuMs"`
	// ControlCPUMs is that of the control plane.
	ControlCPUMs float64 `json:"controlCpuMs"`
	// IdleBytes and OpenBytes are what all sidecars held in memory before the exchanges were opened and while they were open.
	IdleBytes int64 `json:"idleBytes"`
	OpenBytes int64 `json:"openBytes"`
}

// Run measures everything. It takes a few minutes.
func Run(ctx context.Context, o Options) (Samples, error) {
	var s Samples
	for range decideRounds {
		d, l, err := decideAll(o.Dir)
		if err != nil {
			return s, err
		}
		s.Decides, s.Ledgers = append(s.Decides, d), append(s.Ledgers, l)
	}
	fmt.Fprintf(o.Progress, "drain: decided over %d executions %d times\n", executions, decideRounds)
	for i, l := range loads {
		dir := filepath.Join(o.Dir, fmt.Sprint("load-", i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return s, fmt.Errorf("working directory: %w", err)
		}
		cancels, err := l.measure(ctx, o, dir)
		if err != nil {
			return s, fmt.Errorf("%d exchanges: %w", l.exchanges, err)
		}
		s.Cancels = append(s.Cancels, cancels...)
		fmt.Fprintf(o.Progress, "drain: cancelled %d exchanges %d times\n", l.exchanges, l.rounds)
		peer, err := l.peer(ctx, o, dir)
		if err != nil {
			return s, fmt.Errorf("%d exchanges of bare servers: %w", l.exchanges, err)
		}
		s.Peers = append(s.Peers, peer)
		fmt.Fprintf(o.Progress, "drain: bare servers ended %d exchanges\n", l.exchanges)
	}
	return s, nil
}

func (l load) measure(ctx context.Context, o Options, dir string) ([]Cancel, error) {
	f := &fleet{load: l}
	defer f.stack.Stop()
	if err := f.start(ctx, o, dir); err != nil {
		return nil, err
	}
	var all []Cancel
	for round := range l.rounds {
		c, err := f.round(ctx, o, dir, round)
		if err != nil {
			return nil, fmt.Errorf("round %d: %w", round+1, err)
		}
		all = append(all, c)
	}
	return all, nil
}
