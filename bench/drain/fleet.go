package drain

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/specproxy/specproxy/bench/rig"
	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/loopback"
)

const (
	spec, good, bad = "measured", "2.0.0", "2.1.0"
	host            = spec + ".agents"

	startTimeout = time.Minute
	openTimeout  = 4 * time.Minute
	settleFor    = 2 * time.Second
	contractText = "  default: {onRollback: cancel, retryAfter: 1s-5s}"
)

// fleet is one control plane, one instance of the good version, and several of the bad one, without a proxy before them: what is measured is
// the way from the command to the exchanges.
type fleet struct {
	load
	stack     rig.Stack
	control   *rig.Control
	sidecars  []*rig.Process
	addresses []string
}

func (f *fleet) start(ctx context.Context, o Options, dir string) (err error) {
	starting, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not up after %s", startTimeout))
	defer cancel()
	if f.control, err = rig.StartControl(starting, dir, "xds", o.Xds); err != nil {
		return err
	}
	f.stack.Push(f.control.Stop)
	for _, v := range []string{good, bad} {
		manifest := fmt.Sprintf("name: %s\nversion: %s\ninFlight:\n%s\n", spec, v, contractText)
		if _, err := f.control.API.Publish(starting, connect.NewRequest(&operatorv1.PublishRequest{Files: []*operatorv1.File{{Path: "spec.yaml", Content: []byte(manifest)}}})); err != nil {
			return err
		}
	}
	if _, err := f.sidecar(o, dir, good, "good"); err != nil {
		return err
	}
	for i := range f.load.sidecars {
		p, err := f.sidecar(o, dir, bad, fmt.Sprint("bad-", i))
		if err != nil {
			return err
		}
		f.sidecars = append(f.sidecars, p)
	}
	if err := f.await(starting, "ready instances", func(v map[string]*operatorv1.Version) bool {
		return v[good].GetPool().GetReady() == 1 && int(v[bad].GetPool().GetReady()) == f.load.sidecars
	}); err != nil {
		return err
	}
	for _, v := range []string{good, bad} {
		if _, err := f.control.API.Deploy(starting, connect.NewRequest(&operatorv1.DeployRequest{Refs: []*operatorv1.Ref{{Spec: spec, Version: v}}})); err != nil {
			return err
		}
	}
	return nil
}

// sidecar starts one with its agent.
func (f *fleet) sidecar(o Options, dir, version, name string) (*rig.Process, error) {
	address, err := loopback.Address()
	if err != nil {
		return nil, err
	}
	p, err := rig.Start(dir, name, o.Specproxy, "--control", f.control.GRPC, "--spec", spec+":"+version, "--listen", address,
		"--cache-dir", filepath.Join(dir, "cache-"+name), "--log-level", "error", "--drain-timeout", "1s", "--max-streams", strconv.Itoa(2*streamsPerConnection), "--", o.Self, "child", "agent")
	if err != nil {
		return nil, err
	}
	f.stack.Push(p.Stop)
	if version == bad {
		f.addresses = append(f.addresses, address)
	}
	return p, nil
}

// await polls the spec's versions: what runs is stored nowhere.
func (f *fleet) await(ctx context.Context, what string, done func(map[string]*operatorv1.Version) bool) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		res, err := f.control.API.GetSpec(ctx, connect.NewRequest(&operatorv1.GetSpecRequest{Spec: spec}))
		if err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		versions := map[string]*operatorv1.Version{}
		for _, v := range res.Msg.GetSpec().GetVersions() {
			versions[v.GetVersion()] = v
		}
		if done(versions) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %v", what, context.Cause(ctx), versions[bad].GetPool())
		}
	}
}

// round opens all exchanges, rolls back, waits for all signals and undoes the rollback.
func (f *fleet) round(ctx context.Context, o Options, dir string, number int) (Cancel, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, openTimeout, fmt.Errorf("not done after %s", openTimeout))
	defer cancel()
	c := Cancel{Exchanges: f.exchanges, Sidecars: f.load.sidecars, Multiplexed: f.multiplexed}
	var err error
	if c.IdleBytes, _, err = f.usage(); err != nil {
		return c, err
	}
	c.Exchanges = f.perSidecar() * f.load.sidecars
	err = f.client(ctx, o, filepath.Join(dir, fmt.Sprint("client-", number, ".log")), f.addresses, func(lines <-chan string) error { return f.cancelAll(ctx, lines, &c) })
	return c, err
}

// perSidecar is how many exchanges each carries.
func (l load) perSidecar() int { return (l.exchanges + l.sidecars - 1) / l.sidecars }

// client runs a client process while use reads what it says: at most two lines.
func (l load) client(ctx context.Context, o Options, file string, addresses []string, use func(lines <-chan string) error) error {
	args := append([]string{"child", "client", strconv.FormatBool(l.multiplexed), strconv.Itoa(l.perSidecar())}, addresses...)
	client := exec.CommandContext(ctx, o.Self, args...)
	log, err := os.Create(file)
	if err != nil {
		return err
	}
	defer log.Close()
	client.Stderr = log
	in, err := client.StdinPipe()
	if err != nil {
		return err
	}
	out, err := client.StdoutPipe()
	if err != nil {
		return err
	}
	if err := client.Start(); err != nil {
		return err
	}
	lines := make(chan string, 2) // room for what it still says when use has returned
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines <- scan.Text()
		}
	}()
	err = use(lines)
	_ = in.Close()
	for range lines { // what Wait closes must have been read
	}
	if waited := client.Wait(); err == nil && waited != nil {
		err = fmt.Errorf("client: %w: see %s", waited, file)
	}
	return err
}

// cancelAll measures, once the client has opened everything.
func (f *fleet) cancelAll(ctx context.Context, lines <-chan string, c *Cancel) error {
	if err := f.awaitOpen(ctx, lines, c); err != nil {
		return err
	}
	var cpuBefore, cpuAfter time.Duration
	var err error
	if c.OpenBytes, cpuBefore, err = f.usage(); err != nil {
		return err
	}
	_, controlBefore, err := f.control.Usage()
	if err != nil {
		return err
	}
	began := time.Now()
	res, err := f.control.API.Rollback(ctx, connect.NewRequest(&operatorv1.RollbackRequest{Targets: []*operatorv1.RollbackTarget{{Spec: spec}}, Reason: "benchmark"}))
	if err != nil {
		return err
	}
	c.CommandMs = ms(time.Since(began))
	line, ok := <-lines
	if !ok {
		return errors.New("the client ended without a word")
	}
	if _, cpuAfter, err = f.usage(); err != nil {
		return err
	}
	_, controlAfter, err := f.control.Usage()
	if err != nil {
		return err
	}
	got, err := outcome(line, c.Exchanges)
	if err != nil {
		return err
	}
	c.FirstMs, c.LastMs = ms(time.Unix(0, got.FirstNano).Sub(began)), ms(time.Unix(0, got.LastNano).Sub(began))
	c.SidecarCPUMs, c.ControlCPUMs = ms(cpuAfter-cpuBefore), ms(controlAfter-controlBefore)
	if _, err := f.control.API.Undo(ctx, connect.NewRequest(&operatorv1.UndoRequest{Postmortem: res.Msg.GetChanges()[0].GetPostmortem(), Reason: "next round"})); err != nil {
		return err
	}
	return f.await(ctx, "empty sidecars", func(v map[string]*operatorv1.Version) bool {
		return v[bad].GetPool().GetInFlight() == 0 && v[bad].GetWeight() > 0 && !v[bad].GetPool().GetFenced()
	})
}

// awaitOpen returns when the client has opened everything, and the control plane knows of it.
func (f *fleet) awaitOpen(ctx context.Context, lines <-chan string, c *Cancel) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if line := <-lines; line != "open" {
		return fmt.Errorf("the client said %q instead of opening its exchanges", line)
	}
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case line := <-lines:
			_, err := outcome(line, c.Exchanges)
			cancel(fmt.Errorf("before the rollback: %w", err))
		case <-done:
		}
	}()
	err := f.await(ctx, "open exchanges", func(v map[string]*operatorv1.Version) bool {
		return int(v[bad].GetPool().GetInFlight()) == c.Exchanges //nolint:gosec // a hundred thousand
	})
	if err == nil {
		select {
		case <-time.After(settleFor): // reports of what was opened last, garbage of opening
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	close(done)
	<-watched
	return err
}

// outcome reads what the client says at its end; an error if anything but the signal came.
func outcome(line string, exchanges int) (got result, err error) {
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		return got, fmt.Errorf("the client said %q: %w", line, err)
	}
	if got.Others > 0 || got.Signals != exchanges {
		return got, fmt.Errorf("%d of %d exchanges got the signal; one ended otherwise: %s", got.Signals, exchanges, got.Other)
	}
	return got, nil
}

// usage is the resident memory and the processor time of all sidecars.
func (f *fleet) usage() (resident int64, cpu time.Duration, err error) {
	for _, p := range f.sidecars {
		bytes, used, err := p.Usage()
		if err != nil {
			return 0, 0, err
		}
		resident += bytes
		cpu += used
	}
	return resident, cpu, nil
}
