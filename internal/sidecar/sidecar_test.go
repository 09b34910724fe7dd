package sidecar_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/sidecar/agent"
	"github.com/specproxy/specproxy/internal/sidecar/fakecontrol"
)

func fence(s *sidecarv1.State) {
	s.Fence = &sidecarv1.Fence{
		Generation: s.GetGeneration(), TargetVersion: "2.0.3", TargetPin: "pin203", Postmortem: "PM-1",
		OrderedAt: timestamppb.Now(), RetrySpread: durationpb.New(time.Second),
	}
}

func TestAgentGetsItsVerifiedVersion(t *testing.T) {
	r := newRig(t, guarded)
	r.run()
	addr := r.ready()
	res, body := fetch(t, addr, "/about")
	a := decode[aboutAgent](t, body)
	if a.Version != "customer-service:2.1.0" || a.Digest != r.version.Digest || !strings.HasPrefix(a.URL, "http://127.0.0.1:") {
		t.Errorf("the agent has %+v", a)
	}
	if len(a.Files) != 3 || a.Files["prompt.md"] != "Be kind." || a.Files["policies/refunds.md"] != "Up to $500." || !strings.Contains(a.Files["spec.yaml"], "version: 2.1.0") {
		t.Errorf("SPEC_DIR has %v", a.Files)
	}
	if len(a.Writable) > 0 {
		t.Errorf("SPEC_DIR is writable: %v", a.Writable)
	}
	if a.Headers.Get("X-Spec-Digest") != r.version.Digest || res.Header.Get("X-Spec-Pin") != "pin" {
		t.Errorf("headers %v, %v", a.Headers, res.Header)
	}
	v := r.control.Wait("totals", func(v fakecontrol.View) bool { return v.Totals.GetUnknown() == 1 })
	h := v.Hellos[0]
	self, err := agent.BinaryDigest(os.Args[0])
	if err != nil || h.GetRuntime().GetBinary() != self || h.GetDigest() != r.version.Digest || h.GetSpec() != "customer-service" ||
		h.GetVersion() != "2.1.0" || h.GetInstanceId() == "" || h.GetSidecarVersion() != "test" || h.GetStartedAt() == nil {
		t.Errorf("hello %v", h)
	}
	if want := []string{"hello", "totals", "status", "snapshot"}; !slices.Equal(v.Order[:4], want) {
		t.Errorf("the session opened with %v", v.Order[:4])
	}
	if v.Status.GetAppliedGeneration() != 1 || v.Status.GetFenced() || v.Status.GetReason() != "" {
		t.Errorf("status %v", v.Status)
	}

	r.signals <- syscall.SIGTERM
	if err := r.ended(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(a.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("SPEC_DIR is left behind: %v", err)
	}
	if !refused(addr) {
		t.Error("it still listens")
	}
}

func TestFenceIsAppliedAndAcknowledged(t *testing.T) {
	r := newRig(t, guarded)
	r.run()
	addr := r.ready()
	held := later(t, addr, "/hold")
	id := r.running(1)[0]
	r.control.SetState(fence)
	v := r.control.Wait("the fence", func(v fakecontrol.View) bool { return v.Status.GetFenced() })
	if v.Status.GetAppliedGeneration() != 2 || v.Status.GetLastAdmissionId() != id || v.Status.GetLastAdmissionAt() == nil || !v.Status.GetReady() {
		t.Errorf("status %v", v.Status)
	}
	if res := get(t, "the cut execution's answer", held); res.StatusCode != 503 || res.Header.Get("Retry-After") != "1" || res.Header.Get("X-Spec-Rollback") != "from=2.1.0, to=2.0.3, effects=none" {
		t.Errorf("got %d %v", res.StatusCode, res.Header)
	}
	if res, _ := fetch(t, addr, "/about"); res.StatusCode != 307 || res.Header.Get("X-Spec-Pin") != "pin203" {
		t.Errorf("new work got %d %v", res.StatusCode, res.Header)
	}
	v = r.control.Wait("the cancelled execution", func(v fakecontrol.View) bool { return v.Ended[id] != nil && v.Totals.GetPassedOn() == 1 })
	if x := v.Ended[id]; x.GetDisposition() != "cancel" || x.GetStatus() != 503 || x.GetEffects() != "none" || v.Totals.GetCancelled() != 1 || len(v.Running) != 0 {
		t.Errorf("execution %v, totals %v", x, v.Totals)
	}
	r.control.SetState(func(s *sidecarv1.State) { s.Fence = nil })
	r.control.Wait("the lifted fence", func(v fakecontrol.View) bool { return !v.Status.GetFenced() && v.Status.GetAppliedGeneration() == 3 })
	if res, _ := fetch(t, addr, "/about"); res.StatusCode != 200 {
		t.Errorf("after the fence was lifted new work got %d", res.StatusCode)
	}
}

// Nobody believes in executions that ended long ago.
func TestEveryReportedExecutionEnds(t *testing.T) {
	r := newRig(t, guarded)
	r.run()
	addr := r.ready()
	var held []<-chan *http.Response
	for range 5 {
		held = append(held, later(t, addr, "/hold"))
	}
	r.running(5)
	fetch(t, addr, "/release")
	for _, c := range held {
		if res := get(t, "an answer", c); res.StatusCode != 200 {
			t.Errorf("got %d", res.StatusCode)
		}
	}
	r.running(0)
}

func TestControlPlaneAwayWhileServing(t *testing.T) {
	r := newRig(t, guarded)
	r.run()
	addr := r.ready()
	r.control.Stop()
	for range 3 {
		if res, _ := fetch(t, addr, "/fail"); res.StatusCode != 200 {
			t.Fatalf("without a control plane: %d", res.StatusCode)
		}
	}
	held := later(t, addr, "/hold")
	r.control.Restart()
	v := r.control.Wait("what happened meanwhile", func(v fakecontrol.View) bool {
		return len(v.Ended) == 3 && len(v.Running) == 1 && v.Totals.GetFailed() == 3
	})
	if len(v.Hellos) != 2 || v.Hellos[0].GetInstanceId() != v.Hellos[1].GetInstanceId() {
		t.Errorf("hellos %v", v.Hellos)
	}
	if want := []string{"hello", "totals", "status", "snapshot"}; !slices.Equal(v.Order[:4], want) {
		t.Errorf("the second session opened with %v", v.Order)
	}
	for _, x := range v.Ended {
		if x.GetOutcome() != "failure" || x.GetOutcomeReason() != "no" || x.GetEndedAt() == nil {
			t.Errorf("execution %v", x)
		}
	}
	fetch(t, addr, "/release")
	get(t, "the answer", held)
	r.running(0)
}

// What was sent over a connection that broke soon after may not have arrived.
func TestUnconfirmedReportsAreRepeated(t *testing.T) {
	r := newRig(t, guarded)
	r.options.Timing.Confirm = time.Hour
	r.run()
	addr := r.ready()
	fetch(t, addr, "/fail")
	v := r.control.Wait("the report", func(v fakecontrol.View) bool { return len(v.Ended) == 1 })
	for id := range v.Ended {
		r.control.Stop()
		r.control.Restart()
		r.control.Wait("the repeated report", func(v fakecontrol.View) bool { return v.Reports[id] >= 2 })
	}
}

func TestStartsFromItsCopyWhileTheControlPlaneIsAway(t *testing.T) {
	r := newRig(t, guarded)
	r.run()
	r.ready()
	r.control.SetState(fence)
	r.control.Wait("the fence", func(v fakecontrol.View) bool { return v.Status.GetFenced() })
	r.signals <- syscall.SIGTERM
	if err := r.ended(); err != nil {
		t.Fatal(err)
	}
	r.control.Stop()

	again := *r
	again.options.Listen = freeAddress(t)
	again.options.StateDir = filepath.Join(r.options.CacheDir, "state", "customer-service", "2.1.0", "slot-0")
	again.run()
	await(t, again.options.Listen)
	res, _ := fetch(t, again.options.Listen, "/about") // the fence survived: it was on disk before it was acknowledged
	for res.StatusCode == http.StatusServiceUnavailable {
		res, _ = fetch(t, again.options.Listen, "/about") // the last known state does not count before the control plane was given its time
	}
	if res.StatusCode != 307 || res.Header.Get("X-Spec-Pin") != "pin203" {
		t.Errorf("got %d %v", res.StatusCode, res.Header)
	}
	again.control.Restart()
	v := again.control.Wait("the sidecar", func(v fakecontrol.View) bool { return v.Connected == 1 && v.Status.GetReady() })
	if !v.Status.GetFenced() {
		t.Errorf("status %v", v.Status)
	}
}

func TestWithoutCopyOrControlPlaneNothingStarts(t *testing.T) {
	r := newRig(t, guarded)
	r.control.Stop()
	r.run()
	if err := r.ended(); err == nil || !strings.Contains(err.Error(), "no local copy") || !strings.Contains(err.Error(), r.control.Address()) || !strings.Contains(err.Error(), "--control") {
		t.Errorf("got %v", err)
	}
}

func TestUnknownVersionIsRefused(t *testing.T) {
	r := newRig(t, guarded)
	r.options.Ref.Version = "9.9.9"
	r.run()
	if err := r.ended(); err == nil || !strings.Contains(err.Error(), "customer-service:9.9.9 is not published") {
		t.Errorf("got %v", err)
	}
}

func TestDamagedPullStartsNoAgent(t *testing.T) {
	for _, path := range []string{"prompt.md", "spec.yaml", "manifest"} {
		t.Run(path, func(t *testing.T) {
			r := newRig(t, guarded)
			marker := filepath.Join(t.TempDir(), "started")
			r.options.Command = []string{"touch", marker}
			r.control.Damage(path, func(b []byte) []byte { b[0] ^= 1; return b })
			r.run()
			err := r.ended()
			if err == nil || !strings.Contains(err.Error(), "damaged") || strings.Count(err.Error(), "sha256:") < 2 || !strings.Contains(err.Error(), "specctl publish") {
				t.Errorf("got %v", err)
			}
			if path != "manifest" && !strings.Contains(err.Error(), path) {
				t.Errorf("the document is not named: %v", err)
			}
			if _, err := os.Stat(marker); err == nil {
				t.Error("the agent was started")
			}
		})
	}
}

func TestDamagedCopyIsFetchedAgainOrRefused(t *testing.T) {
	r := newRig(t, guarded)
	r.run()
	r.ready()
	r.signals <- syscall.SIGTERM
	if err := r.ended(); err != nil {
		t.Fatal(err)
	}
	copies := filepath.Join(r.options.CacheDir, "specs")
	corrupt(t, copies, "Be kind.")

	r.control.Stop()
	r.run()
	if err := r.ended(); err == nil || !strings.Contains(err.Error(), `"prompt.md"`) || strings.Count(err.Error(), "sha256:") < 2 || !strings.Contains(err.Error(), "away") {
		t.Errorf("got %v", err)
	}

	r.control.Restart()
	r.run()
	addr := r.ready()
	if _, body := fetch(t, addr, "/about"); decode[aboutAgent](t, body).Files["prompt.md"] != "Be kind." {
		t.Error("the agent has the damaged document")
	}
}

func TestRuntimeThatIsNotTheManifestsIsNeverReady(t *testing.T) {
	r := newRig(t, strings.Replace(guarded, "inFlight:", "runtime: {model: m-7}\ninFlight:", 1))
	r.options.Runtime = r.version.Manifest.Runtime
	r.options.Runtime.Model = "m-8"
	r.run()
	v := r.control.Wait("a status", func(v fakecontrol.View) bool {
		return v.Status.GetReason() != "" && v.Status.GetAppliedGeneration() == 1
	})
	if v.Status.GetReady() || !strings.Contains(v.Status.GetReason(), `"m-7"`) || !strings.Contains(v.Status.GetReason(), `"m-8"`) {
		t.Errorf("status %v", v.Status)
	}
}

func TestEveryReplicaIsToldAndTheNewestStateWins(t *testing.T) {
	r := newRig(t, guarded)
	second := fakecontrol.Start(t)
	second.Publish(files(guarded))
	r.options.Controls = append(r.options.Controls, second.Address())
	r.run()
	addr := r.ready()
	second.Wait("the sidecar", func(v fakecontrol.View) bool { return v.Status.GetReady() })
	r.control.SetState(func(s *sidecarv1.State) { s.Generation = 10; fence(s) })
	second.Wait("the fence", func(v fakecontrol.View) bool { return v.Status.GetFenced() && v.Status.GetAppliedGeneration() == 10 })
	second.SetState(func(s *sidecarv1.State) { s.Generation = 9 }) // a replica that is behind
	second.SetState(func(s *sidecarv1.State) { s.Generation = 11; fence(s); s.Fence.TargetPin = "pin11" })
	second.Wait("the newest", func(v fakecontrol.View) bool { return v.Status.GetAppliedGeneration() == 11 })
	if res, _ := fetch(t, addr, "/about"); res.Header.Get("X-Spec-Pin") != "pin11" {
		t.Errorf("got %v", res.Header)
	}
	for _, c := range []*fakecontrol.Control{r.control, second} {
		c.Wait("totals", func(v fakecontrol.View) bool { return v.Totals.GetPassedOn() == 1 })
	}
}

func TestGrantSurvivesSIGKILLAndLeavesNoOrphan(t *testing.T) {
	r := newRig(t, guarded)
	first := r.spawn()
	addr := r.ready()
	_, body := fetch(t, addr, "/spawn")
	pids := decode[[]int](t, body)

	res, err := client.Do(request(t, addr, "/act?stay=1"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if line, _ := bufio.NewReader(res.Body).ReadString('\n'); res.StatusCode != 200 || !strings.Contains(line, `"granted":true`) {
		t.Fatalf("the act was answered %d %q", res.StatusCode, line)
	}
	id := res.Header.Get("X-Execution-Id")
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	for _, pid := range pids { // the agent and what it had started
		dead(t, pid)
	}

	second := r.spawn()
	v := r.control.Wait("the dead execution", func(v fakecontrol.View) bool { return v.Ended[id] != nil })
	x, told := v.Ended[id], v.Reports[id]
	if x.GetOutcome() != "failure" || x.GetOutcomeReason() != "sidecar died" || x.GetEffects() != "irreversible" || len(x.GetActs()) != 1 ||
		x.GetActs()[0].GetKey() != "r-1" || x.GetPath() != "/act" {
		t.Errorf("execution %v", x)
	}
	r.control.Wait("the second sidecar", func(v fakecontrol.View) bool { return len(v.Hellos) == 2 && v.Status.GetReady() })
	if err := second.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(); err != nil {
		t.Error(err)
	}
	// It was told, so it is not told again.
	r.spawn()
	v = r.control.Wait("the third sidecar", func(v fakecontrol.View) bool { return len(v.Hellos) == 3 && v.Status.GetReady() })
	if v.Reports[id] != told {
		t.Errorf("the dead execution was reported %d times more", v.Reports[id]-told)
	}
}

func TestGrantedAndEndedIsNotReportedAsDead(t *testing.T) {
	r := newRig(t, guarded)
	first := r.spawn()
	addr := r.ready()
	if res, body := fetch(t, addr, "/act"); res.StatusCode != 200 || !strings.Contains(body, `"granted":true`) {
		t.Fatalf("the act was answered %d %q", res.StatusCode, body)
	}
	r.control.Wait("the end", func(v fakecontrol.View) bool { return v.Totals.GetUnknown() == 1 })
	_ = first.Process.Kill()
	_ = first.Wait()
	r.spawn()
	v := r.control.Wait("the second sidecar", func(v fakecontrol.View) bool { return len(v.Hellos) == 2 && v.Status.GetReady() })
	for _, x := range v.Ended {
		if x.GetOutcome() != "" {
			t.Errorf("reported: %v", x)
		}
	}
}

func TestAgentThatEndsTakesTheSidecarWithIt(t *testing.T) {
	r := newRig(t, guarded)
	r.run()
	addr := r.ready()
	_, body := fetch(t, addr, "/spawn")
	pids := decode[[]int](t, body)
	if res, _ := fetch(t, addr, "/exit?code=7"); res.StatusCode != http.StatusBadGateway {
		t.Errorf("the request that ended the agent got %d", res.StatusCode)
	}
	var exit *agent.ExitError
	if err := r.ended(); !errors.As(err, &exit) || exit.Code() != 7 {
		t.Errorf("got %v", err)
	}
	v := r.control.Wait("the end", func(v fakecontrol.View) bool { return v.Connected == 0 })
	failed := 0
	for _, x := range v.Ended {
		if x.GetOutcome() == "failure" && x.GetPath() == "/exit" && x.GetStatus() == http.StatusBadGateway {
			failed++
		}
	}
	if v.Status.GetReady() || !v.Status.GetLeaving() || failed != 1 {
		t.Errorf("status %v, ended %v", v.Status, v.Ended)
	}
	dead(t, pids[1])
}

func TestSignalsReachTheAgent(t *testing.T) {
	r := newRig(t, guarded)
	r.run()
	addr := r.ready()
	for i, sig := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGHUP, syscall.SIGUSR2} {
		r.signals <- sig
		_, body := fetch(t, addr, "/signals")
		if got := decode[[]string](t, body); len(got) != i+1 || got[i] != sig.String() {
			t.Errorf("the agent got %v", got)
		}
	}
}

func TestLeavingLetsExecutionsEnd(t *testing.T) {
	r := newRig(t, guarded)
	r.control.HoldLeft()
	r.options.Timing.Leave = 50 * time.Millisecond
	r.run()
	addr := r.ready()
	held := later(t, addr, "/hold")
	r.running(1)
	r.signals <- syscall.SIGTERM
	r.control.Wait("leaving", func(v fakecontrol.View) bool { return v.Status.GetLeaving() })
	if res, _ := fetch(t, addr, "/about"); res.StatusCode != 200 { // nothing is refused meanwhile
		t.Errorf("while leaving new work got %d", res.StatusCode)
	}
	fetch(t, addr, "/release")
	if res := get(t, "the answer", held); res.StatusCode != 200 {
		t.Errorf("got %d", res.StatusCode)
	}
	if err := r.ended(); err != nil {
		t.Error(err)
	}
	if v := r.control.Wait("the last totals", func(v fakecontrol.View) bool { return v.Connected == 0 }); v.Totals.GetInFlight() != 0 || len(v.Running) != 0 {
		t.Errorf("totals %v, running %v", v.Totals, v.Running)
	}
}

// TestNothingIsSettledOrCutBeforeTheProxiesHaveLetGo: the drain timeout begins only then.
func TestNothingIsSettledOrCutBeforeTheProxiesHaveLetGo(t *testing.T) {
	r := newRig(t, guarded)
	r.control.HoldLeft()
	r.options.Timing.Leave, r.options.DrainTimeout = patience, 50*time.Millisecond
	r.run()
	addr := r.ready()
	held := later(t, addr, "/hold")
	r.running(1)
	r.signals <- syscall.SIGTERM
	r.control.Wait("leaving", func(v fakecontrol.View) bool { return v.Status.GetLeaving() })
	for end := time.Now().Add(4 * r.options.DrainTimeout); time.Now().Before(end); {
		if res, _ := fetch(t, addr, "/about"); res.StatusCode != http.StatusOK {
			t.Fatalf("while proxies still send, new work got %d", res.StatusCode)
		}
	}
	if v := r.control.Wait("status", func(v fakecontrol.View) bool { return v.Status != nil }); v.Status.GetSettled() {
		t.Error("it settles before the proxies have let go")
	}
	select {
	case res := <-held:
		t.Errorf("what ran was cut before the proxies have let go: %d", res.StatusCode)
		return
	default:
	}
	r.control.LetGo()
	if res := get(t, "the answer", held); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after the drain timeout: %d", res.StatusCode)
	}
	if err := r.ended(); err != nil {
		t.Error(err)
	}
}

func TestDrainTimeoutCutsWithTheRetrySignal(t *testing.T) {
	for name, hurry := range map[string]bool{"timeout": false, "second signal": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, guarded)
			if !hurry {
				r.options.DrainTimeout = 50 * time.Millisecond
			}
			r.run()
			addr := r.ready()
			held := later(t, addr, "/hold")
			r.running(1)
			r.signals <- syscall.SIGTERM
			if hurry {
				r.control.Wait("leaving", func(v fakecontrol.View) bool { return v.Status.GetLeaving() })
				r.signals <- syscall.SIGINT
			}
			res := get(t, "the answer", held)
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != 503 || res.Header.Get("X-Should-Retry") != "true" || !strings.Contains(string(body), "INSTANCE_LEAVING") {
				t.Errorf("got %d %v %s", res.StatusCode, res.Header, body)
			}
			if err := r.ended(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestUpstreamThatSomethingElseStarts(t *testing.T) {
	r := newRig(t, guarded)
	r.options.Command, r.options.Upstream = nil, "http://"+freeAddress(t)
	r.run()
	v := r.control.Wait("the reason", func(v fakecontrol.View) bool { return v.Status.GetAppliedGeneration() == 1 })
	if v.Status.GetReady() || !strings.Contains(v.Status.GetReason(), r.options.Upstream) {
		t.Errorf("status %v", v.Status)
	}
	stop := serveAt(t, strings.TrimPrefix(r.options.Upstream, "http://"))
	addr := r.ready()
	if res, body := fetch(t, addr, "/"); res.StatusCode != 200 || body != "upstream" {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
	stop()
	r.control.Wait("unreadiness", func(v fakecontrol.View) bool { return !v.Status.GetReady() && v.Status.GetReason() != "" })
}

func TestAgentOnAUnixSocket(t *testing.T) {
	r := newRig(t, guarded)
	path := filepath.Join(t.TempDir(), "agent.sock")
	r.options.Command, r.options.Upstream = nil, "unix:"+path
	serveOn(t, "unix", path)
	r.run()
	if res, body := fetch(t, r.ready(), "/"); res.StatusCode != 200 || body != "upstream" {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
}

func TestStateDirectoryBelongsToOneSidecar(t *testing.T) {
	r := newRig(t, guarded)
	r.options.StateDir = t.TempDir()
	r.run()
	r.ready()
	second := *r
	second.run()
	if err := second.ended(); err == nil || !strings.Contains(err.Error(), "--state-dir") {
		t.Errorf("got %v", err)
	}
}

func TestSidecarsWithPortZeroShareTheCache(t *testing.T) {
	r := newRig(t, guarded)
	r.run()
	second := *r
	second.run()
	r.control.Wait("both", func(v fakecontrol.View) bool {
		return v.Connected == 2 && len(v.Hellos) == 2 && v.Hellos[0].GetInstanceId() != v.Hellos[1].GetInstanceId()
	})
}

// A replica that takes connections and says nothing holds up neither the start nor the others.
func TestASilentReplicaHoldsNothingUp(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() }) // the kernel accepts; nobody answers
	r := newRig(t, guarded)
	r.options.Controls = append(r.options.Controls, silent.Addr().String())
	r.run()
	addr := r.ready()
	r.control.SetState(fence)
	r.control.Wait("the fence", func(v fakecontrol.View) bool { return v.Status.GetFenced() })
	if res, _ := fetch(t, addr, "/about"); res.StatusCode != 307 {
		t.Errorf("got %d", res.StatusCode)
	}
	r.signals <- syscall.SIGTERM
	if err := r.ended(); err != nil {
		t.Error(err)
	}
}
