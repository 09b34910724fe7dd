package rollout

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// What is known of a round decides it: nothing that cannot be mended by waiting is waited for, what is late fails when the time is over, and nobody's
// word at all is no proof.
func TestRoundsAreJudged(t *testing.T) {
	round := Round{Number: 2, Since: start}
	for _, c := range []struct {
		name  string
		sight Sight
		after time.Duration
		over  bool
		why   string
	}{
		{"all there", Sight{Proxies: 2}, 0, true, ""},
		{"one is late", Sight{Proxies: 1, Late: []string{"proxy b"}}, RoundWithin - 1, false, ""},
		{"one is too late", Sight{Proxies: 1, Late: []string{"proxy b", "proxy a"}}, RoundWithin, true, "proxy a, proxy b"},
		{"one refuses", Sight{Proxies: 1, Late: []string{"proxy b"}, Wrong: []string{"proxy c", "pool a"}}, 0, true, "pool a, proxy c"},
		{"all there, and a pool is cold", Sight{Proxies: 2, Wrong: []string{"pool a"}}, 0, true, "pool a"},
		{"nobody yet", Sight{}, RoundWithin - 1, false, ""},
		{"nobody", Sight{}, RoundWithin, true, "no proxy is connected that could send executions: nobody can say how they come back"},
		{"all there after the time", Sight{Proxies: 2}, time.Hour, true, ""},
	} {
		over, failures := round.Judge(c.sight, start.Add(c.after))
		if why := strings.Join(failures, ", "); over != c.over || why != c.why {
			t.Errorf("%s: over %t, %q; want %t, %q", c.name, over, why, c.over, c.why)
		}
	}
}

// Nothing, everything, nothing; then the first step, with the slowest proxy's time.
func TestARehearsalComesBeforeTheFirstStep(t *testing.T) {
	run, action := begin(t, Plan{}).Rehearse(start)
	if action != (Action{}) || run.Weight() != 0 || run.Step != -1 || run.RoundInForce() != nil {
		t.Fatalf("it begins with %+v, %+v", action, run)
	}
	if e, _ := run.Tick(bad, start.Add(time.Hour)); e != "" {
		t.Errorf("judging says %s of a canary without traffic", e)
	}
	var weights []uint16
	marks := map[string]bool{}
	for n := 1; n <= Rounds(); n++ {
		run = run.InRound(n, "pin", start.Add(time.Second))
		weights = append(weights, run.RoundInForce().Weight())
		marks[run.RoundInForce().Mark()] = true
	}
	if !slices.Equal(weights, []uint16{0, evidence.Whole, 0}) || len(marks) != 3 {
		t.Errorf("rounds with %v, marks %v", weights, marks)
	}
	proxies := []Rehearsed{{Node: "a", Acked: 3 * time.Millisecond}, {Node: "b", Acked: 2 * time.Millisecond, Seen: 38 * time.Millisecond}}
	run, e, why := run.Concluded(proxies, 1, 38*time.Millisecond, nil, start.Add(2*time.Second))
	run, action, _, err := run.Apply(e, "engine", why, start.Add(2*time.Second))
	if err != nil || action != (Action{Weight: 500, Changed: true}) || run.Phase != Stepping || run.Step != 0 || run.RoundInForce() != nil {
		t.Fatalf("%v, %+v, %+v", err, action, run)
	}
	if h := run.Rehearsal; h.Undo != 38*time.Millisecond || h.Proxies[0].Node != "b" || h.More != 1 || !strings.Contains(run.Why, "this deploy can be undone in 38ms, as rehearsed at 3 proxies") {
		t.Errorf("%q: %+v", run.Why, run.Rehearsal)
	}
}

// Gates before the first step come after the rehearsal; a failed one ends it all, and proves nothing.
func TestARehearsalDecides(t *testing.T) {
	steps := evidenceSteps(time.Hour, 500)
	steps[0].Gates = []Gate{{Name: "sign-off", Manual: true}}
	run, _ := begin(t, Plan{Steps: steps}).Rehearse(start)
	run = run.InRound(1, "pin", start)
	good, e, why := run.Concluded(nil, 1, time.Millisecond, nil, start)
	good, action, _, err := good.Apply(e, "engine", why, start)
	if err != nil || action != (Action{}) || good.Phase != Gated || len(good.Gates) != 1 {
		t.Errorf("%v, %+v, %+v", err, action, good)
	}
	bad, e, why := run.Concluded([]Rehearsed{{Node: "a", Acked: time.Millisecond}}, 0, time.Millisecond, []string{"proxy b: late"}, start)
	bad, action, _, err = bad.Apply(e, "engine", why, start)
	if err != nil || action != (Action{}) || bad.Phase != Refused || bad.Weight() != 0 || bad.Rehearsal.Undo != 0 || !strings.Contains(bad.Why, "proxy b: late") {
		t.Errorf("%v, %+v, %+v", err, action, bad)
	}
	broken, _, _, err := run.Apply(EventRerouted, "ann", "", start)
	if err != nil || broken.Rehearsal.Undo != 0 || broken.Rehearsal.EndedAt.IsZero() || !strings.Contains(broken.Rehearsal.String(), "broken off") {
		t.Errorf("%v, %+v", err, broken.Rehearsal)
	}
}

// However many proxies there are, the slowest are the ones that are named.
func TestAnOldProofIsGivenAgain(t *testing.T) {
	steps := evidenceSteps(time.Hour, 500)
	steps[0].Gates = []Gate{{Name: "sign-off", Manual: true}}
	gated := func(rehearse bool) Run {
		run := begin(t, Plan{Steps: steps})
		if !rehearse {
			return run.Unrehearsed("ada", "an emergency", start)
		}
		run, _ = run.Rehearse(start)
		run, e, why := run.InRound(1, "pin", start).Concluded(nil, 1, time.Millisecond, nil, start)
		run, _, _, err := run.Apply(e, "engine", why, start)
		if err != nil || run.Phase != Gated {
			t.Fatalf("%v, %+v", err, run)
		}
		return run
	}
	first := Action{Weight: 500, Changed: true}
	for _, c := range []struct {
		name     string
		rehearse bool
		after    time.Duration
		event    Event
		phase    Phase
		action   Action
	}{
		{"soon", true, 10 * time.Minute, EventOpen, Stepping, first},
		{"late", true, 10*time.Minute + 1, EventOpen, Rehearsing, Action{}},
		{"late, by a person", true, time.Hour, EventPromote, Rehearsing, Action{}},
		{"late, but nobody wanted it", false, time.Hour, EventOpen, Stepping, first},
	} {
		now := start.Add(c.after)
		run, action, _, err := gated(c.rehearse).Apply(c.event, "bob", "fine", now)
		if err != nil || run.Phase != c.phase || action != c.action || len(run.Gates) != 0 {
			t.Errorf("%s: %v, %s, %+v, %v", c.name, err, run.Phase, action, run.Gates)
		}
		if c.phase != Rehearsing {
			continue
		}
		if run.RoundInForce() != nil || run.Weight() != 0 || len(run.History) < 3 || !strings.Contains(run.Why, "rehearsed again") {
			t.Errorf("%s: %+v", c.name, run)
		}
		// Proven, it gets its weight and asks no gate again; unproven, it gets none.
		proven, e, why := run.InRound(1, "pin", now).Concluded(nil, 1, time.Millisecond, nil, now)
		proven, action, _, err = proven.Apply(e, "engine", why, now)
		if err != nil || proven.Phase != Stepping || action != first || proven.Rehearsal.Undo != time.Millisecond {
			t.Errorf("%s, proven: %v, %s, %+v", c.name, err, proven.Phase, action)
		}
		refused, e, why := run.InRound(1, "pin", now).Concluded(nil, 0, 0, []string{"proxy a: is away"}, now)
		refused, action, _, err = refused.Apply(e, "engine", why, now)
		if err != nil || refused.Phase != Refused || action != (Action{}) {
			t.Errorf("%s, unproven: %v, %s, %+v", c.name, err, refused.Phase, action)
		}
	}
}

func TestTheSlowestProxiesAreNamed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		times := rapid.SliceOfN(rapid.IntRange(1, 1000), 0, 2*maxRehearsed).Draw(rt, "times")
		var proxies []Rehearsed
		for _, ms := range times {
			proxies = append(proxies, Rehearsed{Node: "n", Acked: time.Duration(ms)})
		}
		run, _ := begin(t, Plan{}).Rehearse(start)
		run, _, _ = run.Concluded(proxies, 0, 0, nil, start)
		h := run.Rehearsal
		if len(h.Proxies)+h.More != len(times) || len(h.Proxies) > maxRehearsed {
			rt.Fatalf("%d named and %d more of %d", len(h.Proxies), h.More, len(times))
		}
		slices.SortFunc(times, func(a, b int) int { return b - a })
		for i, p := range h.Proxies {
			if p.Back() != time.Duration(times[i]) {
				rt.Fatalf("the %d. is %d, want %d", i, p.Back(), times[i])
			}
		}
	})
}
