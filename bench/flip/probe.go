package flip

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/specproxy/specproxy/bench/rig"
)

const (
	// certain is how many answers in a row tell that a version took over: one alone may be the trace of weight that the other one keeps.
	certain = 3
	// quiet is how long the control plane must say nothing before and after a flip.
	quiet = 50 * time.Millisecond
	// settlePoll is how often a request is tried that is not answered yet.
	settlePoll = 20 * time.Millisecond
)

// probe asks Envoy, one request after the other.
type probe struct {
	url, host string
	client    *http.Client
}

func newProbe(address, host string) *probe {
	return &probe{url: "http://" + address + "/", host: host, client: &http.Client{Transport: &http.Transport{}}}
}

func (p *probe) stop() { p.client.CloseIdleConnections() }

// ask returns the version that answered.
func (p *probe) ask(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return "", fmt.Errorf("request to %s: %w", p.host, err)
	}
	req.Host = p.host
	resp, err := p.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("request to %s: %w", p.host, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("answer of %s: %w", p.host, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("answer of %s: %s: %s", p.host, resp.Status, body)
	}
	return resp.Header.Get("x-spec-version"), nil
}

// settle asks until the version answers, and takes failures for "not yet": only before anything is measured.
func (p *probe) settle(ctx context.Context, version string) error {
	tick := time.NewTicker(settlePoll)
	defer tick.Stop()
	for {
		answered, err := p.ask(ctx)
		if err == nil && answered == spec+":"+version {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("%q answers", answered)
			}
			return fmt.Errorf("%s:%s does not answer through Envoy: %w: %w", spec, version, context.Cause(ctx), err)
		}
	}
}

// until asks until the version has answered often enough in a row. It returns when the first of these answers came, and how many requests
// there were up to it.
func (p *probe) until(ctx context.Context, version string) (first time.Time, requests int, err error) {
	row := 0
	for asked := 1; row < certain; asked++ {
		answered, err := p.ask(ctx)
		if err != nil {
			return first, requests, err
		}
		if answered != spec+":"+version {
			row = 0
			continue
		}
		if row++; row == 1 {
			first, requests = time.Now(), asked
		}
	}
	return first, requests, nil
}

// subject is an Envoy whose traffic can be moved, whatever the layout of its configuration.
type subject struct {
	layout string
	specs  int
	stack  rig.Stack
	wire   *rig.Relay
	probe  *probe
	// at indexes the version that has almost all weight, shift moves that to another.
	at    int
	shift func(ctx context.Context, to int) error
}

// flip moves almost all weight to the other version and measures it.
func (f *subject) flip(ctx context.Context) (Sample, error) {
	to := 1 - f.at
	if _, _, err := f.probe.until(ctx, versionsOfSpec[f.at]); err != nil {
		return Sample{}, err
	}
	before, err := f.wire.Quiet(ctx, quiet)
	if err != nil {
		return Sample{}, err
	}
	type outcome struct {
		took time.Duration
		err  error
	}
	shifted := make(chan outcome, 1)
	probing, cancel := context.WithCancel(ctx)
	defer cancel()
	issued := time.Now()
	go func() {
		err := f.shift(ctx, to)
		if err != nil {
			cancel() // Nothing will change: there is nothing to wait for.
		}
		shifted <- outcome{time.Since(issued), err}
	}()
	first, requests, err := f.probe.until(probing, versionsOfSpec[to])
	command := <-shifted
	if command.err != nil {
		return Sample{}, command.err
	}
	if err != nil {
		return Sample{}, err
	}
	after, err := f.wire.Quiet(ctx, quiet)
	if err != nil {
		return Sample{}, err
	}
	f.at = to
	effect := first.Sub(issued)
	return Sample{
		Layout: f.layout, Specs: f.specs, To: versionsOfSpec[to],
		EffectMs: milliseconds(effect), CommandMs: milliseconds(command.took), ProbeMs: milliseconds(effect) / float64(requests),
		PushedBytes: after - before,
	}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
