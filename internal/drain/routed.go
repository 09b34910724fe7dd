package drain

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Routed counts the executions that one route generation assigned to this version, so that their outcomes can be judged by the weights under
// which they were assigned.
type Routed struct {
	// Generation is never 0: what a header led here, was pinned, handed over or came past the proxy is in no Routed.
	Generation uint64
	Started    uint64
	// Keyed is the part of Started that came with a key of the client's own: such executions are assigned together, not one by one.
	Keyed uint64
	// Succeeded and Failed by statement, by protocol or (failures) by status.
	Succeeded, Failed uint64
	// Unknown ended without any of these. Plain is the part of it that ended with an HTTP status below 400.
	Unknown, Plain uint64
	// Slow ended, were not cut, and took longer than SlowAfter said.
	Slow uint64
	// Cut were handed over or cancelled: they have no outcome.
	Cut uint64
}

// routedGenerations is how many generations are counted apart, the newest.
const routedGenerations = 8

// routed finds or makes the counts of a generation; nil for those that are not counted. The shard's lock is held.
func (s *shard) routed(generation uint64) *Routed {
	if generation == 0 {
		return nil
	}
	i, found := slices.BinarySearchFunc(s.generations, generation, func(r Routed, g uint64) int { return cmp.Compare(r.Generation, g) })
	if found {
		return &s.generations[i]
	}
	if len(s.generations) == routedGenerations {
		if i == 0 {
			return nil // older than all that are counted
		}
		s.generations = slices.Delete(s.generations, 0, 1)
		i--
	}
	s.generations = slices.Insert(s.generations, i, Routed{Generation: generation})
	return &s.generations[i]
}

// settle counts an ended execution, by one or (taking it back) by minus one. The shard's lock is held, and the entry's.
func (r *Routed) settle(e *entry, by uint64) {
	switch {
	case e.cut():
		r.Cut += by
	case e.outcome == Success:
		r.Succeeded += by
	case e.outcome == Failure:
		r.Failed += by
	default:
		r.Unknown += by
		if e.status >= 100 && e.status < 400 {
			r.Plain += by
		}
	}
}

// SlowAfter says from what duration on executions that end are counted and kept as slow; 0: none is.
func (l *Ledger) SlowAfter(d time.Duration) { l.slowAfter.Store(int64(d)) }

// Routed returns the counts of the newest generations, oldest first.
func (l *Ledger) Routed() []Routed {
	var out []Routed
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for _, r := range s.generations {
			at, found := slices.BinarySearchFunc(out, r.Generation, func(r Routed, g uint64) int { return cmp.Compare(r.Generation, g) })
			if !found {
				out = slices.Insert(out, at, Routed{Generation: r.Generation})
			}
			o := &out[at]
			o.Started += r.Started
			o.Keyed += r.Keyed
			o.Succeeded += r.Succeeded
			o.Failed += r.Failed
			o.Unknown += r.Unknown
			o.Plain += r.Plain
			o.Cut += r.Cut
			o.Slow += r.Slow
		}
		s.mu.Unlock()
	}
	if extra := len(out) - routedGenerations; extra > 0 {
		out = out[extra:]
	}
	return out
}

// pastEntries is how many ended executions can still be told an outcome.
const pastEntries = 4096

// past remembers the executions that ended last.
type past struct {
	mu   sync.Mutex
	byID map[string]*entry
	ring [pastEntries]*entry
	next int
}

// add remembers an ended execution; the oldest gives way.
func (p *past) add(e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.ring[p.next]; old != nil && p.byID[old.id] == old {
		delete(p.byID, old.id)
	}
	if p.byID == nil {
		p.byID = make(map[string]*entry)
	}
	p.ring[p.next], p.byID[e.id] = e, e
	p.next = (p.next + 1) % pastEntries
}

func (p *past) find(id string) *entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byID[id]
}

// Late states the outcome of an execution that has ended: one of the last 4,096. found is false if it is not known (any more), taken if the
// statement counts. What has failed stays failed, and what an order cut has no outcome.
func (l *Ledger) Late(id string, success bool, reason string) (found, taken bool) {
	e := l.past.find(id)
	if e == nil {
		return false, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cut() || e.outcome == Failure {
		return true, e.outcome == Failure && !success
	}
	s := e.shard
	s.mu.Lock()
	r := s.routed(e.generation)
	if r != nil {
		r.settle(e, ^uint64(0))
	}
	s.totals.settle(e.outcome, ^uint64(0))
	e.outcome, e.reason = Failure, l.reason(reason)
	if success {
		e.outcome = Success
	}
	s.totals.settle(e.outcome, 1)
	e.retell()
	if r != nil {
		r.settle(e, 1)
	}
	s.mu.Unlock()
	if e.keeps = e.keeps || !success; e.keeps {
		l.keep(e)
	}
	return true, true
}

// settle counts an outcome, by one or (taking it back) by minus one.
func (t *Totals) settle(o Outcome, by uint64) {
	switch o {
	case Success:
		t.Succeeded += by
	case Failure:
		t.Failed += by
	case "":
		t.Unknown += by
	}
}
