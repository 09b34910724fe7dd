package drain

import (
	"fmt"
	"reflect"
	"testing"
	"time"
)

func TestRoutedCountsByTheGenerationThatAssigned(t *testing.T) {
	l, now := NewLedger(Contract{Default: Action{OnRollback: Complete}}), time.Date(2026, 11, 2, 2, 18, 0, 0, time.UTC)
	n := 0
	run := func(generation uint64, status int, outcome Outcome) string {
		n++
		id := fmt.Sprint("x", n)
		x, order := l.Admit(Begin{ID: id, Method: "POST", Path: "/", RouteGeneration: generation, Started: now})
		if order != nil {
			t.Fatal("not admitted")
		}
		if outcome != "" {
			x.SetOutcome(outcome == Success, "r")
		}
		x.End(status, now)
		return id
	}
	silent := run(3, 200, "")
	stated := run(3, 200, Success)
	failed := run(4, 200, Failure)
	run(4, 502, "")
	run(4, 404, "")
	run(0, 200, Failure)
	check := func(want ...Routed) {
		t.Helper()
		if got := l.Routed(); !reflect.DeepEqual(got, want) {
			t.Errorf("counted %+v, want %+v", got, want)
		}
	}
	check(Routed{Generation: 3, Started: 2, Succeeded: 1, Unknown: 1, Plain: 1}, Routed{Generation: 4, Started: 3, Failed: 2, Unknown: 1})
	keyed := NewLedger(Contract{Default: Action{OnRollback: Complete}})
	keyed.Admit(Begin{ID: "k", Key: "the client's", Method: "POST", Path: "/", RouteGeneration: 3, Started: now})
	if got := keyed.Routed(); len(got) != 1 || got[0].Started != 1 || got[0].Keyed != 1 {
		t.Errorf("keyed: %+v", got)
	}

	// Outcomes that come late count under the generation that assigned the execution, and reach those who follow the ledger.
	_, seq := l.Changed(0)
	for _, c := range []struct {
		id           string
		success      bool
		found, taken bool
	}{{silent, false, true, true}, {stated, false, true, true}, {failed, true, true, false}, {failed, false, true, true}, {"nobody", true, false, false}} {
		if found, taken := l.Late(c.id, c.success, "late"); found != c.found || taken != c.taken {
			t.Errorf("late outcome of %s: found %t, taken %t", c.id, found, taken)
		}
	}
	check(Routed{Generation: 3, Started: 2, Failed: 2}, Routed{Generation: 4, Started: 3, Failed: 2, Unknown: 1})
	if totals := l.Totals(); totals.Failed != 5 || totals.Succeeded != 0 || totals.Unknown != 1 || totals.Started != 6 {
		t.Errorf("totals %+v", totals)
	}
	rows, _ := l.Changed(seq)
	if len(rows) != 2 || rows[0].ID != silent || rows[0].Outcome != Failure || rows[0].OutcomeReason != "late" || rows[0].RouteGeneration != 3 {
		t.Errorf("readers were told %+v", rows)
	}

	for g := range uint64(10) {
		run(10+g, 200, Success)
	}
	run(3, 200, Success) // of a generation that is not counted any more
	if got := l.Routed(); len(got) != routedGenerations || got[0].Generation != 12 || got[7].Generation != 19 {
		t.Errorf("the newest generations: %+v", got)
	}
	for range pastEntries {
		run(20, 200, "")
	}
	if found, _ := l.Late(silent, false, ""); found {
		t.Error("an execution is remembered for ever")
	}
}

// A slow execution is counted where it was assigned and kept for those who follow the ledger, however well it ended.
func TestSlowExecutionsAreCountedAndKept(t *testing.T) {
	l, now := NewLedger(Contract{Default: Action{OnRollback: Complete}}), time.Date(2026, 11, 2, 2, 18, 0, 0, time.UTC)
	run := func(id string, took time.Duration) {
		x, _ := l.Admit(Begin{ID: id, Method: "POST", Path: "/", RouteGeneration: 3, Started: now})
		x.SetOutcome(true, "")
		x.End(200, now.Add(took))
	}
	run("before", time.Hour)
	l.SlowAfter(2 * time.Second)
	run("quick", 2*time.Second)
	_, seq := l.Changed(0)
	run("slow", 2*time.Second+1)
	rows, _ := l.Changed(seq)
	if len(rows) != 1 || rows[0].ID != "slow" || !rows[0].Slow || rows[0].Outcome != Success {
		t.Errorf("told %+v", rows)
	}
	if got, want := l.Routed(), []Routed{{Generation: 3, Started: 3, Succeeded: 3, Slow: 1}}; !reflect.DeepEqual(got, want) {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	if _, taken := l.Late("slow", false, "late"); !taken || l.Routed()[0].Slow != 1 || l.Routed()[0].Failed != 1 {
		t.Errorf("a late outcome: %+v", l.Routed())
	}
}
