package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/gen/specproxy/operator/v1/operatorv1connect"
	"github.com/specproxy/specproxy/internal/auth"
	"github.com/specproxy/specproxy/internal/controlplane"
	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/loopback"
)

// patience bounds every wait in these tests; nothing waits that long unless it is broken.
const patience = time.Minute

// binDir holds the commands under test, built once, with the race detector if this program has it.
var binDir string

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == chaosAgent {
		fmt.Fprintln(os.Stderr, playChaosAgent(os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "e2e-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	race := false
	if info, ok := debug.ReadBuildInfo(); ok {
		race = slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
	}
	build := exec.Command("go", "build", fmt.Sprintf("-race=%t", race), "-o", dir, "../../cmd/xds", "../../cmd/specproxy", "../../cmd/specctl")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the commands:", err)
		os.Exit(1)
	}
	binDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// world is one control plane with everything that a test hangs on it.
type world struct {
	t       *testing.T
	dataDir string
	api     string // host:port
	grpc    string // host:port
	client  operatorv1connect.OperatorServiceClient
	// rollouts is the API of canaries.
	rollouts operatorv1connect.RolloutServiceClient
	plane    *plane   // in this process, or
	xds      *process // as a process of its own
	actor    string   // who types; empty: whoever runs the tests
}

type plane struct {
	stop context.CancelFunc
	done chan error
}

// startPlane runs the control plane in this process, under the race detector.
func startPlane(t *testing.T, change func(*controlplane.Options)) *world {
	t.Helper()
	w := &world{t: t, dataDir: t.TempDir()}
	listening := make(chan [2]string, 1)
	log := zap.NewNop()
	if testing.Verbose() {
		log, _ = zap.NewDevelopment()
	}
	o := controlplane.Options{DataDir: w.dataDir, API: "127.0.0.1:0", GRPC: "127.0.0.1:0", Log: log, Listening: func(api, grpc string) { listening <- [2]string{api, grpc} }}
	if change != nil {
		change(&o)
	}
	ctx, stop := context.WithCancel(context.Background())
	w.plane = &plane{stop: stop, done: make(chan error, 1)}
	go func() { w.plane.done <- controlplane.Run(ctx, o) }()
	t.Cleanup(func() {
		stop()
		if err := <-w.plane.done; err != nil {
			t.Errorf("control plane: %v", err)
		}
	})
	select {
	case at := <-listening:
		w.api, w.grpc = at[0], at[1]
	case err := <-w.plane.done:
		w.plane.done <- nil
		t.Fatalf("control plane: %v", err)
	}
	w.connect()
	return w
}

// startXDS runs bin/xds on free ports, which it finds free again when it is restarted: no client's own port is among them.
func startXDS(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dataDir: t.TempDir(), api: freeAddress(t), grpc: freeAddress(t)}
	w.restartXDS()
	w.connect()
	return w
}

// freeAddress is an address that nobody listens at but who is told to, also once that one was killed.
func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// restartXDS starts bin/xds again on the same ports and waits until it listens.
func (w *world) restartXDS() {
	w.t.Helper()
	lines := make(chan string, 1)
	w.xds = start(w.t, lines, filepath.Join(binDir, "xds"), "--data-dir", w.dataDir, "--api", w.api, "--grpc", w.grpc)
	select {
	case line := <-lines:
		var at struct{ API, GRPC string }
		if err := json.Unmarshal([]byte(line), &at); err != nil {
			w.t.Fatalf("xds printed %q: %v", line, err)
		}
		w.api, w.grpc = at.API, at.GRPC
	case <-w.xds.done:
		w.t.Fatalf("xds ended: %v\n%s", w.xds.err, w.xds.log.String())
	case <-time.After(patience):
		w.t.Fatalf("xds did not listen within %s\n%s", patience, w.xds.log.String())
	}
}

// connect makes the API client, with the admin's token from the data directory.
func (w *world) connect() {
	w.t.Helper()
	token := ""
	eventually(w.t, "the admin token", func() error {
		raw, err := os.ReadFile(filepath.Join(w.dataDir, auth.AdminTokenFile))
		token = strings.TrimSpace(string(raw))
		return err
	})
	bearer := connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			req.Header().Set("Authorization", "Bearer "+token)
			req.Header().Set(auth.ActorHeader, "tester")
			return next(ctx, req)
		}
	})
	w.client = operatorv1connect.NewOperatorServiceClient(http.DefaultClient, "http://"+w.api, connect.WithInterceptors(bearer))
	w.rollouts = operatorv1connect.NewRolloutServiceClient(http.DefaultClient, "http://"+w.api, connect.WithInterceptors(bearer))
}

// publish stores a version with a contract and no documents; manifest lines may be added.
func (w *world) publish(spec, version, inFlight string, more ...string) string {
	w.t.Helper()
	manifest := fmt.Sprintf("name: %s\nversion: %s\ninFlight:\n%s\n%s\n", spec, version, indent(inFlight), strings.Join(more, "\n"))
	res, err := w.client.Publish(w.t.Context(), connect.NewRequest(&operatorv1.PublishRequest{Files: []*operatorv1.File{{Path: "spec.yaml", Content: []byte(manifest)}}}))
	if err != nil {
		w.t.Fatalf("publish %s:%s: %v", spec, version, err)
	}
	return res.Msg.GetDigest()
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")
}

// deploy gives a version all the traffic and waits until that is effective.
func (w *world) deploy(spec, version string) *operatorv1.Change {
	w.t.Helper()
	res, err := w.client.Deploy(w.t.Context(), connect.NewRequest(&operatorv1.DeployRequest{Refs: []*operatorv1.Ref{{Spec: spec, Version: version}}}))
	if err != nil {
		w.t.Fatalf("deploy %s:%s: %v", spec, version, err)
	}
	change := res.Msg.GetChanges()[0]
	w.effective(spec, change.GetGeneration())
	return change
}

// rollback lets the control plane choose, and waits until it is effective.
func (w *world) rollback(spec string) *operatorv1.Change {
	w.t.Helper()
	res, err := w.client.Rollback(w.t.Context(), connect.NewRequest(&operatorv1.RollbackRequest{Targets: []*operatorv1.RollbackTarget{{Spec: spec}}}))
	if err != nil {
		w.t.Fatalf("roll back %s: %v", spec, err)
	}
	change := res.Msg.GetChanges()[0]
	w.effective(spec, change.GetGeneration())
	return change
}

// effective waits until a generation is proven.
func (w *world) effective(spec string, generation uint64) *operatorv1.GetEffectResponse {
	w.t.Helper()
	res, err := w.client.GetEffect(w.t.Context(), connect.NewRequest(&operatorv1.GetEffectRequest{Spec: spec, Generation: generation, Wait: durationpb.New(patience)}))
	if err != nil {
		w.t.Fatalf("effect of generation %d of %s: %v", generation, spec, err)
	}
	if !res.Msg.GetEffective() {
		w.t.Fatalf("generation %d of %s is not effective: %v", generation, spec, res.Msg)
	}
	return res.Msg
}

// closePostMortem answers a record.
func (w *world) closePostMortem(id, cause string) {
	w.t.Helper()
	w.answered(id)
	_, err := w.client.ClosePostMortem(w.t.Context(), connect.NewRequest(&operatorv1.ClosePostMortemRequest{Id: id, Cause: cause, Note: "test"}))
	if err != nil {
		w.t.Fatalf("close %s: %v", id, err)
	}
}

// answered answers every question of a record.
func (w *world) answered(id string) {
	w.t.Helper()
	w.ctl(0, nil, "postmortem", "answer", id, "--explanation", "test", "--canary", "none ran", "--conformance", "nothing was tested", "--fixed-in", "none yet",
		"--no-action", "it is a test")
}

// spec reads one spec.
func (w *world) spec(name string) *operatorv1.Spec {
	w.t.Helper()
	res, err := w.client.GetSpec(w.t.Context(), connect.NewRequest(&operatorv1.GetSpecRequest{Spec: name}))
	if err != nil {
		w.t.Fatalf("get %s: %v", name, err)
	}
	return res.Msg.GetSpec()
}

// ready waits until a version has n ready instances.
func (w *world) ready(name, version string, n uint32) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d ready instances of %s:%s", n, name, version), func() error {
		for _, v := range w.spec(name).GetVersions() {
			if v.GetVersion() == version && v.GetPool().GetReady() == n {
				return nil
			}
		}
		return fmt.Errorf("%v", w.spec(name).GetVersions())
	})
}

// sidecar starts bin/specproxy in front of an agent that runs already.
func (w *world) sidecar(ref, upstream string, more ...string) *process {
	w.t.Helper()
	return w.sidecarVia(w.grpc, ref, upstream, more...)
}

// sidecarVia reaches the control plane at another address, such as a relay's.
func (w *world) sidecarVia(control, ref, upstream string, more ...string) *process {
	w.t.Helper()
	args := []string{"--control", control, "--spec", ref, "--listen", "127.0.0.1:0", "--upstream", upstream, "--cache-dir", w.t.TempDir()}
	return start(w.t, nil, filepath.Join(binDir, "specproxy"), append(args, more...)...)
}

// envoy starts a stock Envoy with the generated bootstrap.
func (w *world) envoy(node string) *envoytest.Envoy {
	w.t.Helper()
	return w.envoyVia(w.grpc, node)
}

// envoyVia reaches the control plane at another address, such as a relay's.
func (w *world) envoyVia(control, node string) *envoytest.Envoy {
	w.t.Helper()
	return envoytest.Start(w.t, envoytest.Config{Node: node, Servers: []string{control}})
}

// specctl runs the command line and returns what it printed and its exit code.
func (w *world) specctl(args ...string) (output string, code int) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), filepath.Join(binDir, "specctl"), args...)
	// A program with the race detector sleeps for a second at its end unless told not to.
	cmd.Env = append(os.Environ(), "SPECPROXY_SERVER=http://"+w.api, "SPECPROXY_DATA_DIR="+w.dataDir, "NO_COLOR=1", "GORACE=atexit_sleep_ms=0")
	if w.actor != "" {
		cmd.Env = append(cmd.Env, "USER="+w.actor)
	}
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		w.t.Fatalf("specctl %v: %v", args, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// eventually polls a condition that no channel tells of, because it lies in another process.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("no %s within %s: %v", what, patience, err)
		}
	}
}

// process is a command under test. Its standard error is kept and shown when the test fails.
type process struct {
	cmd  *exec.Cmd
	log  *buffer
	done chan struct{}
	err  error // once done is closed
}

// start runs a command; its first line of output goes to lines, if that is given.
func start(t *testing.T, lines chan<- string, name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(name, args...), log: &buffer{}, done: make(chan struct{})}
	p.cmd.Stderr = p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		defer close(p.done)
		for scan := bufio.NewScanner(stdout); scan.Scan(); {
			if lines != nil {
				lines <- scan.Text()
				lines = nil
			}
		}
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s %v:\n%s", filepath.Base(name), args, p.log.tail())
		}
	})
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// terminate asks the process to end, and does not wait for it.
func (p *process) terminate() { _ = p.cmd.Process.Signal(syscall.SIGTERM) }

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) tail() string {
	s := b.String()
	return s[max(0, len(s)-8000):]
}
