package drain

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Execution is one exchange's hold on an execution. Every method is safe for concurrent use and is quick, but for Grant's journal.
type Execution struct {
	entry *entry
	// cut and open belong to the entry's lock. What Join returns has neither.
	cut  func(Decision)
	open bool
}

// ErrRefused says that a hand-over or cancel was decided, and the agent must stop.
type ErrRefused struct {
	Decision Decision
}

func (e ErrRefused) Error() string {
	return fmt.Sprintf("refused: the execution ends with %s (%s)", e.Decision.Disposition, e.Decision.Why)
}

// ErrEnded says that the execution has ended.
var ErrEnded = errors.New("the execution has ended: nothing more can be granted to it")

// ID of the execution.
func (x *Execution) ID() string { return x.entry.id }

// Row is the execution as it is now, running or ended.
func (x *Execution) Row() Row {
	x.entry.mu.Lock()
	defer x.entry.mu.Unlock()
	return x.entry.copy()
}

// Effects is the worst class known now, never empty.
func (x *Execution) Effects() Effects {
	x.entry.mu.Lock()
	defer x.entry.mu.Unlock()
	worst, _ := x.entry.worst()
	return x.entry.ledger.plan.effective(worst)
}

// Decision is what an order decided, false while none has.
func (x *Execution) Decision() (Decision, bool) {
	x.entry.mu.Lock()
	defer x.entry.mu.Unlock()
	if x.entry.decision == nil {
		return Decision{}, false
	}
	return *x.entry.decision, true
}

// RequestEnded says that the whole request is here, and whether it can be sent again.
func (x *Execution) RequestEnded(replayable bool) {
	e := x.entry
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.replayable != replayable {
		e.replayable = replayable
		e.touch()
	}
}

// Grant asks for an act before it happens. It returns ErrRefused once a hand-over or cancel was decided, ErrEnded, or journal's error; only
// nil lets the agent act. A class that is not one counts as unknown, and what is declared of the tool is filled in.
//
// journal runs outside the entry's lock, so that an order never waits for a disk. Until it returns, the act counts as done: a decision that
// falls meanwhile takes it into account, and if it cuts all the same, the grant is refused afterwards. So nothing is granted after a cut, and
// no cut overlooks a grant. The journal may then hold an act that was refused, which errs on the safe side.
func (x *Execution) Grant(a Act, journal func() error) error {
	e := x.entry
	a = e.ledger.plan.complete(a)
	a.Source = SourceGuarded
	mark := &a
	if err := e.mark(mark); err != nil {
		return err
	}
	var failed error
	if journal != nil {
		failed = journal()
	}
	return e.settle(mark, failed)
}

// mark makes the act visible to decisions.
func (e *entry) mark(a *Act) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.refuses(); err != nil {
		return err
	}
	e.pending = append(e.pending, a)
	return nil
}

// settle turns the mark into an act, or takes it away.
func (e *entry) settle(a *Act, failed error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pending = slices.DeleteFunc(e.pending, func(p *Act) bool { return p == a })
	err := e.refuses()
	if err == nil && failed != nil {
		err = fmt.Errorf("the act was not granted, since it could not be journalled: %w", failed)
	}
	if err == nil {
		e.done(*a, SourceGuarded)
	}
	e.touch()
	return err
}

// refuses says why nothing more may be granted, or nil.
func (e *entry) refuses() error {
	switch {
	case e.cut():
		return ErrRefused{Decision: *e.decision}
	case !e.ended.IsZero():
		return ErrEnded
	}
	return nil
}

// Touches says whether an act, with what the contract declares of its tool, may change the world; one of which nothing is known may.
func (x *Execution) Touches(a Act) bool { return x.entry.ledger.plan.complete(a).Touches() }

// Report tells of an act after it happened; nothing refuses it, not even the end.
func (x *Execution) Report(a Act) {
	e := x.entry
	e.mu.Lock()
	defer e.mu.Unlock()
	a = e.ledger.plan.complete(a)
	e.done(a, SourceReported)
	if !e.ended.IsZero() && a.Touches() {
		e.keeps = true
	}
	e.touch()
}

// maxCalled bounds the tools that are remembered of one execution beside its acts.
const maxCalled = 32

// Observe tells what a request was seen to ask for as it passed: tools that it calls over MCP, and an A2A skill. A declared tool of an agent
// that is not guarded counts as used from here on: nobody asks again before it acts. The call of a guarded agent's tool counts when that agent
// asks.
func (x *Execution) Observe(tools []string, skill string, now time.Time) {
	e := x.entry
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended.IsZero() {
		return
	}
	if skill != "" {
		e.skill = skill
		if class := e.ledger.plan.declaredSkill(skill); class != "" {
			e.declared = e.declared.Worse(class)
		}
	}
	for _, tool := range tools {
		if tool == "" || len(e.called) >= maxCalled {
			continue
		}
		if !slices.Contains(e.called, tool) {
			e.called = append(e.called, tool)
		}
		if d, ok := e.ledger.plan.DeclaredTool(tool); ok && e.ledger.plan.reporting() != Guarded {
			e.done(Act{Tool: tool, Class: d.Class, Compensation: d.Compensation, At: now}, SourceObserved)
		}
	}
	e.touch()
}

// ObserveUnread tells that a request may name a tool or a skill where nobody can look, such as in a compressed body. What it can do is then
// unknown, unless the agent asks before it acts and no skill is declared: what it did is known from its asking.
func (x *Execution) ObserveUnread() {
	e := x.entry
	e.mu.Lock()
	defer e.mu.Unlock()
	if plan := e.ledger.plan; e.unread || !e.ended.IsZero() || plan.reporting() == Guarded && !plan.declaresSkills() {
		return
	}
	e.unread = true
	e.touch()
}

// Respond comes before the first response byte. ErrRefused: a hand-over or cancel was decided, so the agent's response must not go out. After
// nil the execution can no longer be handed over.
func (x *Execution) Respond(_ time.Time) error {
	e := x.entry
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cut() {
		return ErrRefused{Decision: *e.decision}
	}
	if !e.responded {
		e.responded = true
		e.touch()
	}
	return nil
}

// SetOutcome states the business outcome; it may come before the end, and the last statement counts. After the end it changes nothing.
func (x *Execution) SetOutcome(success bool, reason string) {
	e := x.entry
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended.IsZero() {
		return
	}
	e.stated = true
	e.say(success, reason)
}

// Infer takes an outcome that the agent did not state and its protocol shows. A statement goes before it, and what has failed stays failed.
func (x *Execution) Infer(success bool, reason string) {
	e := x.entry
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended.IsZero() && !e.stated && e.outcome != Failure && !e.cut() {
		e.say(success, reason)
	}
}

// say sets the outcome. The entry's lock is held.
func (e *entry) say(success bool, reason string) {
	e.outcome, e.reason = Failure, e.ledger.reason(reason)
	if success {
		e.outcome = Success
	}
	if len(e.ledger.attributes) > 0 {
		e.shard.mu.Lock()
		e.retell()
		e.shard.mu.Unlock()
	}
	e.touch()
}

// End ends the exchange, once; the execution ends with its last exchange. status is the HTTP status sent to the client, 0 if none was. Without
// a stated outcome a status of 500 or more counts as a failure, unless an order cut the execution; any other says nothing.
func (x *Execution) End(status int, now time.Time) {
	e := x.entry
	e.mu.Lock()
	defer e.mu.Unlock()
	if !x.open {
		return
	}
	x.open = false
	e.more = slices.DeleteFunc(e.more, func(o *Execution) bool { return o == x })
	e.open--
	e.status = status
	if e.open > 0 {
		e.touch()
		return
	}
	e.end(now)
}
