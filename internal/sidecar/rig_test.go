package sidecar_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"github.com/specproxy/specproxy/internal/sidecar"
	"github.com/specproxy/specproxy/internal/sidecar/fakecontrol"
	"github.com/specproxy/specproxy/internal/versions"
)

const patience = time.Minute

// guarded completes what has acted and cancels the rest.
const guarded = `name: customer-service
version: 2.1.0
documents: [prompt.md, policies/refunds.md]
inFlight:
  effects: guarded
  default: {onRollback: complete}
  rules:
  - when: {effects: none, path: /hold}
    onRollback: cancel
    retryAfter: 1s
`

func files(manifest string) map[string]string {
	return map[string]string{"spec.yaml": manifest, "prompt.md": "Be kind.", "policies/refunds.md": "Up to $500."}
}

// rig is one sidecar in this process and its control plane.
type rig struct {
	t       *testing.T
	control *fakecontrol.Control
	version versions.Packed
	options sidecar.Options
	signals chan os.Signal
	done    chan error
}

func newRig(t *testing.T, manifest string) *rig {
	t.Helper()
	r := &rig{t: t, control: fakecontrol.Start(t)}
	r.version = r.control.Publish(files(manifest))
	r.options = sidecar.Options{
		Controls: []string{r.control.Address()}, Ref: r.version.Ref(), Listen: "127.0.0.1:0", LocalAPI: "127.0.0.1:0",
		Command: []string{os.Args[0], "play-agent"}, Guard: []string{os.Args[0], "play-guard"}, CacheDir: t.TempDir(),
		DrainTimeout: patience, Version: "test", Stdout: os.Stdout, Stderr: os.Stderr, Log: zaptest.NewLogger(t),
		Timing: sidecar.Timing{MaxBackoff: 50 * time.Millisecond, Away: 200 * time.Millisecond, Patience: 200 * time.Millisecond, Probe: 50 * time.Millisecond, Report: 10 * time.Millisecond},
	}
	return r
}

// run starts the sidecar; the test's end stops it.
func (r *rig) run() {
	r.t.Helper()
	r.signals = make(chan os.Signal, 4)
	r.done = make(chan error, 1)
	r.options.Signals = r.signals
	ctx, cancel := context.WithCancel(context.Background())
	done := r.done
	go func() { done <- sidecar.Run(ctx, r.options) }()
	r.t.Cleanup(func() {
		cancel()
		r.signals <- syscall.SIGTERM // and at once
		select {
		case err := <-done:
			r.t.Log("the sidecar ended:", err)
		case <-time.After(patience):
			r.t.Error("the sidecar does not end")
		}
	})
}

// ended is what Run returned.
func (r *rig) ended() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		r.done <- err
		return err
	case <-time.After(patience):
		r.t.Fatal("the sidecar does not end")
		return nil
	}
}

// ready waits for a ready status and returns the sidecar's address.
func (r *rig) ready() string {
	r.t.Helper()
	v := r.control.Wait("a ready sidecar", func(v fakecontrol.View) bool { return v.Connected > 0 && v.Status.GetReady() })
	return v.Hellos[len(v.Hellos)-1].GetAddress()
}

var client = &http.Client{
	Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func request(t *testing.T, addr, path string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "customer-service.agents"
	req.Header.Set("X-Spec-Buffer", "1024")
	return req
}

func fetch(t *testing.T, addr, path string) (*http.Response, string) {
	t.Helper()
	res, err := client.Do(request(t, addr, path))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// later sends a request and delivers status and body.
func later(t *testing.T, addr, path string) <-chan *http.Response {
	t.Helper()
	answered := make(chan *http.Response, 1)
	req := request(t, addr, path)
	go func() {
		res, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			close(answered)
			return
		}
		answered <- res
	}()
	return answered
}

func get[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			t.Fatalf("%s: nothing came", what)
		}
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing came in %s", what, patience)
	}
	panic("unreachable")
}

// running waits until the control plane believes that n executions run, and returns their ids.
func (r *rig) running(n int) []string {
	r.t.Helper()
	v := r.control.Wait(fmt.Sprint(n, " running executions"), func(v fakecontrol.View) bool { return len(v.Running) == n })
	var ids []string
	for id := range v.Running {
		ids = append(ids, id)
	}
	return ids
}

// dead waits until a process that is no child of this one is gone.
func dead(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
		if err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		if n == 1 {
			return
		}
	}
	t.Errorf("process %d lives on", pid)
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

// playSidecar is a sidecar in a process of its own: control address, cache directory.
func playSidecar(args []string) int {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM)
	err := sidecar.Run(context.Background(), sidecar.Options{
		Controls: []string{args[0]}, Ref: versions.Ref{Spec: "customer-service", Version: "2.1.0"}, Listen: "127.0.0.1:0", LocalAPI: "127.0.0.1:0",
		Command: []string{os.Args[0], "play-agent"}, Guard: []string{os.Args[0], "play-guard"}, CacheDir: args[1],
		DrainTimeout: patience, Version: "test", Stdout: os.Stdout, Stderr: os.Stderr, Log: zap.NewNop(), Signals: signals,
		Timing: sidecar.Timing{Probe: 50 * time.Millisecond, Report: 10 * time.Millisecond},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "sidecar:", err)
		return 1
	}
	return 0
}

// spawn starts such a process.
func (r *rig) spawn() *exec.Cmd {
	r.t.Helper()
	c := exec.Command(os.Args[0], "play-sidecar", r.control.Address(), r.options.CacheDir)
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c
}

func decode[T any](t *testing.T, body string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	return v
}

// corrupt changes one byte of a file below the cache that holds this text.
func corrupt(t *testing.T, dir, text string) {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(data), text) {
			return err
		}
		found = true
		_ = os.Chmod(path, 0o600)
		return os.WriteFile(path, []byte(strings.Replace(string(data), text, strings.ToUpper(text), 1)), 0o600)
	})
	if err != nil || !found {
		t.Fatalf("nothing to damage: %v", err)
	}
}

func refused(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err == nil {
		_ = conn.Close()
	}
	return err != nil
}
