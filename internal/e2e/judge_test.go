package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/controlplane"
)

// bench are two judges outside: a webhook, and what would be a Prometheus.
type bench struct {
	verdict, number atomic.Value // what they say, whole
	asked           atomic.Value // the webhook's last question
	query           atomic.Value // the last query
}

func startBench(t *testing.T) (b *bench, webhook, prometheus string) {
	t.Helper()
	b = &bench{}
	b.verdict.Store("<html>no such page</html>")
	b.number.Store(`{"status":"success","data":{"resultType":"vector","result":[]}}`)
	grader := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		b.asked.Store(string(body))
		if r.Header.Get("Webhook-Signature") == "" {
			t.Error("a question is not signed")
		}
		_, _ = io.WriteString(w, b.verdict.Load().(string))
	}))
	t.Cleanup(grader.Close)
	numbers := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.query.Store(r.FormValue("query"))
		_, _ = io.WriteString(w, b.number.Load().(string))
	}))
	t.Cleanup(numbers.Close)
	return b, grader.URL, numbers.URL
}

func (b *bench) says(n float64) {
	b.number.Store(fmt.Sprintf(`{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"%g"]}]}}`, n))
}

// judgedBy is a plan of one step whose judges are asked each second.
func judgedBy(webhook string) *operatorv1.RolloutPlan {
	half := 0.5
	return &operatorv1.RolloutPlan{
		Steps: []*operatorv1.RolloutStep{{Weight: 5000, Until: "evidence"}}, PMax: 0.2, MaxHarmed: -1, Rollback: "auto",
		Judges: []*operatorv1.RolloutJudge{
			{Name: "grader", Webhook: webhook, Every: durationpb.New(time.Second), Fails: 1},
			{Name: "cost", Prometheus: `cost{spec="{{spec}}",version="{{canary}}"}`, FailAbove: &half, Every: durationpb.New(time.Second), Fails: 2},
		},
	}
}

// Judges outside let a canary go no further until all of them are content, and stop it by the road of any other failure.
func TestJudgesOutside(t *testing.T) {
	b, webhook, prometheus := startBench(t)
	w := startPlane(t, func(o *controlplane.Options) { o.Prometheus = prometheus })
	canaries(t, w, map[string]int64{"1.0.0": 0, "1.1.0": 0})
	w.startRollout("refunds", "1.1.0", judgedBy(webhook))
	waitsFor := func(judge, why string) {
		t.Helper()
		eventually(t, "rollout that waits for "+judge, func() error {
			r := w.phase("refunds", "stepping")
			v := r.GetVerdict()
			if v.GetResult() != "insufficient" || !strings.HasPrefix(v.GetReason(), "judge "+judge+": ") || !strings.Contains(v.GetReason(), why) {
				return fmt.Errorf("%v", v)
			}
			return nil
		})
	}
	waitsFor("grader", "no answer: ")
	contains(t, w.ctl(0, nil, "canary", "status", "refunds"), "judge grader", "insufficient", "webhook at 127.0.0.1", "judge cost", `cost{spec="refunds",version="1.1.0"}`)
	b.verdict.Store(`{"result": "pass", "reason": "reads well"}`)
	waitsFor("cost", "the query gives nothing")
	var asked struct{ Kind, Judge, Spec, Canary, Stable string }
	if err := json.Unmarshal([]byte(b.asked.Load().(string)), &asked); err != nil || asked != struct{ Kind, Judge, Spec, Canary, Stable string }{"judge", "grader", "refunds", "1.1.0", "1.0.0"} {
		t.Errorf("asked %s, %v", b.asked.Load(), err)
	}
	b.says(0.1)
	w.phase("refunds", "promoted")
}

// A judge that says fail rolls back, and the record says who, what it was asked and what it answered.
func TestAJudgeStopsACanary(t *testing.T) {
	b, webhook, prometheus := startBench(t)
	b.verdict.Store(`{"result": "pass", "reason": "` + strings.Repeat("é", 10_000) + `"}`)
	b.says(0.75)
	w := startPlane(t, func(o *controlplane.Options) { o.Prometheus = prometheus })
	canaries(t, w, map[string]int64{"1.0.0": 0, "1.1.0": 0})
	w.startRollout("refunds", "1.1.0", judgedBy(webhook))
	r := w.phase("refunds", "aborted")
	if !strings.Contains(r.GetWhy(), "judge cost: 0.75 is above 0.5 (2 failures in a row)") {
		t.Errorf("why: %s", r.GetWhy())
	}
	for _, j := range r.GetVerdict().GetJudges() {
		if n := len(j.GetAnswers()); n == 0 || n > 5 {
			t.Errorf("judge %s has %d answers", j.GetName(), n)
		}
		for _, a := range j.GetAnswers() {
			if a.GetStep() != 1 || !a.GetAskedAt().IsValid() || a.GetAt().AsTime().Before(a.GetAskedAt().AsTime()) || utf8.RuneCountInString(a.GetReason()) > 301 {
				t.Errorf("%v", a)
			}
			if number := j.GetName() == "cost"; number != (a.Value != nil) || number && (a.GetValue() != 0.75 || a.GetResult() != "fail") {
				t.Errorf("judge %s: %v", j.GetName(), a)
			}
		}
	}
	contains(t, w.ctl(0, nil, "canary", "status", "refunds"), "ANSWERED", "cost    step 1    fail  0.75 is above 0.5", "grader  step 1    pass")
	contains(t, w.ctl(0, nil, "postmortem", "show", "PM-1"), "judge cost: 0.75 is above 0.5", `cost{spec="refunds",version="1.1.0"}`, "2 of 2", "webhook at 127.0.0.1", "| cost | step 1 | fail | 0.75 is above 0.5 |")
	if p := w.spec("refunds"); p.GetGeneration() != 3 {
		t.Errorf("generation %d", p.GetGeneration())
	}
}

// A step that begins asks at once, though the one before it still waits for its answer; what that says when it comes is kept, and moves nothing.
func TestALateAnswerIsNoAnswerToThisStep(t *testing.T) {
	hanging, release := make(chan struct{}), make(chan struct{})
	var hangs, released sync.Once
	grader := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ Step int }
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		if asked.Step > 1 {
			_, _ = io.WriteString(w, `{"result": "pass", "reason": "reads well"}`)
			return
		}
		hangs.Do(func() { close(hanging) })
		<-release
		_, _ = io.WriteString(w, `{"result": "fail", "reason": "read badly"}`)
	}))
	t.Cleanup(grader.Close)
	t.Cleanup(func() { released.Do(func() { close(release) }) })

	w := startPlane(t, nil)
	canaries(t, w, map[string]int64{"1.0.0": 0, "1.1.0": 0})
	w.startRollout("refunds", "1.1.0", &operatorv1.RolloutPlan{
		Steps: []*operatorv1.RolloutStep{{Weight: 1000, Until: "manual"}, {Weight: 5000, Until: "manual"}}, MaxHarmed: -1, Rollback: "auto",
		Judges: []*operatorv1.RolloutJudge{{Name: "grader", Webhook: grader.URL, Every: durationpb.New(time.Second), Timeout: durationpb.New(10 * time.Minute), Fails: 1}},
	})
	<-hanging
	w.ctl(0, nil, "canary", "promote", "refunds", "--reason", "it takes long")
	says := func(what string, has func(*operatorv1.JudgeAnswer) bool) {
		t.Helper()
		eventually(t, what, func() error {
			j := w.phase("refunds", "stepping").GetVerdict().GetJudges()[0]
			if j.GetResult() != "pass" || !slices.ContainsFunc(j.GetAnswers(), has) {
				return fmt.Errorf("%v", j)
			}
			return nil
		})
	}
	says("an answer to the second step", func(a *operatorv1.JudgeAnswer) bool { return a.GetStep() == 2 && a.GetResult() == "pass" })
	released.Do(func() { close(release) })
	says("the late answer beside it", func(a *operatorv1.JudgeAnswer) bool { return a.GetStep() == 1 && a.GetReason() == "read badly" })
	if r := w.phase("refunds", "stepping"); r.GetVerdict().GetResult() == "fail" || r.GetStep() != 2 {
		t.Errorf("step %d: %v", r.GetStep(), r.GetVerdict())
	}
}

// Whoever publishes a manifest cannot make the control plane post where its operator does not want.
func TestPlansPostToAllowedHostsAlone(t *testing.T) {
	w := startPlane(t, func(o *controlplane.Options) {
		o.PlanHosts = []string{"ledger.example", "127.0.0.1:1", ".chat.example", "[::1]"}
	})
	w.publish("refunds", "1.0.0", canaryContract)
	w.ctl(0, nil, "deploy", "refunds:1.0.0", "--now")
	n := 0
	for post, allowed := range map[string]bool{
		"https://ledger.example/ok": true, "https://LEDGER.example:8443/ok": true, "http://127.0.0.1:1/x": true, "https://eu.chat.example/hook": true, "http://[::1]:8080/x": true,
		"http://127.0.0.1:2379/v3/kv/put": false, "http://127.0.0.1/": false, "http://169.254.169.254/latest": false, "https://ledger.example.evil.test/": false,
		"https://chat.example/": false, "https://evilchat.example/": false,
	} {
		for _, plan := range []string{
			"steps: [{weight: 50%, until: manual, gates: [{name: a, webhook: '" + post + "'}]}]",
			"steps: [{weight: 50%, until: manual, gates: [{name: a, manual: true, notify: '" + post + "'}]}]",
			"preset: fast, judges: [{name: grader, webhook: '" + post + "'}]",
		} {
			n++
			version := fmt.Sprintf("1.%d.0", n)
			w.publish("refunds", version, canaryContract, "rollout: {"+plan+"}")
			for _, command := range [][]string{{"plan", "refunds:" + version}, {"deploy", "refunds:" + version, "--now", "--impossible", "--dry-run"}} {
				output, code := w.specctl(command...)
				if (code == 0) != allowed || !allowed && (!strings.Contains(output, "none of this control plane's --plan-host") || strings.Contains(output, "latest") || strings.Contains(output, "kv")) {
					t.Errorf("%v with %s: %d\n%s", command, post, code, output)
				}
			}
		}
	}
}

// A plan that asks a Prometheus which nobody knows is refused before anything moves.
func TestAQueryNeedsAPrometheus(t *testing.T) {
	w := startPlane(t, nil)
	w.publish("refunds", "1.0.0", canaryContract)
	w.publish("refunds", "1.1.0", canaryContract, "rollout: {preset: fast, judges: [{name: cost, prometheus: 'cost', failAbove: 0.5}]}")
	w.ctl(0, nil, "deploy", "refunds:1.0.0", "--now")
	w.ctl(1, []string{"has a judge that queries Prometheus, and this control plane knows none", "xds --prometheus"}, "deploy", "refunds:1.1.0", "--now", "--impossible", "--no-rehearsal", "--reason", "x")
	if g := w.spec("refunds").GetGeneration(); g != 1 {
		t.Errorf("generation %d", g)
	}
}
