package drain

import (
	"cmp"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Order abandons the ledger's version.
type Order struct {
	// Generation is the route generation that abandoned the version; it begins at 1.
	Generation uint64
	// Target is the version that takes over.
	Target string
	// At is when the order was committed, by the control plane's clock. Deadlines do not count from it.
	At time.Time
	// RetrySpread is the span over which the retry signals of a cancelled crowd are spread where the contract gives no range.
	RetrySpread time.Duration
	// Kind says which section of the contract governs; empty: that of a rollback.
	Kind Kind
	// DefaultWithin is the deadline of a `complete` that gives none, after which it is held; 0: it runs until it ends.
	DefaultWithin time.Duration
	// Forwards: of a shutdown, sidecars are known that take what no proxy would redirect; Alone: it is known that no other instance is ready.
	Forwards, Alone bool
}

// retry is the range that the order gives.
func (o Order) retry() Range { return Range{Min: MinRetry, Max: MinRetry + max(o.RetrySpread, 0)} }

// Ledger holds the running executions of one sidecar, which serves one version under one contract. It is safe for concurrent use.
//
// Locks are taken in this order, each for a short time and never across a callback: orders, then one entry, then one shard or the kept chain.
// No lock is held while a grant is journalled, so an order waits for no disk.
type Ledger struct {
	// Reasons rewrites what is given as the reason of an outcome before it is kept; nil leaves it. It is set before the first execution.
	Reasons func(string) string

	plan *plan
	// attributes are those by which executions are counted apart.
	attributes []Attribute
	seed       maphash.Seed
	// seq numbers changes. It is drawn under the lock of the chain that the change goes to, so a reader who takes seq first and then looks at
	// a chain misses nothing up to it.
	seq    atomic.Uint64
	shards [64]shard
	kept   kept
	past   past

	// fence is read by every admission, under its shard's lock; it is written under orders' lock before any shard is looked at. So an
	// execution is either refused or decided over.
	fence  atomic.Pointer[Order]
	orders orders

	durations [durationBuckets]atomic.Uint64
	slowAfter atomic.Int64 // nanoseconds; 0: nothing is slow
	arrived   arrivals
}

// maxOrigins bounds the origins that arrivals are told apart by.
const maxOrigins = 256

// arrivals counts what was handed over to here, by origin. Its lock is taken under a shard's.
type arrivals struct {
	mu   sync.Mutex
	from map[string]uint64
}

func (a *arrivals) count(origin string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.from[origin]; origin == "" || !known && len(a.from) >= maxOrigins {
		return
	}
	if a.from == nil {
		a.from = map[string]uint64{}
	}
	a.from[origin]++
}

// ArrivedFrom counts what was handed over to here, by where it came from.
func (l *Ledger) ArrivedFrom() map[string]uint64 {
	l.arrived.mu.Lock()
	defer l.arrived.mu.Unlock()
	return maps.Clone(l.arrived.from)
}

// shard holds the live executions whose ids hash to it.
type shard struct {
	mu    sync.Mutex
	live  map[string]*entry
	chain chain
	// totals is this shard's share; InFlight is the length of live.
	totals Totals
	// settling counts those in flight that the standing order decided over.
	settling uint64
	// generations are the newest that assigned executions, oldest first.
	generations []Routed
	// segments are counts by attribute and value.
	segments [][]tally
	lastID   string
	lastAt   time.Time
}

// keptRows bounds the ended executions that are kept for readers. Beyond it the oldest go; Totals still count them.
const keptRows = 10_000

// kept holds ended executions that failed, that an order decided over or that did more than read. Several readers follow the ledger, each at its own pace, so nothing
// is dropped on reading.
type kept struct {
	mu    sync.Mutex
	chain chain
}

// NewLedger makes an empty ledger. The contract and the attributes must be valid.
func NewLedger(c Contract, attributes ...Attribute) *Ledger {
	l := &Ledger{plan: newPlan(c), attributes: attributes, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].live = make(map[string]*entry)
		l.shards[i].segments = newTallies(attributes)
	}
	return l
}

func (l *Ledger) reason(said string) string {
	if l.Reasons == nil || said == "" {
		return said
	}
	return l.Reasons(said)
}

// Begin is what is known of an exchange when it comes in.
type Begin struct {
	// ID of the execution; required. An exchange with the id of a live execution joins it.
	ID string
	// Key is the client's own id or idempotency key.
	Key          string
	Method, Path string
	// GRPC and Headers are as in View.
	GRPC    bool
	Headers map[string]string
	// Redirectable is as in View.
	Redirectable bool
	// Place is where it is counted by the ledger's attributes.
	Place Place
	// RouteGeneration assigned it; 0 if a header led it here, it was pinned, handed over or came past the proxy.
	RouteGeneration uint64
	Started         time.Time
	// Deadline is the request's own, zero if it has none.
	Deadline time.Time
	// HandedOverFrom is the execution id under which another instance had begun this work, Origin where: see Drain.Origin.
	HandedOverFrom, Origin string
	// Declared is a class that is known beforehand, beside what the contract declares for the route; empty: none.
	Declared Effects
	// Cut is called at most once, outside every lock, when the execution must end by hand-over or cancel: by the order, or at its deadline.
	// It may come while the exchange ends, or just after.
	Cut func(Decision)
}

// Admit begins an exchange, which must End. A nil Execution with an order means that it was not admitted: the version is fenced, or the
// execution it belongs to was cut. While fenced, an exchange still joins an execution that goes on.
func (l *Ledger) Admit(b Begin) (*Execution, *Order) {
	if b.ID == "" {
		panic("drain: an execution without an id would join others without one")
	}
	s := l.shard(b.ID)
	for {
		s.mu.Lock()
		e, live := s.live[b.ID]
		if !live {
			x, order := l.begin(s, b)
			s.mu.Unlock()
			return x, order
		}
		s.mu.Unlock()
		// The entry may end before it is locked. It leaves the shard under its own lock, so the next look does not find it.
		if x, order, joined := e.admit(b); joined {
			return x, order
		}
	}
}

// begin runs under the shard's lock.
func (l *Ledger) begin(s *shard, b Begin) (*Execution, *Order) {
	if fence := l.fence.Load(); fence != nil {
		order := *fence
		return nil, &order
	}
	e := newEntry(l, s, b)
	s.live[b.ID] = e
	s.chain.push(e, l.seq.Add(1))
	s.totals.Started++
	if r := s.routed(b.RouteGeneration); r != nil {
		r.Started++
		if b.Key != "" {
			r.Keyed++
		}
	}
	for i := range s.segments {
		s.segments[i][b.Place[i]].started++
	}
	if b.HandedOverFrom != "" {
		s.totals.Arrived++
		l.arrived.count(b.Origin)
	}
	s.lastID, s.lastAt = b.ID, b.Started
	return &e.first, nil
}

// Join finds a live execution. It begins no exchange: End on what it returns does nothing.
func (l *Ledger) Join(id string) (*Execution, bool) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.live[id]
	if !ok {
		return nil, false
	}
	return &Execution{entry: e}, true
}

// Fenced returns the order in force, with the newest target.
func (l *Ledger) Fenced() (Order, bool) {
	if o := l.fence.Load(); o != nil {
		return *o, true
	}
	return Order{}, false
}

// LastAdmission is the last new execution that was admitted; empty and zero if there was none.
func (l *Ledger) LastAdmission() (id string, at time.Time) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		if id == "" || s.lastAt.After(at) {
			id, at = s.lastID, s.lastAt
		}
		s.mu.Unlock()
	}
	return id, at
}

// Totals sums the shards, each in a consistent state.
func (l *Ledger) Totals() Totals {
	var t Totals
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		t.add(s.totals)
		t.InFlight += uint64(len(s.live))
		s.mu.Unlock()
	}
	return t
}

// Durations of the executions that have ended by themselves: what an order cut says nothing about how long they take.
func (l *Ledger) Durations() Durations {
	var d Durations
	for i := range l.durations {
		if n := l.durations[i].Load(); n > 0 {
			for len(d) <= i {
				d = append(d, 0)
			}
			d[i] = n
		}
	}
	return d
}

// Changed returns the executions that changed after since, oldest change first, and the number to ask with next: running ones, and ended ones
// that failed, that an order decided over or that did more than read. Those are kept, the last 10,000 of them, for any number of readers. Any other execution that
// ended is just gone: Running tells. A change may be reported twice, never lost.
func (l *Ledger) Changed(since uint64) (rows []Row, seq uint64) {
	seq = l.seq.Load()
	// Kept before live: what ends in between is missed here and found by its new number the next time, and nothing is seen twice.
	l.kept.mu.Lock()
	found := l.kept.chain.since(since, nil)
	l.kept.mu.Unlock()
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		found = s.chain.since(since, found)
		s.mu.Unlock()
	}
	slices.SortFunc(found, func(a, b changed) int { return cmp.Compare(a.seq, b.seq) })
	for _, c := range found {
		if row, ok := c.entry.row(); ok {
			rows = append(rows, row)
		}
	}
	return rows, seq
}

// Running returns every live execution, longest running first.
func (l *Ledger) Running() []Row {
	var rows []Row
	for _, e := range l.live() {
		if row, ok := e.row(); ok && row.EndedAt.IsZero() {
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
	return rows
}

// live lists the entries that live while it runs; some may have ended when it returns.
func (l *Ledger) live() []*entry {
	var all []*entry
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		all = slices.Grow(all, len(s.live))
		for _, e := range s.live {
			all = append(all, e)
		}
		s.mu.Unlock()
	}
	return all
}

func (l *Ledger) shard(id string) *shard {
	return &l.shards[maphash.String(l.seed, id)%uint64(len(l.shards))]
}

// keep puts an ended entry where readers find it. The entry's lock is held.
func (l *Ledger) keep(e *entry) {
	l.kept.mu.Lock()
	defer l.kept.mu.Unlock()
	l.kept.chain.push(e, l.seq.Add(1))
	if l.kept.chain.length > keptRows {
		l.kept.chain.remove(l.kept.chain.front)
	}
}
