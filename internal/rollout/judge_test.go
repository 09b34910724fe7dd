package rollout_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/rollout"
	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

func bound(f float64) *float64 { return &f }

func TestJudgesOfAPlan(t *testing.T) {
	for name, c := range map[string]struct {
		yaml, want string
	}{
		"query":           {"{name: cost, prometheus: 'sum(x{v=\"{{canary}}\"})', failAbove: 1}", ""},
		"below":           {"{name: grade, prometheus: 'x', failBelow: 0, every: 1s, timeout: 1s, fails: 1}", ""},
		"webhook":         {"{name: grader, webhook: 'https://grader.example.com/judge'}", ""},
		"neither":         {"{name: x}", "either a query of prometheus or a webhook"},
		"both":            {"{name: x, prometheus: y, failAbove: 1, webhook: 'https://e.com'}", "either a query of prometheus or a webhook"},
		"no bound":        {"{name: x, prometheus: y}", "say failAbove or failBelow"},
		"bounded webhook": {"{name: x, webhook: 'https://e.com', failAbove: 1}", "are for queries"},
		"no number":       {"{name: x, prometheus: y, failAbove: .nan}", "bounds are finite numbers"},
		"placeholder":     {"{name: x, prometheus: 'y{{version}}', failAbove: 1}", "{{version}} stands for nothing"},
		"name of another": {"{name: latency, prometheus: y, failAbove: 1}", "names of their own"},
		"outcome":         {"{name: outcome, prometheus: y, failAbove: 1}", "names of their own"},
		"too often":       {"{name: x, prometheus: y, failAbove: 1, every: 10ms}", "every is 1s at least"},
		"too patient":     {"{name: x, prometheus: y, failAbove: 1, fails: 101}", "between 1 and 100"},
		"too long":        {"{name: x, prometheus: '" + strings.Repeat("y", 4097) + "', failAbove: 1}", "the query has 4097 bytes, at most 4096"},
		"no URL":          {"{name: x, webhook: 'grader'}", "is no URL"},
	} {
		p, err := rollout.ParsePlan([]byte("metrics: [{name: latency, slowerThan: 2s}]\njudges: [" + c.yaml + "]"))
		if err == nil {
			_, err = p.Complete()
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	five := strings.TrimSuffix(strings.Repeat("{name: a, webhook: 'https://e.com'}, ", 5), ", ")
	if p, _ := rollout.ParsePlan([]byte("judges: [" + five + "]")); len(p.Problems()) < 2 || !strings.Contains(fmt.Sprint(p.Problems()), "at most 4") {
		t.Errorf("five judges: %v", p.Problems())
	}
}

func TestWhatANumberMeans(t *testing.T) {
	j := rollout.Judge{FailAbove: bound(1), FailBelow: bound(-1)}
	for n, want := range map[float64]evidence.Result{
		0: evidence.Pass, 1: evidence.Pass, -1: evidence.Pass, 1.001: evidence.Fail, -2: evidence.Fail, math.Inf(1): evidence.Insufficient, math.Inf(-1): evidence.Insufficient,
	} {
		if got, why := j.Measured(n); got != want || why == "" {
			t.Errorf("%g: %s, %s", n, got, why)
		}
	}
	if got, why := j.Measured(math.NaN()); got != evidence.Insufficient || !strings.Contains(why, "NaN") {
		t.Errorf("NaN: %s, %s", got, why)
	}
}

// judged is a rollout at its first step whose executions are good enough, with one judge that is asked every 30 s and has 10 s.
func judged(t *testing.T, now time.Time) rollout.Run {
	t.Helper()
	p, err := rollout.ParsePlan([]byte("{steps: [{weight: 10%, until: evidence}, {weight: 50%, until: evidence}], judges: [{name: cost, prometheus: 'cost{v=\"{{canary}}\",s=\"{{ spec }}\",old=\"{{stable}}\"}', failAbove: 1, fails: 2}]}"))
	if err == nil {
		p, err = p.Complete()
	}
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := rollout.Begin("shop", "2.0.0", "1.0.0", p, 0, "ada", now)
	if err != nil {
		t.Fatal(err)
	}
	r.Mark(1)
	m := &r.Evidence.Metrics[0]
	m.Counts.Ended[evidence.Canary], m.Counts.Ended[evidence.Stable] = 1000, 9000
	return r
}

func answer(r rollout.Run, result evidence.Result, why string, at time.Time) rollout.JudgeAnswer {
	return rollout.JudgeAnswer{Step: r.Step, AskedAt: at, At: at, Result: result, Why: why}
}

// Neither the clock of a step until a duration nor an open gate goes by a judge that is silent; what was never asked anything, the way to the first
// step, does.
func TestNothingGoesByASilentJudge(t *testing.T) {
	begin := time.Date(2026, 11, 24, 2, 18, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		steps string
		// phase in which it stands while the judge is silent.
		phase rollout.Phase
	}{
		"duration":           {"{weight: 10%, until: duration, within: 5m}, {weight: 50%, until: evidence}", rollout.Held},
		"duration and gate":  {"{weight: 10%, until: duration, within: 5m}, {weight: 50%, until: evidence, gates: [{name: ok, manual: true}]}", rollout.Held},
		"evidence":           {"{weight: 10%, until: evidence, within: 5m}, {weight: 50%, until: evidence}", rollout.Held},
		"bake":               {"{weight: 10%, until: manual}", rollout.Held},
		"gate before step 1": {"{weight: 10%, until: duration, within: 5m, gates: [{name: ok, manual: true}]}, {weight: 50%, until: evidence}", rollout.Held},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := rollout.ParsePlan([]byte("{steps: [" + c.steps + "], bake: {for: 5m}, judges: [{name: grade, webhook: 'https://grader.example.com'}]}"))
			if err == nil {
				p, err = p.Complete()
			}
			if err != nil {
				t.Fatal(err)
			}
			now := begin
			r, _, err := rollout.Begin("shop", "2.0.0", "1.0.0", p, 0, "ada", now)
			if err != nil {
				t.Fatal(err)
			}
			tick := func() {
				t.Helper()
				if event, why := r.Tick(r.Judge(now), now); event != "" {
					if r, _, _, err = r.Apply(event, "engine", why, now); err != nil {
						t.Fatal(err)
					}
				}
			}
			if r.Step < 0 { // nobody is asked of a canary without traffic
				if r.Asks(0, now) {
					t.Error("it is asked before there is any traffic")
				}
				r = r.Opened(0, "bob", "fine")
				tick()
			}
			if p.Steps[0].Until == rollout.UntilManual {
				if r, _, _, err = r.Apply(rollout.EventPromote, "ada", "", now); err != nil || r.Phase != rollout.Baking {
					t.Fatalf("%s, %v", r.Phase, err)
				}
			}
			m := &r.Evidence.Metrics[0]
			m.Counts.Ended[evidence.Canary], m.Counts.Ended[evidence.Stable] = 1000, 9000
			step := r.Step
			now = now.Add(5 * time.Minute)
			tick()
			if r.Phase != c.phase || r.Step != step || !strings.Contains(r.Why, "judge grade: it has not answered yet") {
				t.Fatalf("%s at step %d: %s", r.Phase, r.Step, r.Why)
			}
			now = now.Add(time.Hour)
			r = r.Heard(0, answer(r, evidence.Insufficient, "the grader is away", now))
			if tick(); r.Phase != c.phase || r.Step != step {
				t.Fatalf("%s at step %d: %s", r.Phase, r.Step, r.Why)
			}
			r = r.Heard(0, answer(r, evidence.Pass, "good", now))
			tick()
			if r.Step != step+1 && r.Phase != rollout.Gated && r.Phase != rollout.Promoted {
				t.Fatalf("it passed, and is %s at step %d: %s", r.Phase, r.Step, r.Why)
			}
			if r.Phase != rollout.Gated {
				return
			}
			r = r.Heard(0, answer(r, evidence.Insufficient, "the grader is away", now))
			r = r.Opened(0, "bob", "fine")
			if tick(); r.Phase != rollout.Gated || r.Step != step {
				t.Fatalf("an open gate goes by a silent judge: %s at step %d", r.Phase, r.Step)
			}
			r = r.Heard(0, answer(r, evidence.Pass, "good", now))
			if tick(); r.Step != step+1 {
				t.Fatalf("%s at step %d: %s", r.Phase, r.Step, r.Why)
			}
		})
	}
}

// A manual step is the person's: no judge ends it, and none keeps anybody from going on. The gates after it are no person's word on the judges.
func TestAManualStepIsThePersons(t *testing.T) {
	now := time.Date(2026, 11, 24, 2, 18, 0, 0, time.UTC)
	for _, c := range []struct {
		gates string
		// says is the judge's answer in step 1; "": it is silent. after is where a promote leads, opened where the rollout is once the gates are open.
		says          evidence.Result
		after, opened rollout.Phase
	}{
		{says: "", after: rollout.Stepping, opened: rollout.Stepping},
		{says: evidence.Insufficient, after: rollout.Stepping, opened: rollout.Stepping},
		{says: evidence.Pass, after: rollout.Stepping, opened: rollout.Stepping},
		{gates: ", gates: [{name: ok, manual: true}]", says: "", after: rollout.Gated, opened: rollout.Gated},
		{gates: ", gates: [{name: ok, manual: true}]", says: evidence.Insufficient, after: rollout.Gated, opened: rollout.Gated},
		{gates: ", gates: [{name: ok, manual: true}]", says: evidence.Fail, after: rollout.Gated, opened: rollout.Gated},
		{gates: ", gates: [{name: ok, manual: true}]", says: evidence.Pass, after: rollout.Gated, opened: rollout.Stepping},
	} {
		t.Run(fmt.Sprintf("%s%s", c.says, c.gates), func(t *testing.T) {
			p, err := rollout.ParsePlan([]byte("{steps: [{weight: 10%, until: manual}, {weight: 50%, until: manual" + c.gates + "}], judges: [{name: grade, webhook: 'https://grader.example.com'}]}"))
			if err == nil {
				p, err = p.Complete()
			}
			if err != nil {
				t.Fatal(err)
			}
			r, _, err := rollout.Begin("shop", "2.0.0", "1.0.0", p, 0, "ada", now)
			if err != nil {
				t.Fatal(err)
			}
			apply := func(event rollout.Event, why string) {
				t.Helper()
				if r, _, _, err = r.Apply(event, "ada", why, now); err != nil {
					t.Fatal(err)
				}
			}
			if c.says != "" {
				r = r.Heard(0, answer(r, c.says, "so it says", now))
			}
			if event, why := r.Tick(r.Judge(now), now); event != "" {
				t.Fatalf("a manual step ends by itself: %s, %s", event, why)
			}
			if apply(rollout.EventPromote, ""); r.Phase != c.after {
				t.Fatalf("promoted, it is %s", r.Phase)
			}
			if len(r.Gates) > 0 {
				r = r.Opened(0, "bob", "fine")
				if event, why := r.Tick(r.Judge(now), now); event != "" {
					apply(event, why)
				}
			}
			if r.Phase != c.opened {
				t.Fatalf("with its gates open, it is %s: %s", r.Phase, r.Why)
			}
			if r.Phase == rollout.Gated {
				apply(rollout.EventPromote, "")
			}
			if r.Step != 1 || r.Phase != rollout.Stepping {
				t.Errorf("%s at step %d", r.Phase, r.Step)
			}
		})
	}
}

func TestAPassNeedsItsJudges(t *testing.T) {
	begin := time.Date(2026, 11, 24, 2, 18, 0, 0, time.UTC)
	r := judged(t, begin)
	if q := r.Query(r.Plan.Judges[0]); q != `cost{v="2.0.0",s="shop",old="1.0.0"}` {
		t.Errorf("query %s", q)
	}
	now := begin
	verdict := func(want evidence.Result, why string) {
		t.Helper()
		if v := r.Judge(now); v.Result != want || !strings.Contains(v.Reason, why) {
			t.Errorf("%s: %s, want %s, %s", v.Result, v.Reason, want, why)
		}
		event, _ := r.Tick(r.Judge(now), now)
		if wants := map[evidence.Result]rollout.Event{evidence.Pass: rollout.EventPass, evidence.Fail: rollout.EventFail}[want]; event != wants {
			t.Errorf("it ticks %q, want %q", event, wants)
		}
	}
	hear := func(result evidence.Result, why string) { r = r.Heard(0, answer(r, result, why, now)) }

	verdict(evidence.Insufficient, "judge cost: it has not answered yet")
	if !r.Asks(0, now) {
		t.Error("it is not asked")
	}
	hear(evidence.Insufficient, "no answer: connection refused")
	verdict(evidence.Insufficient, "judge cost: no answer: connection refused")
	if r.Asks(0, now.Add(29*time.Second)) || !r.Asks(0, now.Add(30*time.Second)) {
		t.Error("it is asked again at another time than after 30 s")
	}
	hear(evidence.Pass, "0.5 is not above 1")
	verdict(evidence.Pass, "")
	now = begin.Add(101 * time.Second)
	verdict(evidence.Insufficient, "it has not answered since 02:18:00Z")
	hear(evidence.Fail, "2 is above 1")
	verdict(evidence.Insufficient, "2 is above 1 (1 of 2 failures in a row)")
	hear(evidence.Insufficient, "no answer")
	verdict(evidence.Insufficient, "no answer")
	hear(evidence.Fail, "3 is above 1") // what was not known has ended nothing
	verdict(evidence.Fail, "judge cost: 3 is above 1 (2 failures in a row)")
	hear(evidence.Pass, "0.5 is not above 1")
	verdict(evidence.Pass, "")

	// The next step wants an answer of its own.
	now = now.Add(time.Second)
	var err error
	if r, _, _, err = r.Apply(rollout.EventPass, "engine", "", now); err != nil || r.Step != 1 {
		t.Fatalf("step %d, %v", r.Step, err)
	}
	verdict(evidence.Insufficient, "it has not been asked and answered since this step began")
	if !r.Asks(0, now) {
		t.Error("the step that began does not ask at once")
	}
	if n := len(r.Judges[0].Answers); n != 5 || r.Judges[0].Answers[0].Why != "0.5 is not above 1" || r.Judges[0].Asked != 6 {
		t.Errorf("%d answers are kept, asked %d: %+v", n, r.Judges[0].Asked, r.Judges[0].Answers)
	}
	// A person may go by it, and with a new attempt nothing of the old one counts.
	hear(evidence.Fail, "2 is above 1")
	if r, _, _, err = r.Apply(rollout.EventRetry, "ada", "", now); err != nil || len(r.Judges) != 0 || r.Step != 0 {
		t.Errorf("retried: %+v, %v", r.Judges, err)
	}
	if r, _, _, err = r.Apply(rollout.EventPromote, "ada", "", now); err != nil || r.Step != 1 {
		t.Errorf("promoted: step %d, %v", r.Step, err)
	}
	// Over is over.
	if r, _, _, err = r.Apply(rollout.EventAbort, "ada", "", now); err != nil || r.Asks(0, now.Add(time.Hour)) {
		t.Errorf("an aborted one asks; %v", err)
	}
}

// An answer belongs to the step in which it was asked for: one that comes later counts neither for the canary nor against it, and what the step in force
// has asked goes before it, whichever comes first.
func TestAnAnswerBelongsToTheStepThatAsked(t *testing.T) {
	begin := time.Date(2026, 11, 24, 2, 18, 0, 0, time.UTC)
	entered := begin.Add(time.Minute)
	for name, c := range map[string]struct {
		late evidence.Result
		// before is what the step in force has heard when the late answer comes, failing what is counted in a row then.
		before  []evidence.Result
		failing int
		want    evidence.Result
	}{
		"a pass is none":                 {late: evidence.Pass, want: evidence.Insufficient},
		"a failure is none":              {late: evidence.Fail, want: evidence.Insufficient},
		"a failure is not the second":    {late: evidence.Fail, before: []evidence.Result{evidence.Fail}, failing: 1, want: evidence.Insufficient},
		"a pass does not excuse":         {late: evidence.Pass, before: []evidence.Result{evidence.Fail}, failing: 1, want: evidence.Insufficient},
		"a failure does not hide a pass": {late: evidence.Fail, before: []evidence.Result{evidence.Pass}, want: evidence.Pass},
		"nothing does not hide a pass":   {late: evidence.Insufficient, before: []evidence.Result{evidence.Pass}, want: evidence.Pass},
		"a pass does not hide a failure": {late: evidence.Pass, before: []evidence.Result{evidence.Fail, evidence.Fail}, failing: 2, want: evidence.Fail},
		"a pass does not hide ignorance": {late: evidence.Pass, before: []evidence.Result{evidence.Insufficient}, want: evidence.Insufficient},
		"the oldest of many gives way":   {late: evidence.Fail, before: slices.Repeat([]evidence.Result{evidence.Pass}, 6), want: evidence.Pass},
	} {
		t.Run(name, func(t *testing.T) {
			r := judged(t, begin)
			late := answer(r, c.late, "late", entered.Add(-time.Second))
			var err error
			if r, _, _, err = r.Apply(rollout.EventPromote, "ada", "", entered); err != nil || r.Step != 1 {
				t.Fatalf("step %d, %v", r.Step, err)
			}
			m := &r.Evidence.Metrics[0]
			m.Counts.Ended[evidence.Canary], m.Counts.Ended[evidence.Stable] = 1000, 9000
			now := entered
			if !r.Asks(0, now) {
				t.Error("the step that began does not ask at once")
			}
			for _, result := range c.before {
				now = now.Add(time.Second)
				r = r.Heard(0, answer(r, result, "in time", now))
			}
			next := !r.Asks(0, now)
			now = now.Add(time.Second)
			late.At = now
			r = r.Heard(0, late)
			if asks := r.Asks(0, now); asks == next {
				t.Errorf("a late answer changes when it is asked: %t", asks)
			}
			if v := r.Judge(now); v.Result != c.want || strings.Contains(v.Reason, "late") {
				t.Errorf("%s: %s, want %s", v.Result, v.Reason, c.want)
			}
			s := r.Judges[0]
			if s.Failing != c.failing || s.Asked != len(c.before)+1 || len(s.Answers) != min(5, s.Asked) || s.Asked <= 5 && s.Answers[0] != late {
				t.Errorf("%+v", s)
			}
		})
	}

	// Failures in a row are the canary's, whatever its weight: they go on from step to step.
	r := judged(t, begin)
	r = r.Heard(0, answer(r, evidence.Fail, "2 is above 1", begin))
	r, _, _, err := r.Apply(rollout.EventPromote, "ada", "", entered)
	if err != nil {
		t.Fatal(err)
	}
	r = r.Heard(0, answer(r, evidence.Fail, "3 is above 1", entered))
	if v := r.Judge(entered); v.Result != evidence.Fail {
		t.Errorf("%s: %s", v.Result, v.Reason)
	}
}

// What executions prove goes before what judges say.
func TestAJudgeDoesNotHideAFailure(t *testing.T) {
	now := time.Date(2026, 11, 24, 2, 18, 0, 0, time.UTC)
	r := judged(t, now)
	r.Evidence.Metrics[0].Counts.Failed[evidence.Canary] = 900
	if v := r.Judge(now); v.Result == evidence.Pass {
		t.Errorf("%s: %s", v.Result, v.Reason)
	}
	r = r.Heard(0, answer(r, evidence.Pass, "fine", now))
	if v := r.Judge(now); v.Result == evidence.Pass {
		t.Errorf("with a judge that is content: %s: %s", v.Result, v.Reason)
	}
}
