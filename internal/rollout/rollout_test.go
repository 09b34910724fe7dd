package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

var start = time.Date(2026, 11, 2, 1, 0, 0, 0, time.UTC)

func begin(t testing.TB, p Plan) Run {
	t.Helper()
	p, err := p.Complete()
	if err != nil {
		t.Fatal(err)
	}
	r, a, err := Begin("refunds", "2.1.0", "2.0.3", p, 0.02, "ann", start)
	if err != nil {
		t.Fatal(err)
	}
	if gated := len(p.Steps[0].Gates) > 0; !gated && a.Weight != uint16(p.Steps[0].Weight) || gated && a.Weight != 0 || a.Changed == gated || a.Rollback {
		t.Fatalf("a rollout began with %+v", a)
	}
	r.Mark(7)
	return r
}

// Every phase says something about every event: where it goes, or that it cannot.
func TestEveryPhaseMeetsEveryEvent(t *testing.T) {
	for _, c := range []struct {
		phase Phase
		// Phases after pass, fail, due, broken, open, pause, resume, promote, abort, retry, ack, rolled-back, rerouted, rehearsed, unproven; "-" refused, "=" nothing happens.
		after string
	}{
		{Rehearsing, "= = = = - - - - aborted - - aborted superseded stepping refused"},
		{Stepping, "stepping aborted held held - paused - stepping aborted stepping - aborted superseded - -"},
		{Gated, "= aborted = = stepping paused - stepping aborted stepping - aborted superseded - -"},
		{Baking, "promoted aborted held held - paused - promoted aborted stepping - aborted superseded - -"},
		{Paused, "= aborted = = - - stepping stepping aborted stepping - aborted superseded - -"},
		{Held, "stepping aborted = = - paused stepping stepping aborted stepping - aborted superseded - -"},
		{Failed, "= = aborted = - - - - aborted stepping paused aborted superseded - -"},
		{Promoted, "= = = = - - - - - - - = = - -"},
		{Aborted, "= = = = - - - - = - - = = - -"},
		{Superseded, "= = = = - - - - - - - = = - -"},
		{Refused, "= = = = - - - - - - - = = - -"},
	} {
		want := strings.Fields(c.after)
		for i, e := range Events() {
			r := begin(t, Plan{})
			r.Phase = c.phase
			if c.phase == Baking {
				r.Step = len(r.Plan.Steps)
			}
			if c.phase == Rehearsing {
				r, _ = r.Rehearse(start)
			}
			if c.phase == Gated {
				r.Gates = []GateState{{Gate: Gate{Name: "sign-off", Manual: true}}}
			}
			after, action, changed, err := r.Apply(e, "ann", "because", start.Add(time.Minute))
			got := string(after.Phase)
			switch {
			case err != nil:
				got = "-"
			case !changed:
				got = "="
			}
			if got != want[i] {
				t.Errorf("%s, %s: %s, want %s", c.phase, e, got, want[i])
			}
			if rolls := got == string(Aborted) && e != EventRolledBack && c.phase != Rehearsing; action.Rollback != rolls {
				t.Errorf("%s, %s: rollback %t", c.phase, e, action.Rollback)
			}
			if (e == EventRolledBack || e == EventRerouted) && action.Changed {
				t.Errorf("%s, %s: it wants the route that another command has taken", c.phase, e)
			}
		}
	}
}

func verdict(result evidence.Result, reason string) evidence.Verdict {
	return evidence.Verdict{Result: result, Reason: reason}
}

// script plays ticks and commands and writes down what comes of them.
type script struct {
	t   *testing.T
	run Run
	now time.Time
	out []string
}

func (s *script) tick(after time.Duration, v evidence.Verdict) {
	s.now = s.now.Add(after)
	if e, why := s.run.Tick(v, s.now); e != "" {
		s.event(e, "", why)
	}
}

func (s *script) event(e Event, by, why string) {
	s.t.Helper()
	r, a, changed, err := s.run.Apply(e, by, why, s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	if changed {
		s.run = r
		line := fmt.Sprintf("%s %s %d", e, r.Phase, a.Weight)
		if a.Rollback {
			line += " rollback"
		}
		s.out = append(s.out, line)
	}
}

func (s *script) expect(want ...string) {
	s.t.Helper()
	if !slices.Equal(s.out, want) {
		s.t.Errorf("it went\n  %s\nnot\n  %s", strings.Join(s.out, "\n  "), strings.Join(want, "\n  "))
	}
}

var (
	little = verdict(evidence.Insufficient, "46 more")
	good   = verdict(evidence.Pass, "enough")
	bad    = verdict(evidence.Fail, "worse")
	broken = evidence.Verdict{Result: evidence.Insufficient, Broken: true, Reason: "shares"}
)

func TestAGoodCanaryGetsAllTheTraffic(t *testing.T) {
	s := &script{t: t, run: begin(t, Plan{}), now: start}
	s.tick(time.Minute, little)
	for range 4 {
		s.tick(time.Minute, good)
	}
	s.tick(30*time.Minute, good) // the bake takes an hour
	s.tick(31*time.Minute, good)
	s.tick(time.Hour, good)
	s.expect("pass stepping 1000", "pass stepping 2500", "pass stepping 5000", "pass baking 9500", "pass promoted 10000")
}

// Gates stand before a step, the first one too. The step before is judged on, and must still have what it asks for when they open.
func TestGates(t *testing.T) {
	gate := []Gate{{Name: "sign-off", Manual: true}, {Name: "ledger", Webhook: "http://ledger"}}
	steps := func() []Step {
		steps := evidenceSteps(time.Hour, 500, 1000)
		steps[0].Gates, steps[1].Gates = gate[:1], gate
		return steps
	}
	s := &script{t: t, run: begin(t, Plan{Steps: steps()}), now: start}
	open := func(gate int) { s.run = s.run.Opened(gate, "ann", "fine") }
	s.tick(time.Hour, good)
	open(0)
	s.tick(time.Minute, little)
	s.tick(time.Minute, good)
	s.tick(72*time.Hour, good) // nobody comes: it waits for ever
	open(1)
	s.tick(time.Minute, good)
	s.event(EventPause, "ann", "")
	s.event(EventResume, "ann", "")
	open(0)
	s.tick(time.Minute, little) // it had enough when it came here, and has it no longer
	s.tick(time.Minute, broken)
	s.tick(time.Minute, good)
	s.expect("open stepping 500", "pass gated 500", "pause paused 500", "resume gated 500", "open stepping 1000")
	if s.run.Why != "step 2 of 2 begins: gates open: sign-off (ann: fine) ledger (ann: fine)" || len(s.run.Gates) != 0 {
		t.Errorf("why: %s", s.run.Why)
	}

	// A canary that turns out bad at a gate is rolled back; one without traffic has nothing to be rolled back from. Promote passes by.
	s = &script{t: t, run: begin(t, Plan{Steps: steps()}), now: start}
	s.event(EventPromote, "ann", "")
	s.tick(time.Minute, good)
	s.tick(time.Minute, bad)
	s.expect("promote stepping 500", "pass gated 500", "fail aborted 0 rollback")
	s = &script{t: t, run: begin(t, Plan{Steps: steps()}), now: start}
	s.event(EventAbort, "ann", "")
	s.expect("abort aborted 0")
}

func TestInsufficientHoldsAndGoesOnWhenEvidenceComes(t *testing.T) {
	s := &script{t: t, run: begin(t, Plan{}), now: start}
	s.tick(6*time.Hour, little)
	s.tick(time.Hour, little)
	s.tick(time.Hour, broken)
	s.tick(time.Hour, good)
	s.tick(time.Hour, broken)
	s.tick(time.Hour, little)
	s.event(EventResume, "ann", "")
	s.expect("due held 500", "pass stepping 1000", "broken held 1000", "resume stepping 1000")
}

func TestABakeEndsOnEvidenceOnly(t *testing.T) {
	s := &script{t: t, run: begin(t, Plan{Preset: "blue-green"}), now: start}
	s.tick(10*time.Minute, little)
	s.tick(time.Minute, good)
	s.expect("due held 10000", "pass promoted 10000")
}

func TestAPauseStopsTheClockAndNotTheJudge(t *testing.T) {
	s := &script{t: t, run: begin(t, Plan{}), now: start}
	s.tick(5*time.Hour, little)
	s.event(EventPause, "ann", "lunch")
	s.tick(10*time.Hour, good)
	s.event(EventResume, "ann", "")
	s.tick(30*time.Minute, little) // five and a half hours of six
	s.event(EventPause, "ann", "")
	s.tick(time.Minute, bad)
	s.expect("pause paused 500", "resume stepping 500", "pause paused 500", "fail aborted 0 rollback")
}

func TestReactions(t *testing.T) {
	s := &script{t: t, run: begin(t, Plan{Rollback: ReactUnlessAcked, AckWithin: Duration(5 * time.Minute)}), now: start}
	s.tick(time.Minute, bad)
	s.tick(4*time.Minute, bad)
	s.tick(time.Minute, bad)
	s.expect("fail failed 500", "due aborted 0 rollback")

	s = &script{t: t, run: begin(t, Plan{Rollback: ReactUnlessAcked, AckWithin: Duration(5 * time.Minute)}), now: start}
	s.tick(time.Minute, bad)
	s.event(EventAck, "ann", "known, the backend was down")
	s.tick(time.Hour, bad)
	s.event(EventResume, "ann", "")
	s.tick(time.Minute, bad)
	s.expect("fail failed 500", "ack paused 500", "resume stepping 500")

	s = &script{t: t, run: begin(t, Plan{Rollback: ReactManual}), now: start}
	s.tick(time.Minute, bad)
	s.tick(100*time.Hour, bad)
	s.event(EventRetry, "ann", "")
	s.expect("fail failed 500", "retry stepping 500")
	if s.run.Attempt != 2 || len(s.run.Marks) != 0 {
		t.Errorf("attempt %d, marks %v", s.run.Attempt, s.run.Marks)
	}
}

func TestAManualStepWaitsForAPerson(t *testing.T) {
	p := Plan{Steps: []Step{{Weight: 500, Until: UntilManual, Within: Duration(time.Hour)}, {Weight: 5000, Until: UntilDuration, Within: Duration(time.Hour)}, {Weight: 10000, Until: UntilEvidence}}}
	s := &script{t: t, run: begin(t, p), now: start}
	s.tick(59*time.Minute, good)
	s.tick(time.Minute, good)
	s.event(EventPromote, "ann", "looks right")
	s.tick(time.Hour, little)
	s.tick(1000*time.Hour, little)
	s.tick(time.Minute, good)
	s.expect("due held 500", "promote stepping 5000", "pass stepping 10000", "pass promoted 10000")
}

func TestOutcomesAreJudgedByTheGenerationThatAssignedThem(t *testing.T) {
	r := begin(t, Plan{})
	r, _, _, err := r.Apply(EventPass, "", "", start)
	if err != nil {
		t.Fatal(err)
	}
	r.Mark(9)
	for generation, want := range map[uint64]uint16{6: 0, 7: 500, 8: 500, 9: 1000, 12: 1000} {
		if w, ok := r.WeightAt(generation); w != want || ok != (generation >= 7) {
			t.Errorf("generation %d: weight %d (%t), want %d", generation, w, ok, want)
		}
	}
}

// Whatever happens, in whatever order: weights only rise on evidence, a clock or a person; what has ended stays; a rollback ends it; and the state
// survives being stored.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		plan := Plan{Preset: rapid.SampledFrom(Presets()).Draw(rt, "preset"), Rollback: rapid.SampledFrom([]Reaction{ReactAuto, ReactManual}).Draw(rt, "rollback")}
		if gated := rapid.SliceOfDistinct(rapid.IntRange(0, 3), rapid.ID[int]).Draw(rt, "gated"); len(gated) > 0 {
			plan.Steps = evidenceSteps(time.Hour, 500, 1000, 2500, 5000)
			for _, i := range gated {
				plan.Steps[i].Gates = []Gate{{Name: "sign-off", Manual: true}}
			}
		}
		r := begin(t, plan)
		now := start
		if rapid.Bool().Draw(rt, "rehearsed") {
			r, _ = r.Rehearse(now)
			r = r.InRound(1, "secret", now)
		}
		for range rapid.IntRange(1, 40).Draw(rt, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(rt, "minutes")) * time.Minute)
			if r.Waits(0) && rapid.Bool().Draw(rt, "opened") {
				r = r.Opened(0, "ann", "")
			}
			e := rapid.SampledFrom(Events()).Draw(rt, "event")
			if rapid.Bool().Draw(rt, "tick") {
				if e, _ = r.Tick(rapid.SampledFrom([]evidence.Verdict{little, good, bad, broken}).Draw(rt, "verdict"), now); e == "" {
					continue
				}
			}
			after, action, changed, err := r.Apply(e, "ann", "why", now)
			if err != nil || !changed {
				if before, _ := json.Marshal(r); after.Phase != r.Phase || action != (Action{}) || string(before) != marshal(rt, after) {
					rt.Fatalf("%s in %s did nothing and changed something", e, r.Phase)
				}
				continue
			}
			if r.Phase.Ended() {
				rt.Fatalf("%s changed a rollout that was %s", e, r.Phase)
			}
			if after.Weight() > r.Weight() && !slices.Contains([]Event{EventPass, EventPromote, EventOpen, EventRehearsed}, e) {
				rt.Fatalf("%s raised the weight from %d to %d", e, r.Weight(), after.Weight())
			}
			if e == EventRolledBack && after.Phase != Aborted || e == EventAbort && action.Rollback != (r.Weight() > 0) {
				rt.Fatalf("%s in %s: %s", e, r.Phase, after.Phase)
			}
			if after.Phase != Rehearsing && (after.RoundInForce() != nil || strings.Contains(marshal(rt, after), "secret")) {
				rt.Fatalf("%s left a trace of the rehearsal: %+v", e, after.Rehearsal)
			}
			if after.Why == "" || len(after.History) > historyLength {
				rt.Fatalf("%s: why %q, %d entries", e, after.Why, len(after.History))
			}
			var again Run
			if err := json.Unmarshal([]byte(marshal(rt, after)), &again); err != nil || marshal(rt, again) != marshal(rt, after) {
				rt.Fatalf("stored and read again it is another: %v", err)
			}
			r = again
		}
	})
}

func marshal(t *rapid.T, r Run) string {
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
