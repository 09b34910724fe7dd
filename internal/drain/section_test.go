package drain_test

import (
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

const sectionContract = `
effects: guarded
default: {onRollback: cancel}
maxTotal: 10m
onPromote: {disposition: complete, within: 5m, then: cancel}
onShutdown: {disposition: handover, else: complete}
`

func TestEachKindOfOrderHasItsOwnSection(t *testing.T) {
	c := mustContract(t, sectionContract)
	fresh := drain.View{Method: "POST", Path: "/", Started: noon, Replayable: true, Redirectable: true}
	grpc := fresh
	grpc.Redirectable = false
	acted := fresh
	acted.Effects = drain.EffectsIrreversible
	for _, x := range []struct {
		name  string
		kind  drain.Kind
		view  drain.View
		want  drain.Disposition
		until time.Duration
		why   string
	}{
		{"rollback", drain.KindRollback, fresh, drain.Cancel, 0, "default: cancel"},
		{"no kind is a rollback", "", fresh, drain.Cancel, 0, "default: cancel"},
		{"promote", drain.KindPromote, fresh, drain.Complete, 5 * time.Minute, "onPromote: complete within 5m, then cancel"},
		{"promote never cuts what is irreversible", drain.KindPromote, acted, drain.Complete, 5 * time.Minute, "then hold, since an irreversible effect is never cut"},
		{"shutdown", drain.KindShutdown, fresh, drain.Handover, 0, "onShutdown: handover to 2.1.0"},
		{"shutdown of what cannot be redirected", drain.KindShutdown, grpc, drain.Complete, 0, "no proxy would follow a redirect of it"},
		{"shutdown never repeats what is irreversible", drain.KindShutdown, acted, drain.Complete, 0, "effects are irreversible"},
	} {
		d := drain.Under(c, drain.Order{Generation: 1, Target: "2.1.0", Kind: x.kind})(x.view, noon)
		until := time.Duration(0)
		if !d.Deadline.IsZero() {
			until = d.Deadline.Sub(noon)
		}
		if d.Disposition != x.want || until != x.until || !strings.Contains(d.Why, x.why) {
			t.Errorf("%s: %s for %s: %s", x.name, d.Disposition, until, d.Why)
		}
	}
	none := mustContract(t, `{default: {onRollback: cancel}}`)
	for _, kind := range []drain.Kind{drain.KindPromote, drain.KindShutdown} {
		if d := drain.Under(none, drain.Order{Generation: 1, Target: "2.1.0", Kind: kind})(fresh, noon); d.Disposition != drain.Complete || !d.Deadline.IsZero() {
			t.Errorf("%s without a section: %+v, want complete", kind, d)
		}
	}
}

func TestDefaultDeadlineHoldsWhereNoRuleGivesOne(t *testing.T) {
	c := mustContract(t, `{default: {onRollback: complete}, rules: [{when: {path: /own}, onRollback: complete, within: 5m, then: cancel}]}`)
	o := drain.Order{Generation: 1, Target: "2.0.3", DefaultWithin: 3 * time.Minute}
	for path, want := range map[string]drain.Decision{
		"/":    {Deadline: noon.Add(3 * time.Minute), Then: drain.Hold},
		"/own": {Deadline: noon.Add(5 * time.Minute), Then: drain.Cancel},
	} {
		if d := drain.Under(c, o)(drain.View{Path: path, Started: noon}, noon); !d.Deadline.Equal(want.Deadline) || d.Then != want.Then {
			t.Errorf("%s: until %s then %s (%s)", path, d.Deadline, d.Then, d.Why)
		}
	}
	l := drain.NewLedger(c)
	x, _ := l.Admit(drain.Begin{ID: "a", Path: "/", Started: noon, Cut: func(drain.Decision) { t.Error("cut") }})
	l.Order(o, noon)
	if next := l.Tick(noon); !next.Equal(noon.Add(3 * time.Minute)) {
		t.Errorf("next deadline %s", next)
	}
	if l.Tick(noon.Add(3 * time.Minute)); x.Row().Disposition != drain.Hold || l.Totals().Held != 1 {
		t.Errorf("past its default deadline: %+v", x.Row())
	}
}

func TestDefaultDeadlineIsTwiceTheNinetyNinthPercentileWithinBounds(t *testing.T) {
	var quick, slow drain.Durations
	l := drain.NewLedger(mustContract(t, `{default: {onRollback: complete}}`))
	for i := range 100 {
		x, _ := l.Admit(drain.Begin{ID: "x", Path: "/", Started: noon})
		x.End(200, noon.Add(time.Duration(i+1)*time.Second))
	}
	slow = l.Durations()
	p99, _ := slow.Quantile(0.99)
	if slow.Count() != 100 || p99 < 99*time.Second || p99 > 118*time.Second {
		t.Errorf("%d durations of 1 to 100 s with p99 %s, want at most 19 %% above 99 s", slow.Count(), p99)
	}
	quick = drain.Durations{10}
	bounded := mustContract(t, `{default: {onRollback: complete}, defaultWithin: 10s-2m}`)
	free := mustContract(t, `{default: {onRollback: complete}}`)
	for _, x := range []struct {
		c    drain.Contract
		pool drain.Durations
		want time.Duration
	}{
		{free, slow, 2 * p99}, {bounded, slow, 2 * time.Minute}, {bounded, quick, 10 * time.Second}, {free, quick, time.Minute}, {bounded, nil, 2 * time.Minute},
	} {
		if got := x.c.DefaultDeadline(x.pool); got != x.want {
			t.Errorf("default deadline %s, want %s", got, x.want)
		}
	}
}

func TestDurationsAddUpAndLeaveOutWhatWasCut(t *testing.T) {
	l := drain.NewLedger(mustContract(t, `{default: {onRollback: cancel}}`))
	x, _ := l.Admit(drain.Begin{ID: "a", Path: "/", Started: noon})
	y, _ := l.Admit(drain.Begin{ID: "b", Path: "/", Started: noon})
	x.End(200, noon.Add(time.Second))
	l.Order(drain.Order{Generation: 1, Target: "2.0.3"}, noon)
	y.End(503, noon.Add(time.Minute))
	d := l.Durations()
	if n := d.Count(); n != 1 {
		t.Errorf("%d durations, want only that of what ended by itself", n)
	}
	sum := d.Plus(drain.Durations{1}).Plus(nil)
	if sum.Count() != 2 || sum[0] != 1 || d[0] != 0 {
		t.Errorf("sum %v of %v", sum, d)
	}
}

func TestEstimate(t *testing.T) {
	var pool drain.Durations
	l := drain.NewLedger(mustContract(t, `{default: {onRollback: complete}}`))
	for i := range 60 {
		x, _ := l.Admit(drain.Begin{ID: "x", Path: "/", Started: noon})
		x.End(200, noon.Add(time.Duration(i+1)*time.Second))
	}
	pool = l.Durations()
	ago := func(d time.Duration) time.Time { return noon.Add(-d) }
	for _, x := range []struct {
		name      string
		running   []drain.Remaining
		low, high time.Duration
		known     bool
	}{
		{"nothing runs", nil, 0, time.Millisecond, true},
		{"one that has just begun", []drain.Remaining{{Started: noon}}, 20 * time.Second, 40 * time.Second, true},
		{"the longer it has run the less is left", []drain.Remaining{{Started: ago(50 * time.Second)}}, time.Second, 12 * time.Second, true},
		{"many take longer than one", []drain.Remaining{{Started: noon}, {Started: noon}, {Started: noon}, {Started: noon}, {Started: noon}, {Started: noon}}, 45 * time.Second, 75 * time.Second, true},
		{"a deadline ends it", []drain.Remaining{{Started: noon, Until: noon.Add(2 * time.Second)}}, time.Second, 3 * time.Second, true},
		{"older than anything known, with a deadline", []drain.Remaining{{Started: ago(time.Hour), Until: noon.Add(time.Minute)}}, time.Minute, time.Minute, true},
		{"older than anything known, without one", []drain.Remaining{{Started: ago(time.Hour)}}, 0, 0, false},
	} {
		got, known := drain.Estimate(pool, x.running, noon)
		if known != x.known || got < x.low || got > x.high {
			t.Errorf("%s: %s %v, want %s to %s", x.name, got, known, x.low, x.high)
		}
	}
	if _, known := drain.Estimate(nil, []drain.Remaining{{Started: noon}}, noon); known {
		t.Error("an estimate from nothing")
	}
}

func TestConversationsEndAtMaxTotal(t *testing.T) {
	c := mustContract(t, `{default: {onRollback: complete, within: 1m, then: hold}, maxTotal: 10m}`)
	l := drain.NewLedger(c)
	cuts := map[string]int{}
	begin := func(id string) *drain.Execution {
		x, _ := l.Admit(drain.Begin{ID: id, Path: "/", Started: noon, Cut: func(drain.Decision) { cuts[id]++ }})
		return x
	}
	single, held, acted, late := begin("single"), begin("held"), begin("acted"), begin("late")
	begin("held")
	begin("acted")
	acted.Report(drain.Act{Tool: "pay", Class: drain.EffectsIrreversible})
	l.Order(drain.Order{Generation: 1, Target: "2.0.3"}, noon)
	l.Tick(noon.Add(time.Minute))
	for _, x := range []*drain.Execution{single, held, acted, late} {
		if row := x.Row(); row.Disposition != drain.Hold {
			t.Errorf("%s after its deadline: %s", row.ID, row.Disposition)
		}
	}
	// A second exchange makes it a conversation.
	if x, _ := l.Admit(drain.Begin{ID: "late", Path: "/", Started: noon.Add(5 * time.Minute), Cut: func(drain.Decision) { cuts["late"]++ }}); x == nil {
		t.Fatal("the execution cannot be joined within its time")
	}
	l.Tick(noon.Add(10 * time.Minute))
	if cuts["held"] != 2 || cuts["late"] != 2 || cuts["single"] != 0 || cuts["acted"] != 0 {
		t.Errorf("cuts at the end of all conversations: %v", cuts)
	}
	if held := l.Totals().Held; held != 2 {
		t.Errorf("%d held, want the one that is no conversation and the one that acted", held)
	}
	if x, order := l.Admit(drain.Begin{ID: "single", Path: "/", Started: noon.Add(11 * time.Minute)}); x != nil || order == nil || order.Target != "2.0.3" {
		t.Error("an execution became a conversation after the end of its time")
	}
}

func TestSettleDecidesAndGoesOnAdmitting(t *testing.T) {
	l := drain.NewLedger(mustContract(t, sectionContract))
	before, _ := l.Admit(drain.Begin{ID: "before", Path: "/", Started: noon})
	o := drain.Order{Generation: 3, Target: "2.1.0", Kind: drain.KindPromote}
	if !l.Settle(o, noon) || l.Settle(o, noon) {
		t.Error("an order to settle is taken once")
	}
	if _, fenced := l.Fenced(); fenced {
		t.Error("a promotion raised the fence")
	}
	after, order := l.Admit(drain.Begin{ID: "after", Path: "/", Started: noon})
	if order != nil {
		t.Fatal("not admitted")
	}
	if l.Settling() != 1 || before.Row().Disposition != drain.Complete || after.Row().Disposition != "" {
		t.Errorf("%d settle: %+v", l.Settling(), before.Row())
	}
	// A rollback is another order: what a promotion let complete it may cut.
	l.Order(drain.Order{Generation: 4, Target: "2.0.3"}, noon)
	for _, x := range []*drain.Execution{before, after} {
		if row := x.Row(); row.Disposition != drain.Cancel {
			t.Errorf("%s under the rollback: %s", row.ID, row.Disposition)
		}
	}
	l.Lift(4)
	third, _ := l.Admit(drain.Begin{ID: "third", Path: "/", Started: noon})
	l.Settle(drain.Order{Generation: 5, Target: "2.1.0", Kind: drain.KindPromote}, noon)
	if !l.Lift(5) || third.Row().SettleBy != (time.Time{}) || l.Settling() != 2 {
		t.Errorf("lifted: %+v, %d settle", third.Row(), l.Settling())
	}
	if next := l.Tick(noon.Add(time.Hour)); !next.IsZero() || third.Row().Disposition != drain.Complete {
		t.Error("a lifted deadline was applied")
	}
}
