package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// Apply lets an event happen and returns the rollout after it, what is to be done for it, and whether anything changed. An error names the phase
// and what is possible in it; the rollout is then as it was.
func (r Run) Apply(e Event, by, why string, now time.Time) (Run, Action, bool, error) {
	m, known := table[r.Phase][e]
	if !known {
		return r, Action{}, false, fmt.Errorf("the rollout of %s:%s is %s: it cannot %s", r.Spec, r.Canary, r.Phase, e)
	}
	if m == ignore {
		return r, Action{}, false, nil
	}
	before := r.Weight()
	r.History = slices.Clone(r.History)
	if err := r.carryOut(m, by, why, now); err != nil {
		return r, Action{}, false, err
	}
	if r.Phase != Rehearsing && r.Rehearsal != nil && r.Rehearsal.Round != nil { // proxies are to have no trace of it, whatever ended it
		rehearsal := *r.Rehearsal
		rehearsal.Round = nil
		if rehearsal.EndedAt.IsZero() {
			rehearsal.EndedAt, rehearsal.Failures = now, []string{"it was broken off: " + r.Why}
		}
		r.Rehearsal = &rehearsal
	}
	r.note(e, by, now)
	a := Action{Weight: r.Weight(), Rollback: r.Phase == Aborted && m != end && before > 0}
	a.Changed = a.Weight != before && m != end && m != yield
	return r, a, true, nil
}

func (r *Run) carryOut(m move, by, why string, now time.Time) error {
	switch m {
	case advance:
		r.advance(why, now)
	case goOn:
		r.move(now)
		r.Phase, r.Why = Stepping, or(why, "it goes on")
		if len(r.Gates) > 0 {
			r.Phase = Gated
		}
		if r.Step >= len(r.Plan.Steps) {
			r.Phase = Baking
		}
		// A clock that had run out gives the step its time anew: otherwise it would be held again at once.
		if b := r.Bound(); b > 0 && r.Elapsed(now) >= b {
			r.EnteredAt, r.StoodFor = now, 0
		}
	case pause:
		r.stand(now)
		r.Acked = r.Acked || r.Phase == Failed
		r.Phase, r.Why, r.AckBy = Paused, or(why, "paused by "+by), time.Time{}
	case hold:
		r.stand(now)
		r.Phase, r.Why = Held, why
	case react:
		r.react(why, now)
	case rollback:
		r.Phase, r.Why, r.AckBy = Aborted, or(why, "aborted by "+by), time.Time{}
	case end:
		r.Phase, r.Why, r.AckBy = Aborted, or(why, "rolled back by "+by), time.Time{}
	case yield:
		r.Phase, r.Why, r.AckBy = Superseded, or(why, by+" changed the route"), time.Time{}
	case deny:
		r.Phase, r.Why = Refused, why
	case restart:
		state, err := evidence.NewState(len(r.Plan.Metrics) + 1)
		if err != nil {
			return err
		}
		first := r.Step < 0
		r.Evidence, r.Attempt, r.Step, r.Phase, r.Acked, r.AckBy = state, r.Attempt+1, 0, Stepping, false, time.Time{}
		r.EnteredAt, r.StillAt, r.StoodFor, r.Marks, r.Gates, r.Judges = now, time.Time{}, 0, nil, nil, nil
		r.Why = or(why, fmt.Sprintf("attempt %d begins, with new evidence", r.Attempt))
		if first { // it had no traffic yet, and gets none by this: its gates are asked anew
			r.Step = -1
			r.stopAt(r.Plan.Steps[0].Gates, r.Why, now)
		}
	case ignore:
	}
	return nil
}

func (r *Run) advance(why string, now time.Time) {
	again := r.Step < 0 && r.Rehearsal != nil && r.Rehearsal.Again
	if gates := r.nextGates(); len(gates) > 0 && len(r.Gates) == 0 && !again {
		r.stopAt(gates, why, now)
		return
	}
	gated := len(r.Gates) > 0
	r.Gates = nil
	if gated && r.Step < 0 && r.Rehearsal.outdated(now) {
		r.Rehearsal = &Rehearsal{StartedAt: now, Again: true}
		r.Phase, r.Why = Rehearsing, fmt.Sprintf("%s; the way back was proven more than %s ago, and is rehearsed again", why, proofLasts)
		return
	}
	r.Step++
	r.EnteredAt, r.StillAt, r.StoodFor = now, time.Time{}, 0
	switch n := len(r.Plan.Steps); {
	case r.Step < n:
		r.Phase, r.Why = Stepping, fmt.Sprintf("step %d of %d begins: %s", r.Step+1, n, why)
	case r.Step == n && r.Plan.Bake.For > 0:
		r.Phase, r.Why = Baking, "the bake begins: "+why
	default:
		r.Step, r.Phase, r.Why = n, Promoted, why
	}
}

// react does what the plan says about a canary that failed.
func (r *Run) react(why string, now time.Time) {
	r.stand(now)
	switch r.Plan.Rollback {
	case ReactManual:
		r.Phase = Failed
	case ReactUnlessAcked:
		r.Phase, r.AckBy = Failed, now.Add(time.Duration(r.Plan.AckWithin))
	case ReactAuto:
		r.Phase = Aborted
	}
	r.Why = why
}

// stand stops the step's clock, move lets it go on.
func (r *Run) stand(now time.Time) {
	if r.StillAt.IsZero() {
		r.StillAt = now
	}
}

func (r *Run) move(now time.Time) {
	if !r.StillAt.IsZero() {
		r.StoodFor += now.Sub(r.StillAt)
		r.StillAt = time.Time{}
	}
}

func (r *Run) note(e Event, by string, now time.Time) {
	r.History = append(r.History, Entry{At: now, Event: e, By: by, Phase: r.Phase, Weight: r.Weight(), Why: r.Why})
	if extra := len(r.History) - historyLength; extra > 0 {
		r.History = slices.Delete(r.History, 0, extra)
	}
}
