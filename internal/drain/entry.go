package drain

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// maxActs bounds the acts that are kept of one execution. The worst class is never lost: it is kept apart, and its act takes the place of a
// harmless one.
const maxActs = 64

// entry is one execution. Its lock is the one that decision, grant and response share.
type entry struct {
	ledger *Ledger
	shard  *shard
	// links belong to the lock of the chain they are in.
	links

	mu sync.Mutex

	id, key, method, path string
	grpc                  bool
	headers               map[string]string
	skill                 string
	from                  string
	generation            uint64
	started, deadline     time.Time
	ended                 time.Time

	// first is the exchange that began the execution, more are those that joined; open counts the ones that have not ended.
	first Execution
	more  []*Execution
	open  int
	// joined: several exchanges belong to it, so no single request can be replayed.
	joined bool

	declared Effects
	// seen is the worst class of acts, by source; pending are acts whose grant is being journalled, taken as done by any decision meanwhile.
	seen    Effects
	source  Source
	acts    []Act
	pending []*Act
	// omitted counts the acts that touched the world and found no room.
	omitted uint64
	// called are tools that a request names, whether or not they are declared.
	called []string
	// unread: a request may name what could not be read.
	unread bool

	responded, replayable bool

	outcome Outcome
	// stated: the agent said so itself, which goes before what its protocol says.
	stated bool
	reason string
	status int
	// place is where it is counted by attributes, toldFailed and toldUnknown what is counted there of its outcome.
	place                   Place
	toldFailed, toldUnknown bool

	// decision is never changed, only replaced: at its deadline, or by a new order after the fence was lifted (void, which no cut becomes).
	decision *Decision
	void     bool
	// order is the one that decided.
	order *Order
	held  bool
	// settling: it counts in its shard's settling.
	settling bool
	// redirectable is of the first exchange.
	redirectable bool
	// slow: it has ended, was not cut, and took too long.
	slow bool
	// keeps: it has ended and is kept for readers.
	keeps bool
}

func newEntry(l *Ledger, s *shard, b Begin) *entry {
	e := &entry{
		ledger: l, shard: s,
		id: b.ID, key: b.Key, method: b.Method, path: b.Path, grpc: b.GRPC, headers: b.Headers, from: b.HandedOverFrom, generation: b.RouteGeneration, place: b.Place,
		started: b.Started, deadline: b.Deadline, declared: l.declared(b), open: 1, redirectable: b.Redirectable,
	}
	e.first = Execution{entry: e, cut: b.Cut, open: true}
	return e
}

// declared is what is known of an exchange beforehand.
func (l *Ledger) declared(b Begin) Effects {
	return l.plan.declared(b.Declared).Worse(l.plan.declaredRoute(b.Method, b.Path, b.GRPC))
}

// admit lets another exchange join. joined is false if the execution has ended meanwhile.
func (e *entry) admit(b Begin) (x *Execution, refused *Order, joined bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended.IsZero() {
		return nil, nil, false
	}
	if e.cut() {
		order := *e.order
		if fence := e.ledger.fence.Load(); fence != nil {
			order = *fence
		}
		return nil, &order, true
	}
	if d := e.decision; d != nil && !e.void && !d.End.IsZero() && !b.Started.Before(d.End) {
		order := *e.order // the conversation has had its time
		return nil, &order, true
	}
	x = &Execution{entry: e, cut: b.Cut, open: true}
	e.more = append(e.more, x)
	e.open++
	e.joined = true
	if e.deadline.IsZero() || b.Deadline.IsZero() {
		e.deadline = time.Time{}
	} else if b.Deadline.After(e.deadline) {
		e.deadline = b.Deadline
	}
	if declared := e.ledger.declared(b); declared != "" {
		e.declared = e.declared.Worse(declared)
	}
	e.touch()
	return x, nil, true
}

// cut says that a hand-over or cancel was decided.
func (e *entry) cut() bool { return e.decision != nil && e.decision.Cuts() }

// touch numbers a change. The entry's lock is held.
func (e *entry) touch() {
	if e.ended.IsZero() {
		e.shard.mu.Lock()
		defer e.shard.mu.Unlock()
		e.shard.chain.push(e, e.ledger.seq.Add(1))
		return
	}
	if e.keeps {
		e.ledger.keep(e)
	}
}

// worst is the class of effects before the contract's reading of silence, and where it comes from.
func (e *entry) worst() (Effects, Source) {
	seen, source := e.seen, e.source
	for _, a := range e.pending {
		if a.Class.rank() > seen.rank() {
			seen, source = a.Class, SourceGuarded
		}
	}
	switch {
	case e.unread && EffectsUnknown.rank() > max(e.declared.rank(), seen.rank()):
		return EffectsUnknown, SourceUnread
	case e.declared.rank() > seen.rank():
		return e.declared, SourceDeclared
	case seen != "":
		return seen, source
	case e.ledger.plan.reporting() == Guarded:
		return "", SourceGuarded
	}
	return "", SourceSilent
}

// done writes down an act that was granted or has happened.
func (e *entry) done(a Act, source Source) {
	worse := a.Class.rank() > e.seen.rank()
	if worse {
		e.seen, e.source = a.Class, source
	}
	a.Source = source
	if source != SourceObserved {
		// The agent knows more of a call than was seen of it.
		for i, o := range e.acts {
			if o.Source == SourceObserved && o.Tool == a.Tool {
				a.Class = a.Class.Worse(o.Class)
				e.acts[i] = a
				return
			}
		}
	}
	if len(e.acts) < maxActs {
		e.acts = append(e.acts, a)
		return
	}
	// What touched the world goes before what only read, and the worst is always there.
	i := slices.IndexFunc(e.acts, func(o Act) bool { return !o.Touches() })
	if i < 0 && worse {
		i = maxActs - 1
	}
	dropped := a
	if i >= 0 && (a.Touches() || worse) {
		dropped, e.acts[i] = e.acts[i], a
	}
	if dropped.Touches() {
		e.omitted++
	}
}

func (e *entry) view() View {
	worst, _ := e.worst()
	return View{
		Method: e.method, Path: e.path, GRPC: e.grpc, Headers: e.headers, Tools: e.tools(), Skill: e.skill, Started: e.started, Deadline: e.deadline, Effects: worst,
		Responded: e.responded, Replayable: e.replayable && !e.joined, HandedOver: e.from != "", Conversation: e.joined, Redirectable: e.redirectable,
	}
}

// tools are those it has used, each once.
func (e *entry) tools() []string {
	if len(e.called) == 0 && len(e.acts) == 0 && len(e.pending) == 0 {
		return nil
	}
	tools := slices.Clone(e.called)
	add := func(tool string) {
		if tool != "" && !slices.Contains(tools, tool) {
			tools = append(tools, tool)
		}
	}
	for i := range e.acts {
		add(e.acts[i].Tool)
	}
	for _, a := range e.pending {
		add(a.Tool)
	}
	return tools
}

// row copies the entry; false if it has ended and is not kept.
func (e *entry) row() (Row, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.copy(), e.ended.IsZero() || e.keeps
}

func (e *entry) copy() Row {
	worst, source := e.worst()
	row := Row{
		ID: e.id, Key: e.key, Method: e.method, Path: e.path, GRPC: e.grpc, Headers: e.headers, Tools: e.tools(), Skill: e.skill, StartedAt: e.started, EndedAt: e.ended, RouteGeneration: e.generation,
		Effects: e.ledger.plan.effective(worst), EffectsSource: source, Acts: slices.Clone(e.acts), ActsOmitted: e.omitted,
		Responded: e.responded, Replayable: e.replayable && !e.joined, Outcome: e.outcome, OutcomeReason: e.reason, Status: e.status,
		HandedOverFrom: e.from, Deadline: e.deadline, Conversation: e.joined, Slow: e.slow,
	}
	for _, a := range e.pending {
		row.Acts = append(row.Acts, *a)
	}
	if e.decision != nil {
		row.Disposition, row.Why = e.decision.Disposition, e.decision.Why
		if !e.void && !e.cut() && !e.held {
			row.SettleBy, row.Holds = e.decision.Deadline, !e.decision.Deadline.IsZero() && (e.decision.Then == Hold || worst == EffectsIrreversible)
		}
	}
	if e.held {
		row.Disposition = Hold
	}
	return row
}

// end takes the entry out of the live ones and counts it. The entry's lock is held.
func (e *entry) end(now time.Time) {
	e.ended = now
	if e.outcome == "" && e.status >= 500 && !e.cut() {
		e.outcome, e.reason = Failure, fmt.Sprintf("status %d", e.status)
	}
	limit := time.Duration(e.ledger.slowAfter.Load())
	e.slow = limit > 0 && !e.cut() && now.Sub(e.started) > limit
	e.keeps = e.slow || e.outcome == Failure || e.decision != nil || slices.ContainsFunc(e.acts, Act.Touches)
	if !e.cut() {
		e.ledger.durations[durationBucket(now.Sub(e.started))].Add(1)
	}
	e.uncount()
	if e.keeps {
		e.ledger.keep(e)
	}
	e.ledger.past.add(e)
}

func (e *entry) uncount() {
	s := e.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, e.id)
	s.chain.remove(e)
	if e.held {
		s.totals.Held--
	}
	if e.settling {
		s.settling--
	}
	s.totals.settle(e.outcome, 1)
	e.retell()
	if r := s.routed(e.generation); r != nil {
		r.settle(e, 1)
		if e.slow {
			r.Slow++
		}
	}
	if e.decision == nil {
		return
	}
	switch e.decision.Disposition {
	case Complete, Hold:
		s.totals.Completed++
	case Handover:
		s.totals.HandedOver++
	case Cancel:
		s.totals.Cancelled++
	}
}
