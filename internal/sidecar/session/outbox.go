package session

import (
	"container/list"
	"sync"
	"time"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
)

// outboxLimit bounds the executions that wait for one replica. When it is full, reports of running executions are not taken, and the oldest
// ended one makes room for a new one; both are made up for by totals and by the next snapshot, but for the ended one's details.
const outboxLimit = 10_000

// outbox holds what one replica has not been told, and what it has been told but may not have received. It may be used by several goroutines.
type outbox struct {
	mu          sync.Mutex
	connected   bool
	pending     *list.List // of *sidecarv1.Execution, first to go first
	byID        map[string]*list.Element
	unconfirmed []sent
	dropped     uint64
}

// sent is an ended execution on its way.
type sent struct {
	execution *sidecarv1.Execution
	at        time.Time
}

func newOutbox() *outbox {
	return &outbox{pending: list.New(), byID: map[string]*list.Element{}}
}

// offer adds or replaces reports. Without a connection running executions are left out: the next session begins with a snapshot of them.
func (o *outbox) offer(all []*sidecarv1.Execution) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, x := range all {
		o.put(x)
	}
}

func (o *outbox) put(x *sidecarv1.Execution) {
	ended := x.GetEndedAt() != nil
	if e, ok := o.byID[x.GetId()]; ok {
		e.Value = x
		return
	}
	if !ended && (!o.connected || o.pending.Len() >= outboxLimit) {
		return
	}
	if o.pending.Len() >= outboxLimit {
		oldest := o.pending.Front()
		delete(o.byID, oldest.Value.(*sidecarv1.Execution).GetId())
		o.pending.Remove(oldest)
		o.dropped++
	}
	o.byID[x.GetId()] = o.pending.PushBack(x)
}

// take removes up to n reports to be sent now.
func (o *outbox) take(n int, now time.Time) []*sidecarv1.Execution {
	o.mu.Lock()
	defer o.mu.Unlock()
	var taken []*sidecarv1.Execution
	for len(taken) < n && o.pending.Len() > 0 {
		x := o.pending.Remove(o.pending.Front()).(*sidecarv1.Execution)
		delete(o.byID, x.GetId())
		taken = append(taken, x)
		if x.GetEndedAt() != nil {
			o.unconfirmed = append(o.unconfirmed, sent{x, now})
		}
	}
	return taken
}

// empty says that nothing waits to be sent.
func (o *outbox) empty() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pending.Len() == 0
}

// presses says that so much waits that some of it would soon be dropped.
func (o *outbox) presses() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pending.Len() > outboxLimit/2
}

// confirm forgets what was sent before a moment and returns it, with the moment of the oldest report that is left, zero for none.
func (o *outbox) confirm(before time.Time) (arrived []*sidecarv1.Execution, next time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for n < len(o.unconfirmed) && !o.unconfirmed[n].at.After(before) {
		arrived = append(arrived, o.unconfirmed[n].execution)
		n++
	}
	o.unconfirmed = o.unconfirmed[n:]
	if len(o.unconfirmed) > 0 {
		next = o.unconfirmed[0].at
	}
	return arrived, next
}

// connect begins a session: running executions are taken from here on.
func (o *outbox) connect() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.connected = true
}

// disconnect ends it: what was on its way waits again, before what is newer; reports of running executions are out of date.
func (o *outbox) disconnect() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.connected = false
	var next *list.Element
	for e := o.pending.Front(); e != nil; e = next {
		next = e.Next()
		if x := e.Value.(*sidecarv1.Execution); x.GetEndedAt() == nil {
			delete(o.byID, x.GetId())
			o.pending.Remove(e)
		}
	}
	for i := len(o.unconfirmed) - 1; i >= 0; i-- {
		x := o.unconfirmed[i].execution
		if _, newer := o.byID[x.GetId()]; newer {
			continue
		}
		if o.pending.Len() >= outboxLimit {
			o.dropped++
			continue
		}
		o.byID[x.GetId()] = o.pending.PushFront(x)
	}
	o.unconfirmed = nil
}

// takeDropped returns how many ended executions were dropped since the last call.
func (o *outbox) takeDropped() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.dropped
	o.dropped = 0
	return n
}
