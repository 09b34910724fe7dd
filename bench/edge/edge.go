// Package edge measures what a real Envoy takes up, and how soon it serves, with 10,000 specs registered of which its traffic uses 10, and with 10.
//
// Invariants: both control planes run all the while, and Envoys are started in turns, so what slows the machine down slows both; each Envoy
// is a new process that has nothing of an earlier one; a spec that is not served fails the benchmark.
package edge

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"github.com/specproxy/specproxy/bench/rig"
)

const (
	// used is how many specs have traffic; few and many how many are registered.
	used, few, many = 10, 10, 10_000
	// rounds of Envoys: one for each control plane.
	rounds = 9
	// limit bounds the measurement, after both control planes run; startTimeout one start.
	limit        = 4 * time.Minute
	startTimeout = time.Minute
	// poll is how often a starting Envoy is asked, and so how exact ReadyMs is.
	poll = time.Millisecond
	// quiet is how long the control plane must say nothing before the next Envoy is started. settle is how long all Envoys are left alone before
	// their memory is read: they give back slowly what they needed for a moment.
	quiet  = 100 * time.Millisecond
	settle = 15 * time.Second
)

// Options says what to measure.
type Options struct {
	// Xds is the program.
	Xds string
	// Dir is where it works.
	Dir string
	// Progress is told in words.
	Progress io.Writer
}

// Sample is one Envoy's start.
type Sample struct {
	// Specs registered.
	Specs int `json:"specs"`
	// Round numbers the turns, from 0.
	Round int `json:"round"`
	// ReadyMs is the time from the start of the process to the first answer of an agent.
	ReadyMs float64 `json:"readyMs"`
	// ResidentBytes is its memory once all used specs have been asked for, nothing more comes, and it had time to give back what it needed for a moment.
	ResidentBytes int64 `json:"residentBytes"`
	// PushedBytes is what the control plane has sent by then, TCP payload.
	PushedBytes int64 `json:"pushedBytes"`
}

// plane is a control plane with the wire in front of it.
type plane struct {
	specs int
	dir   string
	wire  *rig.Relay
}

// Run starts both control planes and then Envoys in turns.
func Run(ctx context.Context, o Options) (_ []Sample, err error) {
	var stack rig.Stack
	defer stack.Stop()
	agent, err := rig.StartAgent(ctx, &stack)
	if err != nil {
		return nil, err
	}
	var planes []*plane
	for _, specs := range []int{few, many} {
		fmt.Fprintf(o.Progress, "edge: starting a control plane with %d specs\n", specs)
		p, err := start(ctx, o, &stack, specs, agent)
		if err != nil {
			return nil, err
		}
		planes = append(planes, p)
	}
	fmt.Fprintf(o.Progress, "edge: starting %d Envoys\n", rounds*len(planes))
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the measurement took longer than %s", limit))
	defer cancel()
	var samples []Sample
	var envoys []*rig.Process
	for round := range rounds {
		for i := range planes {
			p := planes[(i+round)%len(planes)]
			s, envoy, err := p.measure(ctx, o, &stack, round)
			if err != nil {
				return nil, fmt.Errorf("start %d of an Envoy with %d specs: %w", round, p.specs, err)
			}
			samples, envoys = append(samples, s), append(envoys, envoy)
		}
	}
	fmt.Fprintf(o.Progress, "edge: leaving them alone for %s\n", settle)
	rest := time.NewTimer(settle)
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for i, envoy := range envoys {
		if samples[i].ResidentBytes, _, err = envoy.Usage(); err != nil {
			return nil, err
		}
	}
	return samples, nil
}

func start(ctx context.Context, o Options, stack *rig.Stack, specs int, agent string) (*plane, error) {
	name := fmt.Sprintf("xds-%d", specs)
	if err := rig.Seed(ctx, filepath.Join(o.Dir, name+".data"), specs, used, agent); err != nil {
		return nil, err
	}
	starting, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not up after %s", startTimeout))
	defer cancel()
	control, err := rig.StartControl(starting, o.Dir, name, o.Xds)
	if err != nil {
		return nil, err
	}
	stack.Push(control.Stop)
	wire, err := rig.NewRelay(ctx, control.GRPC)
	if err != nil {
		return nil, err
	}
	stack.Push(wire.Stop)
	return &plane{specs: specs, dir: o.Dir, wire: wire}, nil
}

// measure starts an Envoy, asks until the first spec answers, and asks for the others.
func (p *plane) measure(ctx context.Context, o Options, stack *rig.Stack, round int) (Sample, *rig.Process, error) {
	s := Sample{Specs: p.specs, Round: round}
	address, err := free(ctx)
	if err != nil {
		return s, nil, err
	}
	name := fmt.Sprintf("envoy-%d-%d", p.specs, round)
	bootstrap, err := rig.Bootstrap(ctx, o.Xds, name, address, p.wire.Address())
	if err != nil {
		return s, nil, err
	}
	before := p.wire.Down()
	began := time.Now()
	envoy, err := rig.LaunchEnvoy(p.dir, name, bootstrap)
	if err != nil {
		return s, nil, err
	}
	stack.Push(envoy.Stop)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if err := p.first(ctx, client, envoy, address); err != nil {
		return s, nil, err
	}
	s.ReadyMs = float64(time.Since(began).Microseconds()) / 1000
	for i := range used {
		if err := ask(ctx, client, address, i); err != nil {
			return s, nil, err
		}
	}
	after, err := p.wire.Quiet(ctx, quiet)
	s.PushedBytes = after - before
	return s, envoy, err
}

// free is an address that nobody listens on; Envoy's would have to be asked for otherwise, which takes time.
func free(ctx context.Context) (string, error) {
	l, err := rig.Listen(ctx)
	if err != nil {
		return "", fmt.Errorf("address for Envoy: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// first asks until the first spec answers.
func (p *plane) first(ctx context.Context, client *http.Client, envoy *rig.Process, address string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("it serves nothing after %s", startTimeout))
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := ask(ctx, client, address, 0)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-envoy.Done():
			return envoy.Ended()
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// ask sends one request to the i-th spec.
func ask(ctx context.Context, client *http.Client, address string, i int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return err
	}
	req.Host = rig.Seeded(i) + ".agents"
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("request to %s: %w", req.Host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answer of %s: %s", req.Host, resp.Status)
	}
	return nil
}
