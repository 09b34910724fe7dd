package drain_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

const overrideContract = `{effects: guarded, default: {onRollback: complete, within: 1m, then: cancel}}`

func TestOverride(t *testing.T) {
	irreversible := func(x *drain.Execution) { _ = x.Grant(drain.Act{Tool: "pay", Class: drain.EffectsIrreversible}, nil) }
	compensable := func(x *drain.Execution) { _ = x.Grant(drain.Act{Tool: "pay", Class: drain.EffectsCompensable}, nil) }
	for _, c := range []struct {
		name    string
		before  func(*drain.Execution)
		ordered bool
		o       drain.Override
		refused string
		want    drain.Disposition
	}{
		{"cancel", nil, true, drain.Override{Disposition: drain.Cancel}, "", drain.Cancel},
		{"cancel without a drain", nil, false, drain.Override{Disposition: drain.Cancel}, "", drain.Cancel},
		{"cancel after a compensable act", compensable, true, drain.Override{Disposition: drain.Cancel}, "", drain.Cancel},
		{"cancel after an irreversible act", irreversible, true, drain.Override{Disposition: drain.Cancel}, "irreversible effect", drain.Complete},
		{"cancel in spite of it", irreversible, true, drain.Override{Disposition: drain.Cancel, DespiteEffects: true}, "", drain.Cancel},
		{"complete", nil, true, drain.Override{Disposition: drain.Complete}, "", drain.Complete},
		{"complete without a drain", nil, false, drain.Override{Disposition: drain.Complete}, "not being drained", ""},
		{"hand over", nil, true, drain.Override{Disposition: drain.Handover}, "", drain.Handover},
		{"hand over without a drain", nil, false, drain.Override{Disposition: drain.Handover}, "not being drained", ""},
		{"hand over after the first byte", func(x *drain.Execution) { _ = x.Respond(noon) }, true, drain.Override{Disposition: drain.Handover, DespiteEffects: true}, "a response byte was sent", drain.Complete},
		{"hand over what acted", compensable, true, drain.Override{Disposition: drain.Handover}, "its effects are compensable, and what it did may be done again", drain.Complete},
		{"hand over what acted, knowing that", compensable, true, drain.Override{Disposition: drain.Handover, DespiteEffects: true}, "", drain.Handover},
		{"an irreversible act is never repeated", irreversible, true, drain.Override{Disposition: drain.Handover, DespiteEffects: true}, "effects are irreversible", drain.Complete},
		{"hold is no order", nil, true, drain.Override{Disposition: drain.Hold}, "cannot be ordered", drain.Complete},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := drain.NewLedger(mustContract(t, overrideContract))
			cuts := 0
			x, _ := l.Admit(drain.Begin{ID: "a", Path: "/", Started: noon, Cut: func(drain.Decision) { cuts++ }})
			x.RequestEnded(true)
			if c.before != nil {
				c.before(x)
			}
			if c.ordered {
				l.Order(drain.Order{Generation: 1, Target: "2.0.3"}, noon)
			}
			c.o.Why = "alice: it hangs"
			err := l.Override("a", c.o)
			if (err != nil) != (c.refused != "") || err != nil && !strings.Contains(err.Error(), c.refused) {
				t.Errorf("error %v, want %q", err, c.refused)
			}
			row := x.Row()
			if row.Disposition != c.want {
				t.Errorf("disposition %q: %s", row.Disposition, row.Why)
			}
			if err == nil {
				if again := l.Override("a", c.o); again != nil {
					t.Errorf("the same again: %v", again)
				}
				if !strings.Contains(row.Why, "operator: alice: it hangs") {
					t.Errorf("why %q", row.Why)
				}
				if want := map[bool]int{true: 1}[c.want != drain.Complete]; cuts != want {
					t.Errorf("cut %d times, want %d", cuts, want)
				}
			}
			if err == nil && c.want == drain.Complete {
				if next := l.Tick(noon.Add(time.Hour)); !next.IsZero() || x.Row().Disposition != drain.Complete {
					t.Error("its rule's deadline was applied all the same")
				}
			}
		})
	}
}

func TestOverrideReleasesWhatIsHeld(t *testing.T) {
	l := drain.NewLedger(mustContract(t, `{default: {onRollback: complete, within: 1m, then: hold}}`))
	x, _ := l.Admit(drain.Begin{ID: "a", Path: "/", Started: noon})
	l.Order(drain.Order{Generation: 1, Target: "2.0.3"}, noon)
	l.Tick(noon.Add(time.Minute))
	if err := l.Override("a", drain.Override{Disposition: drain.Complete, Why: "alice"}); err != nil || l.Totals().Held != 0 {
		t.Errorf("%v, %d held", err, l.Totals().Held)
	}
	if err := l.Override("a", drain.Override{Disposition: drain.Cancel, Why: "alice"}); err != nil || x.Row().Disposition != drain.Cancel {
		t.Errorf("%v: %+v", err, x.Row())
	}
	if err := l.Override("a", drain.Override{Disposition: drain.Complete, Why: "bob"}); err == nil || !strings.Contains(err.Error(), "final") {
		t.Errorf("a cut was taken back: %v", err)
	}
	x.End(503, noon)
	if err := l.Override("a", drain.Override{Disposition: drain.Cancel, Why: "alice"}); !errors.Is(err, drain.ErrNotRunning) {
		t.Errorf("after its end: %v", err)
	}
}

// An operator's cancel and the agent's grant race; never do both win.
func TestOverrideNeverRacesAGrant(t *testing.T) {
	for range 2000 {
		l := drain.NewLedger(mustContract(t, overrideContract))
		x, _ := l.Admit(drain.Begin{ID: "a", Path: "/", Started: noon})
		var granted, refused error
		var wg sync.WaitGroup
		wg.Go(func() { granted = x.Grant(drain.Act{Tool: "pay", Class: drain.EffectsIrreversible}, nil) })
		wg.Go(func() { refused = l.Override("a", drain.Override{Disposition: drain.Cancel}) })
		wg.Wait()
		if granted == nil && refused == nil {
			t.Fatal("an act was granted and its execution cancelled without a word of it")
		}
		if granted != nil && refused != nil {
			t.Fatalf("neither: %v, %v", granted, refused)
		}
	}
}
