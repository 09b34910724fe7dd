package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// A version whose manifest has a plan gets its traffic by it when it is deployed, several in one transaction too. A deploy may name another plan, and
// the rollout says so; what has nothing to be compared with, and a return to an older version, follow none.
func TestManifestsHavePlans(t *testing.T) {
	w := startPlane(t, nil)
	const plan = "rollout: {preset: careful, steps: [{weight: 2.5%, until: manual}, {weight: 40%, until: evidence}]}"
	for _, spec := range []string{"refunds", "orders"} {
		for _, version := range []string{"1.0.0", "1.1.0", "1.2.0"} {
			w.publish(spec, version, canaryContract, plan)
		}
	}
	said := func(want string, args ...string) {
		t.Helper()
		out, code := w.specctl(args...)
		if code != 0 && code != 3 || !strings.Contains(out, want) { // 3: no proxy is there to prove an effect
			t.Errorf("specctl %v: exit %d, does not say %q:\n%s", args, code, want, out)
		}
	}
	const quick = "--timeout=1ms"
	// There is no proxy at which anything could be rehearsed.
	const blind, why = "--no-rehearsal", "--reason=a test"
	said("no version to compare it with", "deploy", "refunds:1.0.0", "orders:1.0.0", "--now", quick)
	if out, code := w.specctl("deploy", "refunds:1.1.0", "--now"); code != 1 || !strings.Contains(out, "the plan of its manifest would not come to its end by itself") || !strings.Contains(out, "--at-once") {
		t.Errorf("without traffic: exit %d\n%s", code, out)
	}
	const planned = "careful: 2.5%, 40% (the plan of its manifest)"
	said(planned, "deploy", "refunds:1.1.0", "--now", "--impossible", "--dry-run")
	said(planned, "deploy", "refunds:1.1.0", "orders:1.1.0", "--now", "--impossible", blind, why, quick)
	for _, spec := range []string{"refunds", "orders"} {
		if r := w.phase(spec, "stepping"); r.GetCanary() != "1.1.0" || r.GetWeight() != 250 || r.GetOrigin() != "its manifest" {
			t.Errorf("%v", r)
		}
	}
	said(planned, "deploy", "refunds:1.1.0", "--impossible", quick)
	said("chosen by its manifest", "canary", "status", "refunds")
	// An older version is a rollback: no plan, and the rollout ends.
	said("rollback", "deploy", "refunds:1.0.0", "--now", quick)
	w.phase("refunds", "aborted")
	// Another plan goes before the manifest's.
	said("fast: 10%, 50%, bake 10m (the plan of the deploy, in place of its manifest's)", "deploy", "refunds:1.2.0", "--canary=fast", "--now", "--impossible", blind, why, quick)
	// At once takes the rollout over.
	said("1.2.0=100", "deploy", "refunds:1.2.0", "--at-once", "--now", quick)
	w.phase("refunds", "superseded")
	said("1.2.0=100", "deploy", "refunds:1.2.0", quick) // it has it all
	w.phase("refunds", "superseded")
	// What keeps a rollout from going on is said where people look: nobody runs this version, and its gate is open.
	w.publish("bills", "1.0.0", canaryContract)
	w.publish("bills", "1.1.0", canaryContract, "rollout: {steps: [{weight: 5%, until: manual, gates: [{name: sign-off, manual: true}]}]}")
	said("deploy", "deploy", "bills:1.0.0", "--now", quick)
	said("no traffic was moved now", "deploy", "bills:1.1.0", "--now", "--impossible", blind, why, quick)
	said("open, by admin", "canary", "approve", "bills")
	eventually(t, "reason", func() error {
		if r := w.phase("bills", "gated"); !strings.Contains(r.GetWhy(), "it cannot go on: bills:1.1.0 has no ready instance") {
			return fmt.Errorf("%s", r.GetWhy())
		}
		return nil
	})
	if out, code := w.specctl("deploy", "refunds:1.2.0", "--at-once", "--canary"); code != 2 || !strings.Contains(out, "the opposite") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// What becomes of a canary that has failed is in its plan: people are waited for, for ever or for a while.
func TestFailedCanariesWaitForPeople(t *testing.T) {
	w := startPlane(t, nil)
	canaries(t, w, map[string]int64{"1.0.0": 0, "1.1.0": 2, "1.2.0": 2})
	plan := func(rollback string, within time.Duration) *operatorv1.RolloutPlan {
		return &operatorv1.RolloutPlan{
			Steps: []*operatorv1.RolloutStep{{Weight: 2000, Until: "manual"}, {Weight: 10000, Until: "evidence"}}, MaxHarmed: -1,
			Rollback: rollback, AckWithin: durationpb.New(within),
		}
	}
	w.startRollout("refunds", "1.1.0", plan("manual", 0))
	r := w.phase("refunds", "failed")
	if r.GetWeight() != 2000 || r.GetAckBy() != nil || r.GetVerdict().GetResult() != "fail" {
		t.Errorf("it does not wait: %v", r)
	}
	if out, code := w.specctl("canary", "ack", "refunds", "--reason", "known fault"); code != 0 || !strings.Contains(out, "paused") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if out, code := w.specctl("canary", "resume", "refunds"); code != 0 || !strings.Contains(out, "stepping") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if r := w.phase("refunds", "stepping"); r.GetVerdict().GetResult() != "fail" {
		t.Errorf("an acknowledgement changed the verdict: %v", r.GetVerdict())
	}
	if out, code := w.specctl("canary", "abort", "refunds"); code != 0 || !strings.Contains(out, "aborted") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	w.startRollout("refunds", "1.2.0", plan("auto-unless-acked-in", time.Second))
	r = w.phase("refunds", "aborted")
	if !strings.Contains(r.GetWhy(), "nobody acknowledged the failure: outcome: the canary fails more often") {
		t.Errorf("why: %s", r.GetWhy())
	}
	waited := false
	for _, h := range r.GetHistory() {
		waited = waited || h.GetPhase() == "failed"
	}
	if out, code := w.specctl("postmortem", "show", "PM-2"); !waited || code != 0 || !strings.Contains(out, "It rolled back by itself") {
		t.Errorf("it waited: %t, exit %d:\n%s", waited, code, out)
	}
}

// Slow executions of a canary stop it although all of them succeed: latency is a yes or no of every execution, and the same test serves.
func TestASlowCanaryIsStopped(t *testing.T) {
	w := startPlane(t, nil)
	canaries(t, w, map[string]int64{"1.0.0": 0})
	w.publish("refunds", "1.1.0", canaryContract)
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select { // what takes long, and no more than that
		case <-time.After(3 * time.Second):
		case <-r.Context().Done():
		}
		w.Header().Set("X-Spec-Outcome", "success")
		fmt.Fprintln(w, "done")
	}))
	t.Cleanup(slow.Close)
	w.sidecar("refunds:1.1.0", slow.URL)
	w.ready("refunds", "1.1.0", 1)
	w.startRollout("refunds", "1.1.0", &operatorv1.RolloutPlan{
		Steps: []*operatorv1.RolloutStep{{Weight: 500, Until: "manual"}}, Metrics: []*operatorv1.RolloutMetric{{Name: "latency", SlowerThan: durationpb.New(2 * time.Second)}},
	})
	r := w.phase("refunds", "aborted")
	if !strings.Contains(r.GetWhy(), "latency: the canary fails more often") {
		t.Errorf("why: %s", r.GetWhy())
	}
	if m := r.GetVerdict().GetMetrics(); m[0].GetCanaryFailed() != 0 || m[1].GetCanaryFailed() == 0 || m[1].GetCanaryEnded() < m[1].GetCanaryFailed() || m[1].GetStableEnded() == 0 {
		t.Errorf("%v", m)
	}
}

// Blue-green is a plan of one step: all the traffic at once with the stable version warm beside it, promoted on evidence, one command from the way
// back, and taken back by itself when it turns out bad.
func TestBlueGreenIsAPlanOfOneStep(t *testing.T) {
	w := startPlane(t, nil)
	canaries(t, w, map[string]int64{"1.0.0": 50, "1.1.0": 50, "1.2.0": 2})
	plan := func(within string) string {
		path := filepath.Join(t.TempDir(), "plan.yaml")
		text := "preset: blue-green\nsteps:\n  - {weight: 100%, until: duration, within: " + within + "}\npMax: 0.2\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	w.ctl(0, []string{"1.0.0=100 -> 1.1.0=100", "effective: after"}, "deploy", "refunds:1.1.0", "--plan", plan("2s"), "--impossible")
	r := w.phase("refunds", "promoted")
	if len(r.GetPlan().GetSteps()) != 1 || r.GetPlan().GetPreset() != "blue-green" || r.GetVerdict().GetResult() != "pass" || r.GetVerdict().GetMetrics()[0].GetBound() >= 0.2 {
		t.Errorf("promoted by %v with %v", r.GetPlan(), r.GetVerdict())
	}
	if got := w.weights("refunds"); got != "1.1.0=10000" {
		t.Errorf("traffic %s", got)
	}
	w.ctl(0, []string{"1.1.0=100 -> 1.0.0=100", "PM-1", "effective: after"}, "rollback", "refunds", "--to", "1.0.0")

	// Nobody needs to look: held against what the plan allows at most, a bad one goes back long before its step is over.
	w.ctl(0, []string{"1.0.0=100 -> 1.2.0=100"}, "deploy", "refunds:1.2.0", "--plan", plan("6h"), "--impossible")
	r = w.phase("refunds", "aborted")
	if got := w.weights("refunds"); got != "1.0.0=10000" || r.GetVerdict().GetResult() != "fail" {
		t.Errorf("traffic %s after %v", got, r.GetVerdict())
	}
	if got := w.version("refunds:1.2.0").GetStanding(); got != "quarantined" {
		t.Errorf("1.2.0 is %s", got)
	}
	w.ctl(0, []string{"It rolled back by itself. Verdict: **fail**"}, "postmortem", "show", "PM-2")
}
