package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// adminPoll is how often a starting Envoy is asked whether it is ready; it tells nobody by itself.
const adminPoll = 10 * time.Millisecond

// Envoy is a stock Envoy that started from the bootstrap of bin/xds.
type Envoy struct {
	*Process
	adminFile string
	admin     string
}

// StartEnvoy runs an Envoy whose control plane is at the address, and returns once it serves. It is found on PATH, where make puts it.
func StartEnvoy(ctx context.Context, dir, name, xds, control string) (*Envoy, error) {
	bootstrap, err := Bootstrap(ctx, xds, name, "127.0.0.1:0", control)
	if err != nil {
		return nil, err
	}
	return StartEnvoyFrom(ctx, dir, name, bootstrap)
}

// Bootstrap is what bin/xds prints for an Envoy that listens on host:port.
func Bootstrap(ctx context.Context, xds, name, listen, control string) ([]byte, error) {
	bootstrap, err := exec.CommandContext(ctx, xds, "bootstrap", "--node", name, "--listen", listen, "--control", control).Output()
	if err != nil {
		return nil, fmt.Errorf("bootstrap of Envoy: %w", err)
	}
	return bootstrap, nil
}

// StartEnvoyFrom runs an Envoy with a configuration, and returns once it serves. Its admin page must be on a port that the system chooses.
func StartEnvoyFrom(ctx context.Context, dir, name string, bootstrap []byte) (*Envoy, error) {
	e, err := launch(dir, name, bootstrap)
	if err != nil {
		return nil, err
	}
	if err := e.await(ctx); err != nil {
		e.Stop()
		return nil, err
	}
	return e, nil
}

// LaunchEnvoy runs an Envoy and waits for nothing. Listener must not be called.
func LaunchEnvoy(dir, name string, bootstrap []byte) (*Process, error) {
	e, err := launch(dir, name, bootstrap)
	if err != nil {
		return nil, err
	}
	return e.Process, nil
}

func launch(dir, name string, bootstrap []byte) (*Envoy, error) {
	config, admin := filepath.Join(dir, name+".yaml"), filepath.Join(dir, name+".admin")
	if err := os.WriteFile(config, bootstrap, 0o600); err != nil {
		return nil, fmt.Errorf("bootstrap of Envoy: %w", err)
	}
	p, err := Start(dir, name, "envoy", "-c", config, "--use-dynamic-base-id", "--admin-address-path", admin, "--concurrency", "1", "--log-level", "warning")
	if err != nil {
		return nil, err
	}
	return &Envoy{Process: p, adminFile: admin}, nil
}

// await asks until the admin page says that Envoy is live.
func (e *Envoy) await(ctx context.Context) error {
	tick := time.NewTicker(adminPoll)
	defer tick.Stop()
	for {
		select {
		case <-e.Done():
			return e.Ended()
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; see %s", e.name, context.Cause(ctx), e.log)
		case <-tick.C:
		}
		address, err := os.ReadFile(e.adminFile)
		if err != nil {
			continue // Not written yet.
		}
		e.admin = strings.TrimSpace(string(address))
		if _, err := e.get(ctx, "/ready"); err == nil {
			return nil
		}
	}
}

// Listener waits for the listener to be bound and returns its host:port.
func (e *Envoy) Listener(ctx context.Context) (string, error) {
	tick := time.NewTicker(adminPoll)
	defer tick.Stop()
	for {
		body, err := e.get(ctx, "/listeners?format=json")
		if err != nil {
			return "", err
		}
		if address, ok := bound(body); ok {
			return address, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("%s has no listener: %w; see %s", e.name, context.Cause(ctx), e.log)
		}
	}
}

// bound finds the one listener in what Envoy's admin page says.
func bound(body []byte) (string, bool) {
	var page struct {
		Statuses []struct {
			Local struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(body, &page); err != nil || len(page.Statuses) == 0 || page.Statuses[0].Local.Socket.Port == 0 {
		return "", false
	}
	s := page.Statuses[0].Local.Socket
	return net.JoinHostPort(s.Address, strconv.Itoa(s.Port)), true
}

func (e *Envoy) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.admin+path, nil)
	if err != nil {
		return nil, fmt.Errorf("admin page of %s: %w", e.name, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("admin page of %s: %w", e.name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("admin page of %s: %w", e.name, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("admin page of %s: %s: %s", e.name, path, resp.Status)
	}
	return body, nil
}
