package drain_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

const guardedContract = `
effects: guarded
default: {onRollback: complete, within: 2m, then: cancel, retryAfter: 1s-3s}
rules:
- when: {effects: none, olderThan: 2s}
  onRollback: cancel
  retryAfter: 1s
- when: {effects: none}
  onRollback: handover
  else: cancel
- when: {effects: readonly}
  onRollback: cancel
- when: {effects: irreversible}
  onRollback: complete
  within: 15m
  then: hold
`

// bench is a ledger with what its executions were told.
type bench struct {
	*drain.Ledger
	t    *testing.T
	cuts map[string][]drain.Decision
}

func newBench(t *testing.T, contract string) *bench {
	t.Helper()
	c := mustContract(t, contract)
	if errs := c.Validate(); errs != nil {
		t.Fatal(errs)
	}
	return &bench{Ledger: drain.NewLedger(c), t: t, cuts: map[string][]drain.Decision{}}
}

func (b *bench) begin(id string) drain.Begin {
	return drain.Begin{
		ID: id, Key: "key-" + id, Method: "POST", Path: "/v1/refunds", RouteGeneration: 7, Started: noon,
		Cut: func(d drain.Decision) { b.cuts[id] = append(b.cuts[id], d) },
	}
}

// admit begins an execution whose request is all there.
func (b *bench) admit(id string) *drain.Execution {
	b.t.Helper()
	x, order := b.Admit(b.begin(id))
	if order != nil {
		b.t.Fatalf("%s was not admitted: %+v", id, *order)
	}
	x.RequestEnded(true)
	return x
}

func (b *bench) wantCut(id string, want drain.Disposition) {
	b.t.Helper()
	if cuts := b.cuts[id]; len(cuts) != 1 || cuts[0].Disposition != want {
		b.t.Errorf("%s: cut calls %+v, want one %s", id, cuts, want)
	}
}

func (b *bench) wantNoCut(id string) {
	b.t.Helper()
	if cuts := b.cuts[id]; len(cuts) != 0 {
		b.t.Errorf("%s was cut: %+v", id, cuts)
	}
}

func order(generation uint64) drain.Order {
	return drain.Order{Generation: generation, Target: "2.0.3", At: noon, RetrySpread: 4 * time.Second}
}

func act(class drain.Effects) drain.Act {
	return drain.Act{Tool: "refund.issue", Class: class, Key: "r-1", At: noon}
}

func granted() error { return nil }

func TestFenceRefusesNewExecutionsAndLetsRunningOnesBeJoined(t *testing.T) {
	b := newBench(t, guardedContract)
	pays := b.admit("pays")
	if err := pays.Grant(act(drain.EffectsIrreversible), granted); err != nil {
		t.Fatal(err)
	}
	cut := b.admit("cut")
	if !b.Order(order(9), noon) {
		t.Fatal("the order was not taken")
	}
	if x, o := b.Admit(b.begin("new")); x != nil || o == nil || *o != order(9) {
		t.Errorf("a new execution: %v, %+v; want the order", x, o)
	}
	if x, o := b.Admit(b.begin("cut")); x != nil || o == nil || *o != order(9) {
		t.Errorf("an exchange of a cut execution: %v, %+v; want the order", x, o)
	}
	second, o := b.Admit(b.begin("pays"))
	if o != nil {
		t.Fatalf("an exchange of an execution that goes on was refused: %+v", *o)
	}
	pays.End(200, noon)
	if _, live := b.Join("pays"); !live {
		t.Error("the execution ended with its first exchange, though another one is open")
	}
	second.End(200, noon)
	if _, live := b.Join("pays"); live {
		t.Error("the execution outlived its last exchange")
	}
	cut.End(503, noon)
	want := drain.Totals{Started: 2, Unknown: 2, Completed: 1, HandedOver: 1}
	if got := b.Totals(); got != want {
		t.Errorf("totals %+v, want %+v", got, want)
	}
}

func TestOrderDecidesOverEveryRunningExecutionOnce(t *testing.T) {
	b := newBench(t, guardedContract)
	b.admit("fresh")
	old := b.begin("old")
	old.Started = noon.Add(-time.Minute)
	b.Admit(old)
	reads := b.admit("reads")
	reads.Report(act(drain.EffectsReadonly))
	pays := b.admit("pays")
	pays.Report(act(drain.EffectsIrreversible))
	b.admit("ended").End(200, noon)

	if !b.Order(order(9), noon) {
		t.Fatal("the order was not taken")
	}
	for _, again := range []uint64{9, 8, 0} {
		if b.Order(order(again), noon) {
			t.Errorf("generation %d was taken after 9", again)
		}
	}
	if !b.Order(order(10), noon.Add(time.Hour)) {
		t.Error("a newer order was not taken")
	}
	b.wantCut("fresh", drain.Handover)
	b.wantCut("old", drain.Cancel)
	b.wantCut("reads", drain.Cancel)
	b.wantNoCut("pays")
	b.wantNoCut("ended")
	if d, ok := pays.Decision(); !ok || d.Disposition != drain.Complete || !d.Deadline.Equal(noon.Add(15*time.Minute)) {
		t.Errorf("pays: %+v, want the decision of the first order", d)
	}
	if got, want := b.cuts["old"][0].RetryAfter, (drain.Range{Min: time.Second, Max: time.Second}); got != want {
		t.Errorf("retry after %s, want the rule's %s", got, want)
	}
	if got, want := b.cuts["reads"][0].RetryAfter, (drain.Range{Min: drain.MinRetry, Max: drain.MinRetry + 4*time.Second}); got != want {
		t.Errorf("retry after %s, want the order's %s", got, want)
	}
}

// A chain of rollbacks moves the target of a standing order, under the generation that it has.
func TestStandingOrderFollowsItsTarget(t *testing.T) {
	b := newBench(t, guardedContract)
	b.Order(order(9), noon)
	moved := order(9)
	moved.Target = "1.9.0"
	if b.Order(moved, noon) {
		t.Error("the standing order was taken as a new one")
	}
	if o, fenced := b.Fenced(); !fenced || o.Target != "1.9.0" {
		t.Errorf("fenced=%v, %+v; want target 1.9.0", fenced, o)
	}
	if _, o := b.Admit(b.begin("new")); o == nil || o.Target != "1.9.0" {
		t.Errorf("a new execution is sent to %+v, want 1.9.0", o)
	}
}

func TestDeadlines(t *testing.T) {
	b := newBench(t, guardedContract)
	late := b.admit("late")
	late.Report(act(drain.EffectsCompensable))
	own := b.begin("own")
	own.Deadline = noon.Add(30 * time.Second)
	x, _ := b.Admit(own)
	x.Report(act(drain.EffectsCompensable))
	pays := b.admit("pays")
	pays.Report(act(drain.EffectsIrreversible))
	turns := b.admit("turns")
	turns.Report(act(drain.EffectsIdempotent))
	done := b.admit("done")
	done.Report(act(drain.EffectsCompensable))

	b.Order(order(9), noon)
	if next := b.Tick(noon); !next.Equal(noon.Add(30 * time.Second)) {
		t.Errorf("first deadline %v, want the request's own after 30s", next)
	}
	done.End(200, noon.Add(time.Second))
	// It does what cannot be undone while it completes: its deadline no longer cuts it.
	if err := turns.Grant(act(drain.EffectsIrreversible), granted); err != nil {
		t.Fatal(err)
	}
	if next := b.Tick(noon.Add(30 * time.Second)); !next.Equal(noon.Add(2 * time.Minute)) {
		t.Errorf("next deadline %v, want 2m", next)
	}
	b.wantCut("own", drain.Cancel)
	b.wantNoCut("late")
	if next := b.Tick(noon.Add(2 * time.Minute)); !next.Equal(noon.Add(15 * time.Minute)) {
		t.Errorf("next deadline %v, want 15m", next)
	}
	b.wantCut("late", drain.Cancel)
	if got, want := b.cuts["late"][0].Why, "default: complete within 2m, then cancel; the deadline has passed: cancel; retry in 1s-3s"; got != want {
		t.Errorf("why: %s\nwant %s", got, want)
	}
	if next := b.Tick(noon.Add(time.Hour)); !next.IsZero() {
		t.Errorf("next deadline %v, want none", next)
	}
	for _, id := range []string{"pays", "turns"} {
		held, _ := b.Join(id)
		if row := held.Row(); row.Disposition != drain.Hold {
			t.Errorf("%s: %s (%s), want hold", id, row.Disposition, row.Why)
		}
		if d, _ := held.Decision(); d.Then != drain.Hold || d.Effects != drain.EffectsIrreversible {
			t.Errorf("%s: %+v", id, d)
		}
		b.wantNoCut(id)
	}
	b.wantNoCut("done")
	if got := b.Totals(); got.Held != 2 || got.InFlight != 4 {
		t.Errorf("totals %+v, want 2 held of 4", got)
	}
	// What is held goes on, and counts as completed when it ends.
	if err := pays.Grant(act(drain.EffectsIrreversible), granted); err != nil {
		t.Errorf("a held execution goes on: %v", err)
	}
	pays.End(200, noon.Add(time.Hour))
	if got := b.Totals(); got.Held != 1 || got.Completed != 2 {
		t.Errorf("totals %+v, want 1 held, 2 completed", got)
	}
}

func TestLift(t *testing.T) {
	b := newBench(t, guardedContract)
	goesOn := b.admit("goes on")
	goesOn.Report(act(drain.EffectsCompensable))
	held := b.begin("held")
	held.Deadline = noon
	x, _ := b.Admit(held)
	x.Report(act(drain.EffectsIrreversible))
	cut := b.admit("cut")
	b.Order(order(9), noon)
	b.Tick(noon)
	if got := b.Totals().Held; got != 1 {
		t.Fatalf("%d held, want 1", got)
	}

	if b.Lift(8) {
		t.Error("a generation older than the order lifted it")
	}
	if !b.Lift(10) || b.Lift(10) {
		t.Error("the fence is lifted once")
	}
	if _, fenced := b.Fenced(); fenced {
		t.Error("still fenced")
	}
	b.admit("new")
	if next := b.Tick(noon.Add(time.Hour)); !next.IsZero() {
		t.Errorf("a deadline outlived the fence: %v", next)
	}
	b.wantNoCut("goes on")
	if got := b.Totals().Held; got != 0 {
		t.Errorf("%d held after the fence was lifted", got)
	}
	if err := cut.Grant(act(drain.EffectsReadonly), granted); !errors.As(err, new(drain.ErrRefused)) {
		t.Errorf("a cut execution was granted an act: %v", err)
	}
	if _, o := b.Admit(b.begin("cut")); o == nil {
		t.Error("an exchange joined a cut execution")
	}

	// The next order decides anew over what just ran on, and not over what was cut.
	if b.Order(order(9), noon) {
		t.Error("the lifted order was taken again")
	}
	later := noon.Add(time.Hour)
	if !b.Order(order(11), later) {
		t.Fatal("the order was not taken")
	}
	b.wantCut("new", drain.Cancel)
	b.wantCut("cut", drain.Handover)
	if d, _ := goesOn.Decision(); !d.Deadline.Equal(later.Add(2 * time.Minute)) {
		t.Errorf("goes on: deadline %v, want 2m from the second order", d.Deadline)
	}
}

func TestRenumberTakesOrdersFromTheStart(t *testing.T) {
	b := newBench(t, guardedContract)
	b.Order(order(90), noon)
	b.Lift(91)
	b.Renumber()
	if !b.Order(order(2), noon) {
		t.Error("the first order of a new control plane was not taken")
	}
	if b.Order(order(1), noon) {
		t.Error("an older one was")
	}
}

// A loop that sleeps until the next deadline, as a sidecar does, cuts at the exact moment.
func TestDeadlinesDriveALoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		b := newBench(t, guardedContract)
		at := make(chan time.Duration, 1)
		x, _ := b.Admit(drain.Begin{ID: "x", Started: start, Cut: func(drain.Decision) { at <- time.Since(start) }})
		x.Report(act(drain.EffectsCompensable))
		b.Order(order(9), start)
		for next := b.Tick(time.Now()); !next.IsZero(); next = b.Tick(time.Now()) {
			<-time.After(time.Until(next))
		}
		if got := <-at; got != 2*time.Minute {
			t.Errorf("cut after %v, want 2m", got)
		}
	})
}

func TestRespondAndHandover(t *testing.T) {
	b := newBench(t, guardedContract)
	first, second := b.admit("first"), b.admit("second")
	if err := first.Respond(noon); err != nil {
		t.Fatal(err)
	}
	b.Order(order(9), noon)
	b.wantCut("first", drain.Cancel)
	b.wantCut("second", drain.Handover)
	if err := second.Respond(noon); !errors.As(err, new(drain.ErrRefused)) {
		t.Errorf("the answer of a handed-over execution may go out: %v", err)
	}
}

func TestHandoverHappensOnce(t *testing.T) {
	b := newBench(t, guardedContract)
	arrived := b.begin("arrived")
	arrived.HandedOverFrom = "x-1"
	x, _ := b.Admit(arrived)
	x.RequestEnded(true)
	joined := b.admit("joined")
	if _, o := b.Admit(b.begin("joined")); o != nil {
		t.Fatal(o)
	}
	joined.RequestEnded(true)
	b.Order(order(9), noon)
	b.wantCut("arrived", drain.Cancel)
	if got := b.Totals().Arrived; got != 1 {
		t.Errorf("%d arrived, want 1", got)
	}
	// One request of several cannot be begun again alone. Every open exchange is told.
	if cuts := b.cuts["joined"]; len(cuts) != 2 || cuts[0].Disposition != drain.Cancel {
		t.Errorf("joined: %+v, want a cancel for each of its exchanges", cuts)
	}
}

func TestJoinedExchanges(t *testing.T) {
	b := newBench(t, `{default: {onRollback: complete}, rules: [{when: {path: /cut}, onRollback: cancel}]}`)
	admit := func(id, exchange, path string, deadline time.Duration) *drain.Execution {
		begin := b.begin(id)
		begin.Path = path
		begin.Cut = func(d drain.Decision) { b.cuts[exchange] = append(b.cuts[exchange], d) }
		if deadline != 0 {
			begin.Deadline = noon.Add(deadline)
		}
		x, _ := b.Admit(begin)
		return x
	}
	// An execution has as much time as the exchange of it that has most.
	for _, c := range []struct {
		id                  string
		first, second, want time.Duration
	}{{"longer", time.Minute, time.Hour, time.Hour}, {"shorter", time.Hour, time.Minute, time.Hour}, {"none", time.Minute, 0, 0}, {"still none", 0, time.Minute, 0}} {
		admit(c.id, c.id, "/", c.first)
		var want time.Time
		if c.want != 0 {
			want = noon.Add(c.want)
		}
		if got := admit(c.id, c.id, "/", c.second).Row().Deadline; !got.Equal(want) {
			t.Errorf("%s: deadline %v, want %v", c.id, got, want)
		}
	}
	// Only the open ones are told of a cut.
	ended := admit("x", "ended", "/cut", 0)
	admit("x", "open", "/cut", 0)
	endedToo := admit("x", "ended too", "/cut", 0)
	ended.End(200, noon)
	endedToo.End(200, noon)
	b.Order(order(9), noon)
	b.wantNoCut("ended")
	b.wantNoCut("ended too")
	b.wantCut("open", drain.Cancel)
}

func TestDeclaredEffects(t *testing.T) {
	for _, c := range []struct {
		reporting         string
		declared, reports drain.Effects
		want              drain.Effects
		source            drain.Source
	}{
		{"unreported", "", "", drain.EffectsUnknown, drain.SourceSilent},
		{"reported", "", "", drain.EffectsUnknown, drain.SourceSilent},
		{"guarded", "", "", drain.EffectsNone, drain.SourceGuarded},
		{"unreported", drain.EffectsReadonly, "", drain.EffectsReadonly, drain.SourceDeclared},
		// A class that was declared holds throughout; none itself counts only with the guard.
		{"unreported", drain.EffectsNone, "", drain.EffectsReadonly, drain.SourceDeclared},
		{"guarded", drain.EffectsNone, "", drain.EffectsNone, drain.SourceDeclared},
		{"reported", "", drain.EffectsNone, drain.EffectsUnknown, drain.SourceReported},
		// The worst counts, wherever it comes from, and a known irreversible one is worse than an unknown one.
		{"reported", drain.EffectsCompensable, drain.EffectsReadonly, drain.EffectsCompensable, drain.SourceDeclared},
		{"reported", drain.EffectsReadonly, drain.EffectsCompensable, drain.EffectsCompensable, drain.SourceReported},
		{"unreported", drain.EffectsReadonly, drain.EffectsIrreversible, drain.EffectsIrreversible, drain.SourceReported},
		{"unreported", drain.EffectsIrreversible, drain.EffectsUnknown, drain.EffectsIrreversible, drain.SourceDeclared},
		{"unreported", "harmless", "", drain.EffectsUnknown, drain.SourceDeclared},
	} {
		b := newBench(t, `{effects: `+c.reporting+`, default: {onRollback: complete}}`)
		begin := b.begin("x")
		begin.Declared = c.declared
		x, _ := b.Admit(begin)
		if c.reports != "" {
			x.Report(act(c.reports))
		}
		if row := x.Row(); row.Effects != c.want || row.EffectsSource != c.source {
			t.Errorf("%+v: got %s, %s", c, row.Effects, row.EffectsSource)
		}
	}
}

func TestOutcomes(t *testing.T) {
	b := newBench(t, guardedContract)
	for _, c := range []struct {
		name    string
		state   func(*drain.Execution)
		status  int
		want    drain.Totals
		outcome drain.Outcome
		reason  string
	}{
		{"2xx alone says nothing", nil, 200, drain.Totals{Unknown: 1}, "", ""},
		{"4xx says nothing of the agent", nil, 404, drain.Totals{Unknown: 1}, "", ""},
		{"the client vanished", nil, 0, drain.Totals{Unknown: 1}, "", ""},
		{"5xx is a failure", nil, 502, drain.Totals{Failed: 1}, drain.Failure, "status 502"},
		{"stated success", func(x *drain.Execution) { x.SetOutcome(true, "") }, 200, drain.Totals{Succeeded: 1}, drain.Success, ""},
		{"stated failure", func(x *drain.Execution) { x.SetOutcome(false, "over the limit") }, 200, drain.Totals{Failed: 1}, drain.Failure, "over the limit"},
		{"the last statement counts", func(x *drain.Execution) { x.SetOutcome(false, "parked"); x.SetOutcome(true, "approved") }, 200, drain.Totals{Succeeded: 1}, drain.Success, "approved"},
		{"a statement outweighs the status", func(x *drain.Execution) { x.SetOutcome(true, "") }, 500, drain.Totals{Succeeded: 1}, drain.Success, ""},
	} {
		before := b.Totals()
		x := b.admit(c.name)
		if c.state != nil {
			c.state(x)
		}
		x.End(c.status, noon)
		x.End(500, noon)
		x.SetOutcome(false, "too late")
		got := b.Totals()
		if got.Started-before.Started != 1 || got.InFlight != 0 || got.Succeeded-before.Succeeded != c.want.Succeeded ||
			got.Failed-before.Failed != c.want.Failed || got.Unknown-before.Unknown != c.want.Unknown {
			t.Errorf("%s: totals %+v after %+v", c.name, got, before)
		}
		if row := x.Row(); row.Outcome != c.outcome || row.OutcomeReason != c.reason || row.Status != c.status {
			t.Errorf("%s: %s %q %d", c.name, row.Outcome, row.OutcomeReason, row.Status)
		}
	}
}

// The 503 of a retry signal is ours and no failure of the agent; one that the agent had stated before remains.
func TestCutIsNoFailure(t *testing.T) {
	b := newBench(t, guardedContract)
	x := b.admit("x")
	parked := b.admit("parked")
	parked.SetOutcome(false, "over the limit")
	b.Order(order(9), noon)
	x.End(503, noon)
	parked.End(503, noon)
	if got, want := b.Totals(), (drain.Totals{Started: 2, Unknown: 1, Failed: 1, HandedOver: 2}); got != want {
		t.Errorf("totals %+v, want %+v", got, want)
	}
}
