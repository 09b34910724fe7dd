package hop

import (
	"context"
	_ "embed" // configurations
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/specproxy/specproxy/bench/rig"
	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/loopback"
)

var (
	//go:embed envoy.yaml
	envoyConfig string
	//go:embed caddy.json
	caddyConfig string
)

const startTimeout = time.Minute

// proxy is one of those that are measured. The one called none is the agent itself, without a process of its own.
type proxy struct {
	name, address string
	process       *rig.Process
}

// startProxies starts all, each on processor 0, and waits until each passes requests on.
func startProxies(ctx context.Context, o Options, agent string) (all []proxy, stop func(), err error) {
	var stack rig.Stack
	starting, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not up after %s", startTimeout))
	defer cancel()
	control, err := startControl(starting, o)
	if err != nil {
		return nil, stack.Stop, err
	}
	stack.Push(control.Stop)
	commands := []struct {
		name    string
		command func(listen string) ([]string, error)
	}{
		{"specproxy", func(listen string) ([]string, error) {
			return []string{o.Specproxy, "--control", control.GRPC, "--spec", "measured:1.0.0", "--listen", listen, "--upstream", "http://" + agent,
				"--cache-dir", filepath.Join(o.Dir, "cache")}, nil
		}},
		{"envoy", func(listen string) ([]string, error) {
			path, err := configure(o.Dir, "envoy.yaml", envoyConfig, listen, agent)
			return []string{"envoy", "-c", path, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"}, err
		}},
		{"httputil", func(listen string) ([]string, error) {
			return []string{o.Self, "child", "httputil", listen, agent}, nil
		}},
		{"caddy", func(listen string) ([]string, error) {
			path, err := configure(o.Dir, "caddy.json", caddyConfig, listen, agent)
			return []string{"caddy", "run", "--config", path}, err
		}},
	}
	for _, c := range commands {
		if len(o.Proxies) > 0 && !slices.Contains(o.Proxies, c.name) {
			continue
		}
		listen, err := loopback.Address()
		if err != nil {
			return nil, stack.Stop, err
		}
		args, err := c.command(listen)
		if err != nil {
			return nil, stack.Stop, err
		}
		if _, err := exec.LookPath(args[0]); err != nil {
			return nil, stack.Stop, fmt.Errorf("%w: run make bench", err)
		}
		process, err := rig.Start(o.Dir, c.name, "taskset", append([]string{"-c", "0"}, args...)...)
		if err != nil {
			return nil, stack.Stop, err
		}
		stack.Push(process.Stop)
		p := proxy{c.name, listen, process}
		if err := p.await(starting); err != nil {
			return nil, stack.Stop, err
		}
		all = append(all, p)
	}
	return append(all, proxy{name: "none", address: agent}), stack.Stop, nil
}

// startControl starts a control plane with one version of the measured spec.
func startControl(ctx context.Context, o Options) (*rig.Control, error) {
	control, err := rig.StartControl(ctx, o.Dir, "xds", o.Xds)
	if err != nil {
		return nil, err
	}
	manifest := "name: measured\nversion: 1.0.0\ninFlight:\n  default: {onRollback: complete, within: 1m, then: cancel}\n"
	_, err = control.API.Publish(ctx, connect.NewRequest(&operatorv1.PublishRequest{Files: []*operatorv1.File{{Path: "spec.yaml", Content: []byte(manifest)}}}))
	if err != nil {
		control.Stop()
		return nil, err
	}
	return control, nil
}

func configure(dir, name, config, listen, agent string) (path string, err error) {
	_, listenPort, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	_, agentPort, err := net.SplitHostPort(agent)
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(strings.NewReplacer("LISTEN", listenPort, "AGENT", agentPort).Replace(config)), 0o600)
}

// await asks until the agent answers through the proxy.
func (p proxy) await(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.process.Done():
			return p.process.Ended()
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s is not ready: %w", p.name, context.Cause(ctx)), err)
		}
	}
}

func (p proxy) ask(ctx context.Context) error {
	c, err := dial(ctx, p.address, time.Now())
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(small[0]); err != nil {
		return err
	}
	return c.response()
}
