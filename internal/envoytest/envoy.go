// Package envoytest starts a real Envoy for tests, and a TCP relay that counts and cuts what passes between it and its control plane.
//
// Invariants: everything listens on loopback and on ports the system chooses; what a test started has ended when the test has; a test
// without an Envoy fails and says how to get one, it is never skipped.
package envoytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// startTimeout bounds the wait for a process that takes about 100 ms to be ready.
const startTimeout = time.Minute

// Config says which Envoy to start.
type Config struct {
	// Node is its name; default "edge-1".
	Node string
	// Listen is where it takes requests; default 127.0.0.1:0.
	Listen string
	// Servers are xDS addresses, host:port.
	Servers []string
	// Token is the bearer token for the xDS servers.
	Token string
	// Sidecars are the files by which it speaks TLS to sidecars; nil: it does not.
	Sidecars *envoy.BootstrapTLS
	// Bootstrap replaces the generated configuration, and with it Listen, Servers and Token; its admin page must listen on port 0.
	Bootstrap []byte
	// Overlay is YAML that Envoy merges with its configuration; empty: none.
	Overlay []byte
	// Listener names the listener whose address is wanted; default: the agents listener.
	Listener string
	// LogLevel of Envoy; default "warning". Its log is shown when the test fails.
	LogLevel string
	// Concurrency is the number of worker threads; default 1.
	Concurrency int
}

// Envoy is a running process.
type Envoy struct {
	// Node is its name.
	Node string
	// Address is the host:port of the agents listener.
	Address string
	// Admin is the host:port of the admin page.
	Admin string

	wanted string // name of the listener
	cmd    *exec.Cmd
	log    *logBuffer
	done   chan struct{} // closed when the process has ended and was waited for
	once   sync.Once
}

// Variable is the environment variable that names the executable to test with; `make test-long` tests with two versions.
const Variable = "ENVOY"

// Path finds the executable: what the environment names, else .tools/bin/envoy in this repository, else `envoy` on PATH.
func Path() (string, error) {
	if named := os.Getenv(Variable); named != "" {
		if !filepath.IsAbs(named) || !isExecutable(named) {
			return "", fmt.Errorf("%s=%s is not the absolute path of an executable", Variable, named)
		}
		return named, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if candidate := filepath.Join(dir, ".tools", "bin", "envoy"); isExecutable(candidate) {
			return candidate, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			break
		}
		dir = parent
	}
	if found, err := exec.LookPath("envoy"); err == nil {
		return found, nil
	}
	return "", errors.New("no Envoy in .tools/bin or on PATH; run scripts/install-envoy.sh")
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// Start runs an Envoy with the generated bootstrap and waits until it is ready and its listener is bound. It ends with the test.
func Start(t testing.TB, c Config) *Envoy {
	t.Helper()
	e, err := start(t.TempDir(), c)
	if e != nil {
		t.Cleanup(func() {
			e.Stop()
			if t.Failed() {
				t.Logf("log of Envoy %s:\n%s", e.Node, e.log.String())
			}
		})
	}
	if err != nil {
		t.Fatalf("start Envoy: %v", err)
	}
	return e
}

func start(dir string, c Config) (*Envoy, error) {
	if c.Node == "" {
		c.Node = "edge-1"
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.LogLevel == "" {
		c.LogLevel = "warning"
	}
	if c.Concurrency == 0 {
		c.Concurrency = 1
	}
	binary, err := Path()
	if err != nil {
		return nil, err
	}
	bootstrap := c.Bootstrap
	if bootstrap == nil {
		bootstrap, err = envoy.Bootstrap(envoy.BootstrapOptions{
			Node: c.Node, Listen: c.Listen, Admin: "127.0.0.1:0", Servers: c.Servers, Token: c.Token, Sidecars: c.Sidecars,
		})
		if err != nil {
			return nil, err
		}
	}
	config, adminPath := filepath.Join(dir, "envoy.yaml"), filepath.Join(dir, "admin")
	if err := os.WriteFile(config, bootstrap, 0o600); err != nil {
		return nil, err
	}
	if c.Listener == "" {
		c.Listener = envoy.ListenerName
	}
	e := &Envoy{Node: c.Node, wanted: c.Listener, log: &logBuffer{}, done: make(chan struct{})}
	// A dynamic base id lets many Envoys share the machine.
	e.cmd = exec.Command(binary, "-c", config, "--use-dynamic-base-id", "--admin-address-path", adminPath,
		"--concurrency", strconv.Itoa(c.Concurrency), "--log-level", c.LogLevel)
	if len(c.Overlay) > 0 {
		e.cmd.Args = append(e.cmd.Args, "--config-yaml", string(c.Overlay))
	}
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	e.cmd.SysProcAttr = dieWithParent()
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(e.done)
		_ = e.cmd.Wait() // the log says how it ended
	}()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return e, e.await(ctx, adminPath)
}

// await asks the admin page until Envoy is live and its listener bound: Envoy publishes neither in another way.
func (e *Envoy) await(ctx context.Context, adminPath string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("its admin page is not open")
	for {
		select {
		case <-e.done:
			return errors.New("it ended before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", last)
		case <-tick.C:
		}
		if e.Admin == "" {
			text, err := os.ReadFile(adminPath)
			if err != nil || len(bytes.TrimSpace(text)) == 0 {
				continue
			}
			e.Admin = string(bytes.TrimSpace(text))
		}
		if _, err := e.Get(ctx, "/ready"); err != nil {
			last = err
			continue
		}
		address, err := e.listener(ctx)
		if err != nil {
			last = err
			continue
		}
		e.Address = address
		return nil
	}
}

func (e *Envoy) listener(ctx context.Context) (string, error) {
	body, err := e.Get(ctx, "/listeners?format=json")
	if err != nil {
		return "", err
	}
	var out struct {
		Statuses []struct {
			Name    string `json:"name"`
			Address struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return "", err
	}
	for _, s := range out.Statuses {
		if s.Name == e.wanted && s.Address.Socket.Port != 0 {
			return net.JoinHostPort(s.Address.Socket.Address, strconv.Itoa(s.Address.Socket.Port)), nil
		}
	}
	return "", errors.New("its listener is not bound")
}

// Get reads a path of the admin page; an answer other than 200 is an error that holds it.
func (e *Envoy) Get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.Admin+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %d %s", path, res.StatusCode, bytes.TrimSpace(body))
	}
	return body, nil
}

// Stat reads one counter or gauge; a name that Envoy does not have is an error.
func (e *Envoy) Stat(ctx context.Context, name string) (uint64, error) {
	body, err := e.Get(ctx, "/stats?filter=^"+name+"$")
	if err != nil {
		return 0, err
	}
	_, value, found := strings.Cut(string(bytes.TrimSpace(body)), ": ")
	if !found {
		return 0, fmt.Errorf("Envoy has no statistic %q", name)
	}
	return strconv.ParseUint(value, 10, 64)
}

// PID of the process.
func (e *Envoy) PID() int { return e.cmd.Process.Pid }

// Done is closed when the process has ended.
func (e *Envoy) Done() <-chan struct{} { return e.done }

// Log is what Envoy wrote so far.
func (e *Envoy) Log() string { return e.log.String() }

// Stop ends Envoy at once and waits for it. It may be called more than once.
func (e *Envoy) Stop() {
	e.once.Do(func() { _ = e.cmd.Process.Kill() }) // an error means that it has ended already
	<-e.done
}

// logBuffer keeps the last part of a log.
type logBuffer struct {
	mu   sync.Mutex
	text []byte
}

const logLimit = 256 << 10

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if over := len(l.text) - logLimit; over > 0 {
		l.text = append(l.text[:0], l.text[over:]...)
	}
	return len(p), nil
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}
