package drain

import (
	"container/heap"
	"time"
)

// Settle decides as Order does over what runs now, and goes on admitting: the version is not at fault. It is ignored while a fence stands, and
// for a generation that is not newer than the newest one taken. Lift ends it.
func (l *Ledger) Settle(o Order, now time.Time) bool {
	l.orders.mu.Lock()
	if o.Generation <= l.orders.generation || l.fence.Load() != nil {
		l.orders.mu.Unlock()
		return false
	}
	l.orders.generation = o.Generation
	l.unsettle()
	l.orders.settling = &o
	cuts := l.decideAll(&o, now)
	l.orders.mu.Unlock()
	call(cuts)
	return true
}

// Leave decides by onShutdown over what runs and no standing order has decided over: this instance ends. Call Tick next.
func (l *Ledger) Leave(o Order, now time.Time) {
	o.Kind = KindShutdown
	l.orders.mu.Lock()
	cuts := l.decideAll(&o, now)
	l.orders.mu.Unlock()
	call(cuts)
}

// Evict cancels whatever runs, since the process is about to end and nothing can go on in it: also what the contract holds, and what has a known
// irreversible effect, whose client is told not to repeat it. Nothing is granted to it any more.
func (l *Ledger) Evict(why string) {
	l.orders.mu.Lock()
	var cuts []cut
	for _, e := range l.live() {
		cuts = e.evict(why, cuts)
	}
	l.orders.mu.Unlock()
	call(cuts)
}

func (e *entry) evict(why string, cuts []cut) []cut {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended.IsZero() || e.cut() {
		return cuts
	}
	worst, _ := e.worst()
	d := Decision{Disposition: Cancel, Kind: KindShutdown, Rule: OperatorRule, Effects: e.ledger.plan.effective(worst), Why: why}
	if e.decision != nil {
		d.Rule, d.Why = e.decision.Rule, e.decision.Why+"; "+why
	}
	if e.order == nil {
		e.order = &Order{Kind: KindShutdown}
	}
	e.decision, e.void = &d, false
	e.hold(false)
	e.settles(true)
	e.touch()
	return e.cuts(cuts)
}

// Ordered is the generation of the newest order taken, 0 for none.
func (l *Ledger) Ordered() uint64 {
	l.orders.mu.Lock()
	defer l.orders.mu.Unlock()
	return l.orders.generation
}

// Settling counts the running executions that the standing order, or an operator, decided over.
func (l *Ledger) Settling() (n uint64) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		n += s.settling
		s.mu.Unlock()
	}
	return n
}

// decideAll settles what runs under the order. The orders' lock is held; the caller makes the calls after it.
func (l *Ledger) decideAll(o *Order, now time.Time) (cuts []cut) {
	for _, e := range l.live() {
		cuts = e.decide(o, now, &l.orders.due, cuts)
	}
	heap.Init(&l.orders.due)
	return cuts
}

// unsettle takes back what Settle decided, but for cuts, which are final, and says whether there was anything. The orders' lock is held.
func (l *Ledger) unsettle() bool {
	if l.orders.settling == nil {
		return false
	}
	l.orders.settling, l.orders.due = nil, nil
	for _, e := range l.live() {
		e.lift()
	}
	return true
}
