package drain

import (
	"errors"
	"fmt"
)

// Override is what an operator decides over one execution, in place of its rule.
type Override struct {
	// Disposition is complete, handover or cancel.
	Disposition Disposition
	// Why names the operator and the reason.
	Why string
	// DespiteEffects lets it be cancelled although it has a known irreversible effect, and handed over although what it did may be done twice.
	// An irreversible act is never repeated all the same.
	DespiteEffects bool
}

// ErrNotRunning says that no such execution runs.
var ErrNotRunning = errors.New("it does not run here (any more)")

// Override decides over one execution. Decision, override and grant share one lock, so it sees every act that was granted, and once it has cut
// nothing more is granted. A cut is final and is not overridden; the same override again changes nothing. The error says why it was refused.
func (l *Ledger) Override(id string, o Override) error {
	s := l.shard(id)
	s.mu.Lock()
	e, live := s.live[id]
	s.mu.Unlock()
	if !live {
		return ErrNotRunning
	}
	l.orders.mu.Lock()
	standing := l.fence.Load()
	if standing == nil {
		standing = l.orders.settling
	}
	cuts, err := e.override(o, standing)
	l.orders.mu.Unlock()
	call(cuts)
	return err
}

func (e *entry) override(o Override, standing *Order) ([]cut, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended.IsZero() {
		return nil, ErrNotRunning
	}
	if e.cut() {
		if e.decision.Disposition == o.Disposition {
			return nil, nil
		}
		return nil, fmt.Errorf("it ends with %s already (%s), and that is final", e.decision.Disposition, e.decision.Why)
	}
	plan := e.ledger.plan
	x := e.view()
	d := Decision{Disposition: o.Disposition, Rule: OperatorRule, Effects: plan.effective(x.Effects), Why: "operator: " + o.Why}
	if err := CheckOverride(plan.Contract, x, o, standing); err != nil {
		return nil, err
	}
	if standing != nil {
		d.RetryAfter = standing.retry()
	} else {
		standing = &Order{}
	}
	e.decision, e.order, e.void = &d, standing, false
	e.hold(false)
	e.settles(true)
	e.touch()
	if d.Cuts() {
		return e.cuts(nil), nil
	}
	return nil, nil
}

// CheckOverride says why an override of an execution that goes on would be refused, nil if it would not. standing is the order in force over
// its version, nil for none.
func CheckOverride(c Contract, x View, o Override, standing *Order) error {
	effects := c.effective(x.Effects)
	switch o.Disposition {
	case Complete:
		if standing == nil {
			return errors.New("nothing is going to cut it: its version is not being drained")
		}
		return nil
	case Handover:
		if standing == nil {
			return errors.New("there is no version to hand it over to: its own is not being drained")
		}
		if obstacle := newPlan(c).obstacle(x, standing, true, effects); obstacle != "" {
			return fmt.Errorf("a hand-over is impossible: %s", obstacle)
		}
		if worst := effects; !o.DespiteEffects && worst.rank() > EffectsIdempotent.rank() {
			return fmt.Errorf("its effects are %s, and what it did may be done again: say that this is meant (despite effects)", worst)
		}
		return nil
	case Cancel:
		if effects == EffectsIrreversible && !o.DespiteEffects {
			return errors.New("it has a known irreversible effect, which cancelling does not undo: say that this is meant (despite effects)")
		}
		return nil
	case Hold:
	}
	return fmt.Errorf("%q cannot be ordered: write %s", o.Disposition, oneOf([]Disposition{Complete, Handover, Cancel}))
}
