package session

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
)

// collector follows the ledger and decides which executions are worth a report: running ones that are older than one interval, ended ones
// that failed, that an order decided over or that did more than read, and the end of every one that was reported as running.
type collector struct {
	ledger   *drain.Ledger
	interval time.Duration
	now      func() time.Time
	// horizon is when the last snapshot was taken, in Unix nanoseconds; far in the future while one is. What began before it may be reported.
	horizon atomic.Int64

	// mu is held over every look at the ledger, so that an execution that is seen running is in reported before its end is asked about.
	mu  sync.Mutex
	seq uint64
	// young are running executions that were too short-lived to be reported when they changed.
	young map[string]struct{}
	// ending are running executions that an order has cut, with the moment from which they are told of though their end has not come. A crowd
	// that is cut at once is so told of once, not twice.
	ending map[string]time.Time
	// crowd is when a crowd was last cut: what is told of it makes way for a while to the answers.
	crowd time.Time
	// reported are those that some replica believes to run.
	reported map[string]struct{}
	ended    []drain.Row
}

func newCollector(ledger *drain.Ledger, interval time.Duration, now func() time.Time) *collector {
	return &collector{ledger: ledger, interval: interval, now: now, young: map[string]struct{}{}, reported: map[string]struct{}{}, ending: map[string]time.Time{}}
}

// end takes an execution that has just ended. Nearly all are of no interest, so what is quick comes first.
func (c *collector) end(r drain.Row) {
	if r.Told() {
		return // kept by the ledger, where gather finds it
	}
	if c.now().Sub(r.StartedAt) < c.interval && r.StartedAt.UnixNano() > c.horizon.Load() {
		return // never reported
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.reported[r.ID]; ok {
		c.ended = append(c.ended, r)
	}
}

// gather returns what changed since the last call, and whether it should be called again after an interval even if nothing changes.
func (c *collector) gather() (changed []*sidecarv1.Execution, again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rows, seq := c.ledger.Changed(c.seq)
	c.seq = seq
	for _, r := range rows {
		delete(c.young, r.ID)
	}
	for id := range c.young {
		if x, ok := c.ledger.Join(id); ok {
			rows = append(rows, x.Row())
		}
	}
	clear(c.young)
	now := c.now()
	for id, at := range c.ending {
		if x, ok := c.ledger.Join(id); ok && !now.Before(at) {
			rows = append(rows, x.Row())
		}
	}
	grownUp, cut := now.Add(-c.interval), len(c.ending)
	for _, r := range append(rows, c.ended...) {
		switch {
		case !r.EndedAt.IsZero():
			delete(c.reported, r.ID)
			delete(c.ending, r.ID)
		case r.StartedAt.After(grownUp) && r.Disposition == "" && r.Outcome != drain.Failure: // its end may come without a word: see end
			c.young[r.ID] = struct{}{}
			continue
		case r.Cut() && c.isEnding(r.ID, now):
			continue
		default:
			c.reported[r.ID] = struct{}{}
		}
		changed = append(changed, report(r))
	}
	if len(c.ending)-cut >= crowdSize {
		c.crowd = now
	}
	c.ended = nil
	return changed, len(c.young)+len(c.ending) > 0
}

// endsWithin is how many intervals an execution that was cut gets to end before it is told of.
const endsWithin = 50

// crowdSize is how many executions cut at once are a crowd.
const crowdSize = 500

// busy says that a crowd is being cut, so that clients wait for their answers.
func (c *collector) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ending) >= crowdSize && c.now().Before(c.crowd.Add(endsWithin*c.interval))
}

// isEnding says that an execution that was cut need not be told of: its end is about to come, or it has been told of once.
func (c *collector) isEnding(id string, now time.Time) bool {
	at, known := c.ending[id]
	switch {
	case !known:
		c.ending[id] = now.Add(endsWithin * c.interval)
		return true
	case now.Before(at):
		return true
	}
	c.ending[id] = now.Add(time.Hour)
	return false
}

// snapshot returns every running execution.
func (c *collector) snapshot() []*sidecarv1.Execution {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.horizon.Store(math.MaxInt64)
	rows := c.ledger.Running()
	c.horizon.Store(c.now().UnixNano())
	all := make([]*sidecarv1.Execution, 0, len(rows))
	for _, r := range rows {
		c.reported[r.ID] = struct{}{}
		all = append(all, report(r))
	}
	return all
}
