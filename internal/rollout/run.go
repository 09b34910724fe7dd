// Package rollout moves a canary: the plan, what it can be expected to show, and the machine that follows it.
//
// Invariants: the machine changes along one table, by events and the time they are given; it never moves without saying why; a weight is raised
// only by evidence, by a clock that the plan gave, or by a person; insufficient evidence holds; a rollback ends a rollout in every state.
// The package is pure: it reads no clock, does no I/O and starts no goroutine.
package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// Phase of a rollout.
type Phase string

const (
	// Rehearsing: the way back is being proven; the canary has no traffic yet.
	Rehearsing Phase = "rehearsing"
	// Stepping: a step is in force.
	Stepping Phase = "stepping"
	// Gated: the step in force has what it asked for, and a gate before the next one is not open. Judging goes on.
	Gated Phase = "gated"
	// Baking: the canary has all traffic but for the control.
	Baking Phase = "baking"
	// Paused by a person. Judging goes on.
	Paused Phase = "paused"
	// Held: it cannot go on by itself; a person must say how. Judging goes on.
	Held Phase = "held"
	// Failed: the canary is proven bad and a person is waited for, for ever or until the acknowledgement is due.
	Failed Phase = "failed"
	// Promoted: the canary has all the traffic.
	Promoted Phase = "promoted"
	// Aborted: rolled back.
	Aborted Phase = "aborted"
	// Superseded: another command took the route.
	Superseded Phase = "superseded"
	// Refused: its way back could not be proven, so that it never had traffic.
	Refused Phase = "refused"
)

// Ended says that nothing moves any more, but by retry.
func (p Phase) Ended() bool { return p == Promoted || p == Aborted || p == Superseded || p == Refused }

// Event is what can happen to a rollout.
type Event string

const (
	// EventPass, EventFail, EventDue and EventBroken come from judging: enough for the next step; the canary is bad; the clock has run out; the
	// measurement cannot be believed.
	EventPass   Event = "pass"
	EventFail   Event = "fail"
	EventDue    Event = "due"
	EventBroken Event = "broken"
	// The others come from people, or from another command.
	// EventOpen: all gates before the next step are open.
	EventOpen    Event = "open"
	EventPause   Event = "pause"
	EventResume  Event = "resume"
	EventPromote Event = "promote"
	EventAbort   Event = "abort"
	EventRetry   Event = "retry"
	// EventAck says that a person takes the failing canary's responsibility: it is paused, not rolled back.
	EventAck        Event = "ack"
	EventRolledBack Event = "rolled-back"
	EventRerouted   Event = "rerouted"
	// EventRehearsed and EventUnproven end a rehearsal: the way back is proven, or it is not.
	EventRehearsed Event = "rehearsed"
	EventUnproven  Event = "unproven"
)

// Events lists every event.
func Events() []Event {
	return []Event{EventPass, EventFail, EventDue, EventBroken, EventOpen, EventPause, EventResume, EventPromote, EventAbort, EventRetry, EventAck, EventRolledBack, EventRerouted, EventRehearsed, EventUnproven}
}

// Phases lists every phase.
func Phases() []Phase {
	return []Phase{Rehearsing, Stepping, Gated, Baking, Paused, Held, Failed, Promoted, Aborted, Superseded, Refused}
}

// move is what an event does.
type move string

const (
	ignore   move = ""
	advance  move = "advance" // to the next step, the bake, or the end
	goOn     move = "goOn"    // back to the step or bake that was left
	pause    move = "pause"
	hold     move = "hold"
	react    move = "react" // as the plan says about failed canaries
	rollback move = "rollback"
	restart  move = "restart" // from the first step, with new evidence
	end      move = "end"     // a rollback came from elsewhere
	yield    move = "yield"   // another command has the route
	deny     move = "deny"    // it gets no traffic
)

// table is the whole of the machine: phase, event, move. What is not in it is refused; `ignore` is what judging says too late or twice.
var table = map[Phase]map[Event]move{
	Rehearsing: {
		EventPass: ignore, EventFail: ignore, EventDue: ignore, EventBroken: ignore,
		EventRehearsed: advance, EventUnproven: deny, EventAbort: rollback, EventRolledBack: end, EventRerouted: yield,
	},
	Stepping: {
		EventPass: advance, EventFail: react, EventDue: hold, EventBroken: hold,
		EventPause: pause, EventPromote: advance, EventAbort: rollback, EventRetry: restart, EventRolledBack: end, EventRerouted: yield,
	},
	Gated: {
		EventPass: ignore, EventFail: react, EventDue: ignore, EventBroken: ignore, EventOpen: advance,
		EventPause: pause, EventPromote: advance, EventAbort: rollback, EventRetry: restart, EventRolledBack: end, EventRerouted: yield,
	},
	Baking: {
		EventPass: advance, EventFail: react, EventDue: hold, EventBroken: hold,
		EventPause: pause, EventPromote: advance, EventAbort: rollback, EventRetry: restart, EventRolledBack: end, EventRerouted: yield,
	},
	Paused: {
		EventPass: ignore, EventFail: react, EventDue: ignore, EventBroken: ignore,
		EventResume: goOn, EventPromote: advance, EventAbort: rollback, EventRetry: restart, EventRolledBack: end, EventRerouted: yield,
	},
	Held: {
		EventPass: advance, EventFail: react, EventDue: ignore, EventBroken: ignore,
		EventPause: pause, EventResume: goOn, EventPromote: advance, EventAbort: rollback, EventRetry: restart, EventRolledBack: end, EventRerouted: yield,
	},
	Failed: {
		EventPass: ignore, EventFail: ignore, EventDue: rollback, EventBroken: ignore,
		EventAck: pause, EventAbort: rollback, EventRetry: restart, EventRolledBack: end, EventRerouted: yield,
	},
	Promoted:   {EventPass: ignore, EventFail: ignore, EventDue: ignore, EventBroken: ignore, EventRolledBack: ignore, EventRerouted: ignore},
	Aborted:    {EventPass: ignore, EventFail: ignore, EventDue: ignore, EventBroken: ignore, EventAbort: ignore, EventRolledBack: ignore, EventRerouted: ignore},
	Superseded: {EventPass: ignore, EventFail: ignore, EventDue: ignore, EventBroken: ignore, EventRolledBack: ignore, EventRerouted: ignore},
	Refused:    {EventPass: ignore, EventFail: ignore, EventDue: ignore, EventBroken: ignore, EventRolledBack: ignore, EventRerouted: ignore},
}

// Entry is one line of a rollout's history.
type Entry struct {
	At     time.Time `json:"at"`
	Event  Event     `json:"event,omitempty"`
	By     string    `json:"by,omitempty"`
	Phase  Phase     `json:"phase"`
	Weight uint16    `json:"weight"`
	Why    string    `json:"why"`
}

// historyLength is how much of it is kept; the beginning gives way.
const historyLength = 20

// Mark is a stretch of route generations under which the canary had one weight.
type Mark struct {
	Generation uint64 `json:"generation"`
	Weight     uint16 `json:"weight"`
}

// Run is one rollout: all that is kept of it. The zero value is none.
type Run struct {
	Spec   string `json:"spec"`
	Canary string `json:"canary"`
	Stable string `json:"stable"`
	Plan   Plan   `json:"plan"`
	// Origin of the plan, in words: who chose it.
	Origin string `json:"origin,omitempty"`
	// Attempt counts retries, from 1.
	Attempt   int       `json:"attempt"`
	StartedAt time.Time `json:"startedAt"`
	By        string    `json:"by"`

	Phase Phase `json:"phase"`
	// Rehearsal of the way back; nil in rollouts of before there were any.
	Rehearsal *Rehearsal `json:"rehearsal,omitempty"`
	// Asked is how the first weight was asked for, which others give once the rehearsal and the gates have been passed.
	Asked Asked `json:"asked,omitzero"`
	// Step in force, or len(Plan.Steps) in the bake and after it; -1 in the rehearsal and at the gates before the first.
	Step int `json:"step"`
	// EnteredAt is when the step began, StoodFor how long it has stood still since: its clock stops while the rollout is paused or held.
	EnteredAt time.Time     `json:"enteredAt"`
	StillAt   time.Time     `json:"stillAt,omitzero"`
	StoodFor  time.Duration `json:"stoodFor,omitempty"`
	// Gates that it stands at, those before the step after Step; none: it does not stand at any.
	Gates []GateState `json:"gates,omitempty"`
	// Why it is in this phase.
	Why string `json:"why"`
	// AckBy is when a failed canary is rolled back without an acknowledgement; zero: never.
	AckBy time.Time `json:"ackBy,omitzero"`
	// Acked: a person has taken responsibility, so that evidence no longer stops the canary by itself.
	Acked bool `json:"acked,omitempty"`

	// Marks say which weight was in force under which route generation, oldest first.
	Marks []Mark `json:"marks"`
	// Base is the stable version's failure rate when the rollout began, which the demands rest on.
	Base float64 `json:"base"`

	// Judges are the answers of the plan's judges, in their order.
	Judges []JudgeState `json:"judges,omitempty"`

	Evidence *evidence.State `json:"evidence"`
	History  []Entry         `json:"history"`
}

// Asked is how a deploy was asked for.
type Asked struct {
	Reason string `json:"reason,omitempty"`
	// Override names the open post-mortem of a quarantined version that is deployed all the same, and OverrideReason says why.
	Override       string `json:"override,omitempty"`
	OverrideReason string `json:"overrideReason,omitempty"`
	// Admin asked for it, who may override.
	Admin bool `json:"admin,omitempty"`
}

// Action is what the machine wants done, in the transaction that stores its new state.
type Action struct {
	// Weight that the canary is to have, in basis points; Changed says that it is another than before.
	Weight  uint16
	Changed bool
	// Rollback to the stable version.
	Rollback bool
}

// Begin makes a rollout at its first step.
func Begin(spec, canary, stable string, plan Plan, base float64, by string, now time.Time) (Run, Action, error) {
	state, err := evidence.NewState(len(plan.Metrics) + 1)
	if err != nil {
		return Run{}, Action{}, err
	}
	r := Run{Spec: spec, Canary: canary, Stable: stable, Plan: plan, Attempt: 1, StartedAt: now, By: by, Phase: Stepping, EnteredAt: now, Base: base, Evidence: state}
	r.Why = fmt.Sprintf("step 1 of %d begins", len(plan.Steps))
	if gates := plan.Steps[0].Gates; len(gates) > 0 {
		r.Step = -1
		r.stopAt(gates, "the canary has no traffic before it opens", now)
	}
	r.note("", by, now)
	return r, Action{Weight: r.Weight(), Changed: r.Step >= 0}, nil
}

// Weight that the canary is to have now.
func (r *Run) Weight() uint16 {
	switch {
	case r.Phase == Promoted:
		return evidence.Whole
	case r.Phase == Aborted || r.Phase == Superseded || r.Phase == Refused:
		return 0
	case r.Step < 0:
		return 0
	case r.Step < len(r.Plan.Steps):
		return uint16(r.Plan.Steps[r.Step].Weight)
	}
	return r.Plan.bakeWeight()
}

// WeightAt is the canary's weight under a route generation; ok is false for generations before the rollout.
func (r *Run) WeightAt(generation uint64) (weight uint16, ok bool) {
	for _, m := range slices.Backward(r.Marks) {
		if generation >= m.Generation {
			return m.Weight, true
		}
	}
	return 0, false
}

// Mark notes that the route has the rollout's weight from this generation on.
func (r *Run) Mark(generation uint64) {
	r.Marks = append(r.Marks, Mark{Generation: generation, Weight: r.Weight()})
}

// Demand is the failure rate that the canary must be proven to stay below for the step to end.
func (r *Run) Demand() float64 {
	if r.Step < len(r.Plan.Steps) {
		return r.Plan.Demands(r.Base)[max(0, r.Step)]
	}
	return r.Plan.PMax
}

// Elapsed is how long the step's clock has run.
func (r *Run) Elapsed(now time.Time) time.Duration {
	stood := r.StoodFor
	if !r.StillAt.IsZero() {
		stood += now.Sub(r.StillAt)
	}
	return max(0, now.Sub(r.EnteredAt)-stood)
}

// Bound is how long the step may last; 0: as long as it takes.
func (r *Run) Bound() time.Duration {
	if len(r.Gates) > 0 || r.Step < 0 {
		return 0
	}
	if r.Step < len(r.Plan.Steps) {
		return time.Duration(r.Plan.Steps[r.Step].Within)
	}
	return time.Duration(r.Plan.Bake.For)
}

// Tick turns a verdict and the time into the event that they amount to; "" for none.
func (r *Run) Tick(v evidence.Verdict, now time.Time) (Event, string) {
	if r.Phase.Ended() || r.Phase == Rehearsing {
		return "", ""
	}
	if r.Phase == Failed {
		if !r.AckBy.IsZero() && !now.Before(r.AckBy) {
			return EventDue, "nobody acknowledged the failure: " + r.Why
		}
		return "", ""
	}
	if v.Result == evidence.Fail && !r.Acked {
		return EventFail, v.Reason
	}
	if r.Phase == Gated {
		return r.tickGates(v, now)
	}
	if v.Broken && (r.Phase == Stepping || r.Phase == Baking) {
		return EventBroken, v.Reason
	}
	if v.Broken || r.Phase == Paused {
		return "", ""
	}
	clock := r.Bound() > 0 && r.Elapsed(now) >= r.Bound()
	until := UntilDuration // the bake
	if r.Step < len(r.Plan.Steps) {
		until = r.Plan.Steps[r.Step].Until
	}
	last := r.Step >= len(r.Plan.Steps)-1 && r.Plan.Bake.For == 0 || r.Step >= len(r.Plan.Steps)
	switch {
	case until == UntilEvidence && v.Result == evidence.Pass:
		return EventPass, v.Reason
	case until == UntilDuration && (clock || r.Bound() == 0):
		// All the traffic is given only on evidence; on the way there a duration may end a step by itself, if no judge is silent.
		silence := r.silence(now)
		switch {
		case last && v.Result != evidence.Pass:
			return r.due(v.Reason)
		case silence != "":
			return r.due(fmt.Sprintf("%s have passed: %s", r.Bound(), silence))
		}
		return EventPass, fmt.Sprintf("%s have passed, and nothing speaks against the canary", r.Bound())
	case clock && until != UntilDuration:
		return r.due(fmt.Sprintf("%s have passed: %s", r.Bound(), v.Reason))
	}
	return "", ""
}

func (r *Run) due(why string) (Event, string) {
	if r.Phase == Held {
		return "", ""
	}
	return EventDue, why
}
