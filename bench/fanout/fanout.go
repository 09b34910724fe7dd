// Package fanout measures one flip to thousands of delta streams, each on a connection of its own: bin/xds, whole, beside a bare gRPC broadcast of
// the same message and beside go-control-plane's LinearCache. And the same flip while other specs are being published.
//
// Invariants: all servers stand side by side and are flipped in turns; clients are in other processes than servers; every client gets every
// flip once, or the benchmark fails.
package fanout

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/specproxy/specproxy/bench/rig"
	"github.com/specproxy/specproxy/bench/swarm"
)

// Servers.
const (
	ours, bare, linear = "specproxy", "bare", "linear"
)

const (
	// pairs of turns of each server.
	pairs = 5
	// startTimeout bounds the start of one server with its clients, flipTimeout one flip, limit everything.
	startTimeout = 90 * time.Second
	flipTimeout  = 30 * time.Second
	limit        = 7 * time.Minute
)

// load is one number of streams, and how many flips a turn has: enough for the processor time to be seen, which Linux counts in hundredths.
type load struct{ streams, flips int }

var loads = []load{{1_000, 25}, {8_000, 6}}

// Options says what to measure.
type Options struct {
	// Xds is the program, Self this one.
	Xds, Self string
	// Dir is where they work.
	Dir string
	// Progress is told in words.
	Progress io.Writer
}

// Samples of a run.
type Samples struct {
	Turns  []Turn   `json:"turns"`
	Memory []Memory `json:"memory"`
	// Publishing are flips while specs are published, and without.
	Publishing []Publishing `json:"publishing"`
}

// Turn is several flips of one server.
type Turn struct {
	Server  string `json:"server"`
	Streams int    `json:"streams"`
	Pair    int    `json:"pair"`
	Flips   []Flip `json:"flips"`
	// CPUMs is the server's processor time in all of them.
	CPUMs float64 `json:"cpuMs"`
	// Bytes is what its clients read, TCP payload.
	Bytes int64 `json:"bytes"`
}

// Flip is one. Its times run from the command until a share of the clients had the route.
type Flip struct {
	CommandMs float64 `json:"commandMs"`
	P50Ms     float64 `json:"p50Ms"`
	P99Ms     float64 `json:"p99Ms"`
	LastMs    float64 `json:"lastMs"`
	// ProvenMs is when the server had told that every client has it; 0: it never knows.
	ProvenMs float64 `json:"provenMs,omitempty"`
}

// Memory is what a server holds.
type Memory struct {
	Server  string `json:"server"`
	Streams int    `json:"streams"`
	// EmptyBytes and FullBytes are its resident memory without clients and with them, before the first flip.
	EmptyBytes int64 `json:"emptyBytes"`
	FullBytes  int64 `json:"fullBytes"`
}

// server is one that is measured, with its clients.
type server struct {
	name    string
	streams int
	process *rig.Process
	clients *swarm.Swarm
	// address is where its clients connect.
	address func(ctx context.Context) (string, error)
	// flip commands the next flip; proven waits until the server knows that all have it, nil if it never does.
	flip, proven func(ctx context.Context) error
}

// Run measures everything. It takes a few minutes.
func Run(ctx context.Context, o Options) (Samples, error) {
	var s Samples
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the benchmark took longer than %s", limit))
	defer cancel()
	for _, l := range loads {
		if err := s.measure(ctx, o, l); err != nil {
			return s, fmt.Errorf("%d streams: %w", l.streams, err)
		}
	}
	if err := s.publish(ctx, o); err != nil {
		return s, fmt.Errorf("flips while specs are published: %w", err)
	}
	return s, nil
}

// measure flips all servers in turns.
func (s *Samples) measure(ctx context.Context, o Options, l load) error {
	fmt.Fprintf(o.Progress, "fanout: connecting %d streams to each of three servers\n", l.streams)
	dir := filepath.Join(o.Dir, fmt.Sprint("streams-", l.streams))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	var stack rig.Stack
	defer stack.Stop()
	servers, err := s.start(ctx, o, &stack, dir, l.streams)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.Progress, "fanout: measuring %d flips\n", pairs*l.flips*len(servers))
	for _, srv := range servers { // each once, to warm up
		if _, err := srv.once(ctx); err != nil {
			return err
		}
	}
	for pair := range pairs {
		for i := range servers {
			srv := servers[(i+pair)%len(servers)]
			turn, err := srv.turn(ctx, l.flips)
			if err != nil {
				return fmt.Errorf("turn %d of %s: %w", pair, srv.name, err)
			}
			turn.Pair = pair
			s.Turns = append(s.Turns, turn)
		}
	}
	return nil
}

// start brings all servers up, each with its clients.
func (s *Samples) start(ctx context.Context, o Options, stack *rig.Stack, dir string, streams int) ([]*server, error) {
	var servers []*server
	for _, start := range []func() (*server, error){
		func() (*server, error) { return startOurs(ctx, o, stack, dir, nil) },
		func() (*server, error) { return startPeer(ctx, o, stack, dir, bare, streams) },
		func() (*server, error) { return startPeer(ctx, o, stack, dir, linear, streams) },
	} {
		srv, err := start()
		if err != nil {
			return nil, err
		}
		m, err := srv.connect(ctx, o, stack, dir, streams)
		if err != nil {
			return nil, err
		}
		servers, s.Memory = append(servers, srv), append(s.Memory, m)
	}
	return servers, nil
}

// connect gives a server its clients and tells what they cost.
func (s *server) connect(ctx context.Context, o Options, stack *rig.Stack, dir string, streams int) (Memory, error) {
	s.streams = streams
	m := Memory{Server: s.name, Streams: streams}
	var err error
	if m.EmptyBytes, _, err = s.process.Usage(); err != nil {
		return m, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("%d streams are not all served after %s", streams, startTimeout))
	defer cancel()
	address, err := s.address(ctx)
	if err != nil {
		return m, err
	}
	s.clients, err = swarm.Start(ctx, swarm.Options{
		Self: o.Self, Dir: dir, Name: "clients-of-" + s.name, Address: address, Streams: streams, RoutesOnly: s.name != ours,
	})
	if err != nil {
		return m, err
	}
	stack.Push(s.clients.Stop)
	m.FullBytes, _, err = s.process.Usage()
	return m, err
}

// turn is several flips in a row.
func (s *server) turn(ctx context.Context, flips int) (Turn, error) {
	t := Turn{Server: s.name, Streams: s.streams}
	if err := s.clients.Reset(ctx); err != nil {
		return t, err
	}
	_, before, err := s.process.Usage()
	if err != nil {
		return t, err
	}
	for range flips {
		f, err := s.once(ctx)
		if err != nil {
			return t, err
		}
		t.Flips = append(t.Flips, f)
	}
	_, after, err := s.process.Usage()
	if err != nil {
		return t, err
	}
	counts, err := s.clients.Counts(ctx)
	t.CPUMs, t.Bytes = ms(after-before), counts.Bytes
	if want := int64(flips * s.streams); err == nil && counts.Resources != want {
		err = fmt.Errorf("%d flips brought %d resources to %d clients", flips, counts.Resources, s.streams)
	}
	return t, err
}

// once is one flip.
func (s *server) once(ctx context.Context) (Flip, error) {
	var f Flip
	ctx, cancel := context.WithTimeoutCause(ctx, flipTimeout, fmt.Errorf("a flip has not reached every client after %s", flipTimeout))
	defer cancel()
	if err := s.clients.Arm(ctx); err != nil {
		return f, err
	}
	began := time.Now()
	if err := s.flip(ctx); err != nil {
		return f, err
	}
	f.CommandMs = ms(time.Since(began))
	if s.proven != nil {
		if err := s.proven(ctx); err != nil {
			return f, err
		}
		f.ProvenMs = ms(time.Since(began))
	}
	arrivals, err := s.clients.Await(ctx)
	since := func(nano int64) float64 { return ms(time.Duration(nano - began.UnixNano())) }
	f.P50Ms, f.P99Ms, f.LastMs = since(arrivals.P50), since(arrivals.P99), since(arrivals.Last)
	return f, err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
