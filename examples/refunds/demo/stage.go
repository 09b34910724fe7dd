package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/specproxy/specproxy/examples/refunds/refund"
	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/loopback"
)

const (
	instances    = 2 // a pool
	readyWithin  = 20 * time.Second
	trafficGrace = 10 * time.Second
	proxies      = 2 // Envoys
)

// stage is every process of the demo and every place it writes to.
type stage struct {
	options
	console
	ctx  context.Context //nolint:containedctx // the life of the demo, which is the life of the stage
	fail context.CancelCauseFunc
	// scratch goes when the demo ends; run stays: logs, journals, facts.
	scratch, run string
	processes    []*process
	traffic      *process

	payments, control string
	envoys            []string
}

func newStage(parent context.Context, o options) (*stage, error) {
	for _, path := range []*string{&o.bin, &o.programs, &o.envoy, &o.specs, &o.results} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return nil, err
		}
		*path = absolute
	}
	s := &stage{options: o, run: filepath.Join(o.results, "demo")}
	s.console = console{specctl: filepath.Join(o.bin, "specctl"), out: os.Stdout, began: time.Now()}
	// What an earlier run left must not be taken for this one's.
	for _, old := range []string{s.run, filepath.Join(o.results, "demo.json"), filepath.Join(o.results, "demo.svg")} {
		if err := os.RemoveAll(old); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{s.logs(), s.journals()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	scratch, err := os.MkdirTemp("", "specproxy-demo-")
	if err != nil {
		return nil, err
	}
	s.scratch = scratch
	s.ctx, s.fail = context.WithCancelCause(parent)
	return s, nil
}

func (s *stage) logs() string      { return filepath.Join(s.run, "logs") }
func (s *stage) journals() string  { return filepath.Join(s.run, "agents") }
func (s *stage) clientLog() string { return filepath.Join(s.run, "client.jsonl") }
func (s *stage) ledger() string    { return filepath.Join(s.run, "ledger.jsonl") }
func (s *stage) facts() string     { return filepath.Join(s.run, "facts.json") }

// close ends every process and removes what is not wanted any more. It joins its own trouble to err.
func (s *stage) close(err error) error {
	if cause := context.Cause(s.ctx); cause != nil && !errors.Is(err, cause) {
		err = errors.Join(cause, err)
	}
	stopped := s.end()
	s.fail(nil)
	return errors.Join(err, stopped, os.RemoveAll(s.scratch))
}

// end stops what still runs.
func (s *stage) end() error {
	err := stopAll(s.processes)
	s.processes = nil
	return err
}

// start starts a process that ends with the stage.
func (s *stage) start(name string, env []string, program string, args ...string) (*process, error) {
	if cause := context.Cause(s.ctx); cause != nil {
		return nil, cause
	}
	p, err := start(s.logs(), name, env, s.fail, program, args...)
	if err == nil {
		s.processes = append(s.processes, p)
	}
	return p, err
}

// readVersions reads the versions of the story, the bad one with another limit if that was asked for.
func (s *stage) readVersions() (cast, error) {
	bad := filepath.Join(s.specs, badFolder)
	if s.limit != 0 {
		changed := filepath.Join(s.scratch, badFolder)
		if err := withLimit(bad, changed, s.limit); err != nil {
			return cast{}, err
		}
		bad = changed
	}
	var c cast
	for folder, v := range map[string]*version{
		filepath.Join(s.specs, goodFolder): &c.good, bad: &c.bad, filepath.Join(s.specs, fixedFolder): &c.fixed,
	} {
		read, err := readVersion(folder)
		if err != nil {
			return cast{}, err
		}
		*v = read
	}
	return c, nil
}

// raise starts the payment process, the control plane and the Envoys.
func (s *stage) raise() error {
	payments, err := s.start("payments", nil, filepath.Join(s.programs, "payments"), "--ledger", s.ledger(), "--seed", s.seedText())
	if err != nil {
		return err
	}
	var paying struct {
		Listen string `json:"listen"`
	}
	if err := payments.ready(&paying, readyWithin); err != nil {
		return err
	}
	s.payments = "http://" + paying.Listen

	data := filepath.Join(s.scratch, "data")
	xds, err := s.start("xds", nil, filepath.Join(s.bin, "xds"), "--data-dir", data, "--api", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var listening struct {
		API  string `json:"api"`
		GRPC string `json:"grpc"`
	}
	if err := xds.ready(&listening, readyWithin); err != nil {
		return err
	}
	s.control = listening.GRPC
	s.env = []string{"SPECPROXY_SERVER=http://" + listening.API, "SPECPROXY_DATA_DIR=" + data}

	for i := range proxies {
		if err := s.raiseEnvoy(fmt.Sprintf("edge-%d", i+1)); err != nil {
			return err
		}
	}
	return s.await("every Envoy has connected", func() (bool, error) {
		var fleet operatorv1.GetFleetResponse
		err := s.read(s.ctx, &fleet)
		return fleet.GetProxiesConnected() == proxies, err
	})
}

func (s *stage) raiseEnvoy(node string) error {
	listen, err := loopback.Address()
	if err != nil {
		return err
	}
	bootstrap := exec.CommandContext(s.ctx, filepath.Join(s.bin, "xds"), "bootstrap", "--node", node, "--listen", listen, "--control", s.control)
	var stderr bytes.Buffer
	bootstrap.Stderr = &stderr
	config, err := bootstrap.Output()
	if err != nil {
		return fmt.Errorf("xds bootstrap --node %s: %w: %s", node, err, strings.TrimSpace(stderr.String()))
	}
	path := filepath.Join(s.scratch, node+".yaml")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return err
	}
	// Two Envoys on one machine must not share the region that hot restarts use.
	_, err = s.start(node, nil, s.envoy, "-c", path, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")
	s.envoys = append(s.envoys, "http://"+listen)
	return err
}

// pool starts the instances of a version, each a sidecar with its agent.
func (s *stage) pool(v version) error {
	for i := range instances {
		name := fmt.Sprintf("%s-%d", v.version, i+1)
		_, err := s.start(name, nil, filepath.Join(s.bin, "specproxy"),
			"--control", s.control, "--spec", v.ref(), "--listen", "127.0.0.1:0", "--cache-dir", filepath.Join(s.scratch, name),
			"--", filepath.Join(s.programs, "agent"), "--payments", s.payments, "--journal-dir", s.journals(), "--seed", s.seedText())
		if err != nil {
			return err
		}
	}
	return s.await(fmt.Sprintf("%d instances of %s are ready", instances, v.ref()), func() (bool, error) {
		var spec operatorv1.GetSpecResponse
		err := s.read(s.ctx, &spec, "get", v.name)
		for _, known := range spec.GetSpec().GetVersions() {
			if known.GetVersion() == v.version {
				return known.GetPool().GetReady() == instances, err
			}
		}
		return false, err
	})
}

// serving waits until an instance of the version answers through every Envoy: one that has never been asked for this host may refuse its first
// request if the route comes late.
func (s *stage) serving(v version) error {
	client := &http.Client{Timeout: readyWithin}
	defer client.CloseIdleConnections()
	for _, envoy := range s.envoys {
		err := s.await(fmt.Sprintf("%s answers through %s", v.ref(), envoy), func() (bool, error) {
			req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, envoy+"/healthz", nil)
			if err != nil {
				return false, err
			}
			req.Host = v.host()
			res, err := client.Do(req)
			if err != nil {
				return false, err
			}
			defer res.Body.Close()
			if got := res.Header.Get(refund.HeaderVersion); got != v.ref() {
				return false, fmt.Errorf("%s from %q", res.Status, got)
			}
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// await asks until the answer is yes. An error is an answer only when time is over.
func (s *stage) await(what string, is func() (bool, error)) error {
	deadline := time.NewTimer(readyWithin)
	defer deadline.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		yes, err := is()
		if yes {
			return nil
		}
		select {
		case <-again.C:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case <-deadline.C:
			return errors.Join(fmt.Errorf("waited %v until %s, in vain", readyWithin, what), err)
		}
	}
}

// sendTraffic starts the customers.
func (s *stage) sendTraffic(host string) error {
	traffic, err := s.start("traffic", nil, filepath.Join(s.programs, "traffic"), "--envoys", strings.Join(s.envoys, ","), "--host", host,
		"--log", s.clientLog(), "--seed", s.seedText(), "--rate", strconv.Itoa(s.rate), "--grace", trafficGrace.String())
	s.traffic = traffic
	return err
}

// check runs the checker over the logs and shows what it says.
func (s *stage) check() error {
	fmt.Fprintln(s.out)
	cmd := exec.CommandContext(s.ctx, filepath.Join(s.programs, "check"), "--client", s.clientLog(), "--ledger", s.ledger(),
		"--journals", s.journals(), "--facts", s.facts(), "--out", filepath.Join(s.results, "demo.json"), "--plot", filepath.Join(s.results, "demo.svg"))
	cmd.Stdout, cmd.Stderr = s.out, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the checker does not agree: %w", err)
	}
	result, err := os.ReadFile(filepath.Join(s.results, "demo.json"))
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "\n%s", result)
	return nil
}

func (s *stage) seedText() string { return strconv.FormatUint(s.seed, 10) }
