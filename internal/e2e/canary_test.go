package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/postmortem"
)

const canaryContract = "default: {onRollback: complete, within: 1m, then: cancel}"

// failing is an agent of which every n-th execution fails; 0: none does.
func failing(t *testing.T, every int64) *httptest.Server {
	t.Helper()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		outcome := "success"
		if every > 0 && n.Add(1)%every == 0 {
			outcome = `failure; reason="policy: refused what it should pay"`
		}
		w.Header().Set("X-Spec-Outcome", outcome)
		fmt.Fprintln(w, "done")
	}))
	t.Cleanup(s.Close)
	return s
}

// knock sends requests through an Envoy, a few at a time, until the test ends or the function that it returns is called.
func knock(t *testing.T, envoy, host string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+envoy+"/refund", strings.NewReader("42"))
				if err != nil {
					return
				}
				req.Host = host
				if res, err := http.DefaultClient.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

func (w *world) startRollout(spec, version string, plan *operatorv1.RolloutPlan) {
	w.t.Helper()
	res, err := w.rollouts.StartRollout(w.t.Context(), connect.NewRequest(&operatorv1.StartRolloutRequest{Spec: spec, Version: version, Plan: plan}))
	if err != nil {
		w.t.Fatalf("start the rollout of %s:%s: %v", spec, version, err)
	}
	w.effective(spec, res.Msg.GetChange().GetGeneration())
}

// phase waits until the spec's rollout is in a phase.
func (w *world) phase(spec, phase string) *operatorv1.Rollout {
	w.t.Helper()
	var r *operatorv1.Rollout
	eventually(w.t, "rollout that is "+phase, func() error {
		res, err := w.rollouts.GetRollout(w.t.Context(), connect.NewRequest(&operatorv1.GetRolloutRequest{Spec: spec}))
		if err != nil {
			return err
		}
		if r = res.Msg.GetRollout(); r.GetPhase() != phase {
			return fmt.Errorf("%s: %s; %v", r.GetPhase(), r.GetWhy(), r.GetVerdict())
		}
		return nil
	})
	return r
}

// canaries runs a stable version and others beside it, and sends traffic.
func canaries(t *testing.T, w *world, agents map[string]int64) (stop func()) {
	t.Helper()
	for _, version := range []string{"1.0.0", "1.1.0", "1.2.0"} {
		every, ok := agents[version]
		if !ok {
			continue
		}
		w.publish("refunds", version, canaryContract)
		w.sidecar("refunds:"+version, failing(t, every).URL)
	}
	for version := range agents {
		w.ready("refunds", version, 1)
	}
	w.deploy("refunds", "1.0.0")
	stop = knock(t, w.envoy("edge").Address, "refunds.agents")
	eventually(t, "outcomes of the stable version", func() error {
		for _, v := range w.spec("refunds").GetVersions() {
			if v.GetVersion() == "1.0.0" && v.GetPool().GetSucceeded() > 100 {
				return nil
			}
		}
		return fmt.Errorf("%v", w.spec("refunds").GetVersions())
	})
	return stop
}

// A canary that fails more often is stopped by itself, by the road of a manual rollback, and the record says on what evidence.
func TestABadCanaryIsStoppedByItself(t *testing.T) {
	w := startPlane(t, nil)
	stop := canaries(t, w, map[string]int64{"1.0.0": 50, "1.1.0": 3})
	w.startRollout("refunds", "1.1.0", &operatorv1.RolloutPlan{Steps: []*operatorv1.RolloutStep{{Weight: 1000, Until: "manual"}, {Weight: 10000, Until: "evidence"}}})
	r := w.phase("refunds", "aborted")
	stop()
	if r.GetVerdict().GetResult() != "fail" || !strings.Contains(r.GetWhy(), "the canary fails more often than the stable version") || len(r.GetEvents()) == 0 {
		t.Errorf("it was stopped because of %q: %v", r.GetWhy(), r.GetVerdict())
	}
	spec := w.spec("refunds")
	for _, v := range spec.GetVersions() {
		if want := map[string]string{"1.0.0": "candidate", "1.1.0": "quarantined"}[v.GetVersion()]; v.GetStanding() != want && v.GetStanding() != "good" {
			t.Errorf("%s is %s, want %s", v.GetVersion(), v.GetStanding(), want)
		}
		if v.GetVersion() == "1.0.0" && v.GetWeight() != 10000 {
			t.Errorf("the stable version has %d basis points", v.GetWeight())
		}
	}
	w.effective("refunds", spec.GetGeneration())
	out, code := w.specctl("postmortem", "show", "PM-1")
	if code != 0 || !strings.Contains(out, "It rolled back by itself. Verdict: **fail**") {
		t.Errorf("the record does not say why (exit %d):\n%s", code, out)
	}
	if out, code := w.specctl("canary", "status", "refunds"); code != 0 || !strings.Contains(out, "aborted") || !strings.Contains(out, "10% set") && !strings.Contains(out, "0% set") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	// It is over: nothing can be done to it, and the version does not come back by itself.
	if out, code := w.specctl("canary", "resume", "refunds"); code != 1 || !strings.Contains(out, "is aborted: it cannot resume") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	// Nobody asks for it: the evidence is gathered by itself, with what the proxy acknowledged and when.
	var rb postmortem.Rollback
	eventually(t, "evidence", func() error {
		if rb = w.record("PM-1").Rollbacks[0]; rb.Evidence == nil {
			return errors.New("none is gathered yet")
		}
		return nil
	})
	e := rb.Evidence
	if e.Final || len(e.Proxies) != 1 || e.Proxies[0].Node != "edge" || e.Proxies[0].At.Before(rb.CommittedAt) || e.Proxies[0].Generation < rb.Generation {
		t.Errorf("gathered by itself, final: %v; acknowledged: %+v", e.Final, e.Proxies)
	}
	if len(e.Series) != 2 || len(e.Series[1].Points) < 2 || len(e.Failing) == 0 || len(e.Sources) == 0 {
		t.Errorf("the evidence has %d series, %d failing executions, %d sources", len(e.Series), len(e.Failing), len(e.Sources))
	}
	if out := w.ctl(0, []string{"### What the canary saw", "**The canary caught it**"}, "postmortem", "show", "PM-1"); strings.Contains(out, "### Why the canary did not catch it") {
		t.Errorf("the record says that the canary did not catch what it caught:\n%s", out)
	}
	w.recomputed("PM-1")
}

// recomputed exports a record, has a script compute every figure of it again, and holds it against the published schema. It returns the folder.
func (w *world) recomputed(id string, flags ...string) string {
	w.t.Helper()
	dir := w.t.TempDir()
	w.ctl(0, nil, append([]string{"postmortem", "export", id, "--out", dir}, flags...)...)
	if out, err := exec.CommandContext(w.t.Context(), "python3", "../../docs/examples/recompute.py", filepath.Join(dir, id)).CombinedOutput(); err != nil {
		w.t.Errorf("recompute: %v: %s", err, out)
	}
	schema, err := jsonschema.NewCompiler().Compile("../postmortem/record.schema.json")
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, id+".json"))
	if err != nil {
		w.t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := schema.Validate(document); err != nil {
		w.t.Errorf("%s.json: %v", id, err)
	}
	return dir
}

// A good canary gets all the traffic by evidence, across a restart of the control plane, which changes no number.
func TestAGoodCanaryIsPromotedAcrossARestart(t *testing.T) {
	w := startXDS(t)
	canaries(t, w, map[string]int64{"1.0.0": 50, "1.1.0": 50})
	plan := &operatorv1.RolloutPlan{
		Steps:   []*operatorv1.RolloutStep{{Weight: 2000, Until: "evidence"}, {Weight: 5000, Until: "manual"}, {Weight: 6000, Until: "evidence"}},
		PMax:    0.2,
		Alpha:   0.01,
		BakeFor: durationpb.New(2 * time.Second), BakeControl: 500,
	}
	w.startRollout("refunds", "1.1.0", plan)
	eventually(t, "second step", func() error {
		if r := w.phase("refunds", "stepping"); r.GetStep() != 2 {
			return fmt.Errorf("step %d: %s", r.GetStep(), r.GetVerdict().GetReason())
		}
		return nil
	})
	if out, code := w.specctl("canary", "pause", "refunds", "--reason", "a look"); code != 0 || !strings.Contains(out, "paused") {
		t.Fatalf("exit %d:\n%s", code, out)
	}
	before := w.phase("refunds", "paused")
	w.xds.terminate()
	<-w.xds.done
	w.restartXDS()
	after := w.phase("refunds", "paused")
	m, n := before.GetVerdict().GetMetrics()[0], after.GetVerdict().GetMetrics()[0]
	if n.GetCanaryEnded() < m.GetCanaryEnded() || n.GetStableEnded() < m.GetStableEnded() || n.GetCanaryFailed() < m.GetCanaryFailed() {
		t.Errorf("a restart lost evidence: before %v, after %v", m, n)
	}
	if out, code := w.specctl("canary", "promote", "refunds"); code != 0 {
		t.Fatalf("exit %d:\n%s", code, out)
	}
	r := w.phase("refunds", "promoted")
	if r.GetVerdict().GetBroken() || r.GetWeight() != 10000 {
		t.Errorf("promoted with %v at %d", r.GetVerdict(), r.GetWeight())
	}
	for _, v := range w.spec("refunds").GetVersions() {
		if v.GetVersion() == "1.1.0" && v.GetWeight() != 10000 {
			t.Errorf("it has %d basis points", v.GetWeight())
		}
	}
	if r.GetVerdict().GetMetrics()[0].GetBound() >= 0.2 {
		t.Errorf("promoted with a failure rate proven below %v only", r.GetVerdict().GetMetrics()[0].GetBound())
	}
}

// A person's rollback ends a rollout in any state, other changes take it over, and what makes no sense is refused with what to do.
func TestRolloutsGiveWay(t *testing.T) {
	w := startPlane(t, nil)
	canaries(t, w, map[string]int64{"1.0.0": 0, "1.1.0": 0, "1.2.0": 0})
	manual := &operatorv1.RolloutPlan{Steps: []*operatorv1.RolloutStep{{Weight: 1000, Until: "manual"}}}
	w.startRollout("refunds", "1.1.0", manual)
	refused := func(want string, args ...string) {
		t.Helper()
		if out, code := w.specctl(args...); code != 1 || !strings.Contains(out, want) {
			t.Errorf("specctl %v: exit %d, does not say %q:\n%s", args, code, want, out)
		}
	}
	refused("a rollout of refunds:1.1.0 is under way", "deploy", "refunds:1.2.0", "--canary", "--impossible")
	if out, code := w.specctl("deploy", "refunds:1.1.0", "--canary", "--impossible"); code != 0 || !strings.Contains(out, "it goes on by itself") {
		t.Errorf("the same again: exit %d\n%s", code, out)
	}
	if out, code := w.specctl("get", "refunds"); code != 0 || !strings.Contains(out, "canary refunds:1.1.0 against 1.0.0: stepping") || !strings.Contains(out, "10% set") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	eventually(t, "actual share", func() error {
		if c := w.spec("refunds").GetCanary(); c.GetVersion() != "1.1.0" || c.GetWeight() != 1000 || c.Share == nil || c.GetShare() <= 0 || c.GetShare() >= 0.5 {
			return fmt.Errorf("%v", c)
		}
		return nil
	})
	w.rollback("refunds")
	if r := w.phase("refunds", "aborted"); !strings.Contains(r.GetWhy(), "rolled back by") {
		t.Errorf("why: %s", r.GetWhy())
	}
	w.startRollout("refunds", "1.2.0", manual)
	if out, code := w.specctl("weights", "refunds", "1.0.0=80", "1.2.0=20"); code != 0 {
		t.Fatalf("exit %d:\n%s", code, out)
	}
	w.phase("refunds", "superseded")
	refused("is older than 1.2.0", "plan", "refunds:1.0.0")
	if out, code := w.specctl("plan", "refunds:1.2.0"); code != 0 || !strings.Contains(out, "step 4") || !strings.Contains(out, "SEES 2X") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if out, code := w.specctl("plan", "refunds:1.2.0", "--canary=bold"); code != 2 || !strings.Contains(out, "there are careful") {
		t.Errorf("exit %d:\n%s", code, out)
	}
}
