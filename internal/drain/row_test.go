package drain_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

func ids(rows []drain.Row) []string {
	out := make([]string, 0, len(rows))
	for _, r := range rows {
		out = append(out, r.ID)
	}
	return out
}

func TestChanged(t *testing.T) {
	b := newBench(t, guardedContract)
	quiet, fails, pays := b.admit("quiet"), b.admit("fails"), b.admit("pays")
	rows, seq := b.Changed(0)
	if got := ids(rows); !slices.Equal(got, []string{"quiet", "fails", "pays"}) {
		t.Errorf("at first: %v", got)
	}
	if rows, again := b.Changed(seq); len(rows) != 0 || again != seq {
		t.Errorf("nothing happened: %v, %d after %d", ids(rows), again, seq)
	}
	fails.End(500, noon.Add(time.Second))
	pays.Report(act(drain.EffectsIrreversible))
	quiet.End(200, noon.Add(time.Second))
	rows, seq = b.Changed(seq)
	if got := ids(rows); !slices.Equal(got, []string{"fails", "pays"}) {
		t.Errorf("then: %v, want the failure and the act, not the one that just ended", got)
	}
	if !rows[0].EndedAt.Equal(noon.Add(time.Second)) || rows[0].Outcome != drain.Failure {
		t.Errorf("the failure: %+v", rows[0])
	}
	b.Order(order(9), noon)
	pays.End(200, noon.Add(time.Minute))
	rows, seq = b.Changed(seq)
	if got := ids(rows); !slices.Equal(got, []string{"pays"}) || rows[0].Disposition != drain.Complete {
		t.Errorf("at last: %+v, want the end of what was decided over", rows)
	}
	// An effect that is told of too late is not lost.
	pays.Report(act(drain.EffectsCompensable))
	if rows, _ = b.Changed(seq); len(rows) != 1 || len(rows[0].Acts) != 2 {
		t.Errorf("a late report: %+v", rows)
	}
	// A second reader begins at the start and finds the same.
	if rows, _ = b.Changed(0); !slices.Equal(ids(rows), []string{"fails", "pays"}) {
		t.Errorf("a second reader: %v", ids(rows))
	}
}

func TestKeptRowsAreBounded(t *testing.T) {
	b := newBench(t, guardedContract)
	const failures = 10_500
	for i := range failures {
		b.admit(fmt.Sprint(i)).End(500, noon)
	}
	rows, _ := b.Changed(0)
	if len(rows) != 10_000 || rows[0].ID != "500" || rows[9_999].ID != "10499" {
		t.Errorf("%d rows, from %s to %s; want the last 10,000", len(rows), rows[0].ID, rows[len(rows)-1].ID)
	}
	if got := b.Totals().Failed; got != failures {
		t.Errorf("%d failures counted, want %d", got, failures)
	}
}

// However much an execution does, its row stays small and its worst act stays in it.
func TestActsAreBounded(t *testing.T) {
	b := newBench(t, guardedContract)
	x := b.admit("x")
	for range 1000 {
		x.Report(act(drain.EffectsReadonly))
	}
	worst := drain.Act{Tool: "refund.issue", Class: drain.EffectsIrreversible, Key: "r-2", At: noon}
	x.Report(worst)
	for range 1000 {
		x.Report(act(drain.EffectsReadonly))
	}
	row := x.Row()
	if len(row.Acts) != 64 || !slices.Contains(row.Acts, known(worst, drain.SourceReported)) || row.Effects != drain.EffectsIrreversible {
		t.Errorf("%d acts, effects %s", len(row.Acts), row.Effects)
	}
}

// Acts that touched the world push out those that did not, and what finds no room is counted.
func TestActsThatTouchedTheWorldGoFirst(t *testing.T) {
	b := newBench(t, guardedContract)
	x := b.admit("x")
	for range 100 {
		x.Report(act(drain.EffectsReadonly))
	}
	for range 70 {
		x.Report(act(drain.EffectsCompensable))
	}
	x.Report(act(drain.EffectsReadonly))
	row := x.Row()
	touched := 0
	for _, a := range row.Acts {
		if a.Touches() {
			touched++
		}
	}
	if touched != 64 || row.ActsOmitted != 6 {
		t.Errorf("%d acts that touched the world are kept, %d omitted; want 64 and 6", touched, row.ActsOmitted)
	}
}

func TestRowHoldsWhatIsKnown(t *testing.T) {
	b := newBench(t, guardedContract)
	begin := b.begin("x")
	begin.Deadline = noon.Add(time.Hour)
	x, _ := b.Admit(begin)
	x.RequestEnded(true)
	if err := x.Respond(noon); err != nil {
		t.Fatal(err)
	}
	got := x.Row()
	if len(got.Acts) != 0 {
		t.Errorf("acts %+v", got.Acts)
	}
	got.Acts = nil
	want := drain.Row{
		ID: "x", Key: "key-x", Method: "POST", Path: "/v1/refunds", StartedAt: noon, RouteGeneration: 7, Deadline: noon.Add(time.Hour),
		Effects: drain.EffectsNone, EffectsSource: drain.SourceGuarded, Responded: true, Replayable: true,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	// A preview over the row says what the order then does.
	preview := drain.Decide(mustContract(t, guardedContract), got.View(), "2.0.3", noon)
	b.Order(order(9), noon)
	if d, _ := x.Decision(); d.Disposition != preview.Disposition || d.Rule != preview.Rule || d.Disposition != drain.Cancel {
		t.Errorf("decided %+v, previewed %+v", d, preview)
	}
}

func TestLastAdmission(t *testing.T) {
	b := newBench(t, guardedContract)
	if id, at := b.LastAdmission(); id != "" || !at.IsZero() {
		t.Errorf("an empty ledger admitted %q at %v", id, at)
	}
	for i := range 100 {
		begin := b.begin(fmt.Sprint(i))
		begin.Started = noon.Add(time.Duration(i) * time.Millisecond)
		b.Admit(begin)
	}
	b.Order(order(9), noon.Add(time.Second))
	b.Admit(b.begin("refused"))
	if id, at := b.LastAdmission(); id != "99" || !at.Equal(noon.Add(99*time.Millisecond)) {
		t.Errorf("last admission %q at %v, want 99", id, at)
	}
}

func TestRunning(t *testing.T) {
	b := newBench(t, guardedContract)
	for i, id := range []string{"c", "a", "b", "gone"} {
		begin := b.begin(id)
		begin.Started = noon.Add(-time.Duration(i/2) * time.Minute)
		x, _ := b.Admit(begin)
		if id == "gone" {
			x.End(500, noon)
		}
	}
	if got := ids(b.Running()); !slices.Equal(got, []string{"b", "a", "c"}) {
		t.Errorf("running %v, want b, a, c: longest running first, then by id", got)
	}
}

// A deadline that holds is told from one that ends: the effects that are known by now count, too.
func TestRowsSayWhatTheirDeadlineDoes(t *testing.T) {
	l := drain.NewLedger(mustContract(t, `{effects: guarded, default: {onRollback: complete, within: 1m, then: cancel}, rules: [{when: {path: /jobs}, onRollback: complete, within: 2m, then: hold}]}`))
	ends, _ := l.Admit(drain.Begin{ID: "ends", Path: "/", Started: noon})
	holds, _ := l.Admit(drain.Begin{ID: "holds", Path: "/jobs", Started: noon})
	acts, _ := l.Admit(drain.Begin{ID: "acts", Path: "/", Started: noon})
	l.Order(order(1), noon)
	if err := acts.Grant(act(drain.EffectsIrreversible), nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		x     *drain.Execution
		by    time.Time
		holds bool
	}{{ends, noon.Add(time.Minute), false}, {holds, noon.Add(2 * time.Minute), true}, {acts, noon.Add(time.Minute), true}} {
		if row := c.x.Row(); !row.SettleBy.Equal(c.by) || row.Holds != c.holds {
			t.Errorf("%s: by %s, holds %v", row.ID, row.SettleBy, row.Holds)
		}
	}
}
