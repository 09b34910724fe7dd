package drain

import (
	"container/heap"
	"sync"
	"time"
)

// orders serialises what changes the fence and applies deadlines.
type orders struct {
	mu sync.Mutex
	// generation is that of the newest order taken.
	generation uint64
	// settling is the newest order if it left the fence down.
	settling *Order
	// due holds executions with a deadline; those that have ended leave it when they come to the top.
	due deadlines
}

// cut is a call to make once all locks are released.
type cut struct {
	call     func(Decision)
	decision *Decision
}

func call(cuts []cut) {
	for _, c := range cuts {
		c.call(*c.decision)
	}
}

// Order raises the fence and decides over every running execution, then calls Cut of those that must end. It returns false, and decides
// nothing, for a generation that is not newer than the newest one taken; the standing order again only brings its target up to date. Under a
// newer order, executions that were decided over stay so, unless the fence was lifted in between. Call Tick next: there may be deadlines.
func (l *Ledger) Order(o Order, now time.Time) bool {
	l.orders.mu.Lock()
	if fence := l.fence.Load(); fence != nil && fence.Generation == o.Generation {
		l.fence.Store(&o)
	}
	if o.Generation <= l.orders.generation {
		l.orders.mu.Unlock()
		return false
	}
	l.orders.generation = o.Generation
	l.unsettle()
	l.fence.Store(&o)
	cuts := l.decideAll(&o, now)
	l.orders.mu.Unlock()
	call(cuts)
	return true
}

// Lift takes the fence down, or ends what Settle began, if generation is not older than its order, and says whether it did. Cut executions stay cut; those that were to
// complete just run on, without a deadline.
func (l *Ledger) Lift(generation uint64) bool {
	l.orders.mu.Lock()
	defer l.orders.mu.Unlock()
	if o := l.orders.settling; o != nil && generation >= o.Generation {
		return l.unsettle()
	}
	fence := l.fence.Load()
	if fence == nil || generation < fence.Generation {
		return false
	}
	// Deadlines go first: an execution that is admitted from here on has none.
	l.orders.due = nil
	l.fence.Store(nil)
	for _, e := range l.live() {
		e.lift()
	}
	return true
}

// Renumber takes the next order whatever its generation: a control plane that was set up anew counts from the start. The fence and all
// decisions stay as they are.
func (l *Ledger) Renumber() {
	l.orders.mu.Lock()
	defer l.orders.mu.Unlock()
	l.orders.generation = 0
}

// Tick applies the deadlines that have come: cancel (Cut is called) or hold. next is the earliest one left, zero if there is none.
func (l *Ledger) Tick(now time.Time) (next time.Time) {
	l.orders.mu.Lock()
	var cuts []cut
	for len(l.orders.due) > 0 {
		top := l.orders.due[0]
		if top.entry.runs() {
			if top.at.After(now) {
				next = top.at
				break
			}
			cuts = top.entry.expire(top.at, cuts)
		}
		heap.Pop(&l.orders.due)
	}
	l.orders.mu.Unlock()
	call(cuts)
	return next
}

// decide settles the entry under the order, unless it has ended or a decision stands.
func (e *entry) decide(o *Order, now time.Time, due *deadlines, cuts []cut) []cut {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended.IsZero() || e.decision != nil && !e.void {
		return cuts
	}
	d := e.ledger.plan.decide(e.view(), o, o.retry(), now)
	e.decision, e.order, e.void = &d, o, false
	e.settles(true)
	e.touch()
	if d.Cuts() {
		return e.cuts(cuts)
	}
	if !d.Deadline.IsZero() {
		*due = append(*due, deadline{d.Deadline, e})
	}
	if !d.End.IsZero() && !d.End.Equal(d.Deadline) {
		*due = append(*due, deadline{d.End, e})
	}
	return cuts
}

// settles counts the entry among those that the standing order decided over, or no longer. The entry's lock is held.
func (e *entry) settles(yes bool) {
	if e.settling == yes {
		return
	}
	e.settling = yes
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	if yes {
		e.shard.settling++
	} else {
		e.shard.settling--
	}
}

// expire applies what follows a deadline that has come. What the execution did since the decision counts: an irreversible effect is never cut.
func (e *entry) expire(at time.Time, cuts []cut) []cut {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended.IsZero() || e.void || e.cut() {
		return cuts
	}
	d := *e.decision
	switch {
	case !d.End.IsZero() && at.Equal(d.End) && e.joined:
		d.Then = Cancel // its time in all is over, held or not
	case !at.Equal(d.Deadline) || e.held:
		return cuts // an operator has decided otherwise, or it is no conversation
	}
	worst, _ := e.worst()
	d.Effects = e.ledger.plan.effective(worst)
	d.Why += "; the deadline has passed: "
	if d.Then == Cancel && d.Effects != EffectsIrreversible {
		d.Disposition = Cancel
		d.Why += e.ledger.plan.cancelWords(d.RetryAfter)
		e.decision = &d
		e.hold(false)
		e.touch()
		return e.cuts(cuts)
	}
	d.Why += "hold"
	if d.Then == Cancel {
		d.Then = Hold
		d.Why += ", since " + neverCut
	}
	e.decision = &d
	e.hold(true)
	e.touch()
	return cuts
}

// hold counts the entry among the held ones, or no longer. The entry's lock is held.
func (e *entry) hold(yes bool) {
	if e.held == yes {
		return
	}
	e.held = yes
	e.count(func(t *Totals) {
		if yes {
			t.Held++
		} else {
			t.Held--
		}
	})
}

// lift voids a decision to complete.
func (e *entry) lift() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended.IsZero() || e.decision == nil || e.cut() {
		return
	}
	e.void = true
	e.hold(false)
	e.settles(false)
	e.touch()
}

// cuts appends the calls that a cut makes: one per open exchange. The entry's lock is held.
func (e *entry) cuts(to []cut) []cut {
	for _, x := range append([]*Execution{&e.first}, e.more...) {
		if x.open && x.cut != nil {
			to = append(to, cut{x.cut, e.decision})
		}
	}
	return to
}

func (e *entry) runs() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ended.IsZero()
}

// count changes the totals of the entry's shard.
func (e *entry) count(change func(*Totals)) {
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	change(&e.shard.totals)
}

// deadline is when an execution's completion ends.
type deadline struct {
	at    time.Time
	entry *entry
}

// deadlines is a heap, earliest first.
type deadlines []deadline

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d deadlines) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *deadlines) Push(x any)        { *d = append(*d, x.(deadline)) }

// Pop lets go of the entry, which may be long gone otherwise.
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	x := (*d)[last]
	(*d)[last] = deadline{}
	*d = (*d)[:last]
	return x
}
