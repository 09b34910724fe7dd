package drain_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/specproxy/specproxy/internal/drain"
)

func TestGrant(t *testing.T) {
	t.Run("is journalled before it is given", func(t *testing.T) {
		b := newBench(t, guardedContract)
		x := b.admit("x")
		journalled := false
		if err := x.Grant(act(drain.EffectsIrreversible), func() error { journalled = true; return nil }); err != nil || !journalled {
			t.Errorf("journalled=%v, %v", journalled, err)
		}
		if row := x.Row(); row.Effects != drain.EffectsIrreversible || row.EffectsSource != drain.SourceGuarded || len(row.Acts) != 1 || row.Acts[0] != known(act(drain.EffectsIrreversible), drain.SourceGuarded) {
			t.Errorf("row %+v", row)
		}
	})
	t.Run("is refused by the journal", func(t *testing.T) {
		b := newBench(t, guardedContract)
		x := b.admit("x")
		full := errors.New("disk full")
		if err := x.Grant(act(drain.EffectsIrreversible), func() error { return full }); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
		if row := x.Row(); row.Effects != drain.EffectsNone || len(row.Acts) != 0 {
			t.Errorf("the refused act is still there: %+v", row)
		}
		b.Order(order(9), noon)
		b.wantCut("x", drain.Handover)
	})
	t.Run("is refused after a cut, without a journal entry", func(t *testing.T) {
		b := newBench(t, guardedContract)
		x := b.admit("x")
		b.Order(order(9), noon)
		var refused drain.ErrRefused
		err := x.Grant(act(drain.EffectsReadonly), func() error { t.Error("journalled"); return nil })
		if !errors.As(err, &refused) || refused.Decision.Disposition != drain.Handover {
			t.Errorf("got %v", err)
		}
	})
	t.Run("is refused after the end", func(t *testing.T) {
		b := newBench(t, guardedContract)
		x := b.admit("x")
		x.End(200, noon)
		if err := x.Grant(act(drain.EffectsReadonly), granted); !errors.Is(err, drain.ErrEnded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("of an unknown class counts as unknown", func(t *testing.T) {
		b := newBench(t, guardedContract)
		for _, class := range []drain.Effects{"", "harmless", drain.EffectsUnknown} {
			x := b.admit(fmt.Sprintf("x%s", class))
			if err := x.Grant(act(class), granted); err != nil || x.Row().Effects != drain.EffectsUnknown {
				t.Errorf("%q: %v, %s", class, err, x.Row().Effects)
			}
		}
	})
}

// The order comes while the grant is being written to disk. The journal runs under no lock, so it can bring the order itself.
func TestOrderDuringGrant(t *testing.T) {
	for _, c := range []struct {
		name    string
		class   drain.Effects
		journal error
		ends    bool
		granted bool
		want    drain.Disposition
		effects drain.Effects
		acts    int
	}{
		{name: "the act counts, so the execution completes", class: drain.EffectsIrreversible, granted: true, want: drain.Complete, effects: drain.EffectsIrreversible, acts: 1},
		{name: "the act counts and is cut all the same, so it is refused", class: drain.EffectsReadonly, want: drain.Cancel, effects: drain.EffectsReadonly},
		{name: "the act fails and was counted: the decision stays", class: drain.EffectsIrreversible, journal: errors.New("disk full"), want: drain.Complete, effects: drain.EffectsIrreversible},
		{name: "the execution ends", class: drain.EffectsIrreversible, ends: true, want: drain.Complete, effects: drain.EffectsIrreversible},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, guardedContract)
			x := b.admit("x")
			err := x.Grant(act(c.class), func() error {
				b.Order(order(9), noon)
				if c.ends {
					x.End(200, noon)
				}
				return c.journal
			})
			if (err == nil) != c.granted {
				t.Errorf("grant: %v, want granted=%v", err, c.granted)
			}
			if d, ok := x.Decision(); !ok || d.Disposition != c.want || d.Effects != c.effects {
				t.Errorf("decision %+v, want %s with effects %s", d, c.want, c.effects)
			}
			if row := x.Row(); len(row.Acts) != c.acts {
				t.Errorf("acts %+v, want %d", row.Acts, c.acts)
			}
		})
	}
}

// A disk that hangs under one grant holds up neither the order nor the other executions.
func TestOrderWaitsForNoJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, guardedContract)
		stuck := b.admit("stuck")
		b.admit("other")
		release := make(chan struct{})
		result := make(chan error)
		go func() {
			result <- stuck.Grant(act(drain.EffectsIrreversible), func() error { <-release; return nil })
		}()
		synctest.Wait()
		b.Order(order(9), noon)
		b.wantCut("other", drain.Handover)
		b.wantNoCut("stuck")
		close(release)
		if err := <-result; err != nil {
			t.Errorf("the grant that the order took into account was refused: %v", err)
		}
	})
}

// known is the act as the ledger keeps it.
func known(a drain.Act, by drain.Source) drain.Act {
	a.Source = by
	return a
}
