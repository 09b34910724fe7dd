// Package session keeps the sidecar's conversation with every control-plane replica: state comes down and is applied, status, totals and
// executions go up.
//
// Invariants:
//   - every session opens with Hello, then the replica's State, then Totals and Status, and a snapshot of what runs;
//   - Status never claims more than what was sent before it shows: whoever learns of a fence knows all that was admitted before;
//   - State is applied by the goroutine that receives it, so a replica that does not read cannot keep a fence from going up;
//   - an execution that failed, was decided over or did more than read is told to every replica, again after a broken connection, until it can be taken for
//     received; what waits is bounded;
//   - a slow or silent replica holds up neither the data path nor another replica.
package session

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/drain"
)

// Config is what the sessions need. Every field is required.
type Config struct {
	Controls []Control
	Hello    *sidecarv1.Hello
	Ledger   *drain.Ledger
	// Apply puts a State in force; false: a newer one is.
	Apply func(*sidecarv1.State) (bool, error)
	// Status and Totals return the present ones; the caller may keep what they return.
	Status func() *sidecarv1.Status
	Totals func() *sidecarv1.Totals
	// Confirmed is called with every ended execution that some replica can be taken to have received.
	Confirmed func(id string)
	// Excerpt is what was captured of a failing execution; false: nothing.
	Excerpt func(id string) (capture.Excerpt, bool)
	// Interval is the least time between two reports of totals and executions.
	Interval time.Duration
	// MaxBackoff bounds the pause before a session is tried again.
	MaxBackoff time.Duration
	// ConfirmAfter is how long after it was sent, over a connection that still stands, a report counts as received.
	ConfirmAfter time.Duration
	Now          func() time.Time
	Log          *zap.Logger
}

// Default timings.
const (
	DefaultInterval     = 100 * time.Millisecond
	DefaultMaxBackoff   = 2 * time.Second
	DefaultConfirmAfter = 2 * brokenAfter
)

// Group is the sessions with all replicas.
type Group struct {
	Config
	collector *collector
	mirrors   mirrors
	peers     []*peer
	dirty     chan struct{} // one token: something to gather

	mu      sync.Mutex
	moved   chan struct{} // closed and replaced whenever a peer's fields below change
	untried int
	tried   chan struct{} // closed when every peer has been tried
}

// New prepares the sessions.
func New(c Config) *Group {
	g := &Group{
		Config: c, collector: newCollector(c.Ledger, c.Interval, c.Now), dirty: make(chan struct{}, 1),
		moved: make(chan struct{}), untried: len(c.Controls), tried: make(chan struct{}),
	}
	for _, control := range c.Controls {
		g.peers = append(g.peers, &peer{
			group: g, control: control, outbox: newOutbox(), log: c.Log.With(zap.String("control", control.Address)),
			news: make(chan struct{}, 1), urgent: make(chan struct{}, 1),
		})
	}
	return g
}

// Run keeps the sessions until ctx ends, then sends what is left to those that are connected, for at most a second.
func (g *Group) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, p := range g.peers {
		all.Go(func() { p.run(ctx) })
	}
	g.collect(ctx)
	all.Wait()
}

// Changed says that the ledger or the totals changed. It never blocks.
func (g *Group) Changed() { signal(g.dirty) }

// StatusChanged says that the status changed; it is sent at once. It never blocks.
func (g *Group) StatusChanged() {
	for _, p := range g.peers {
		signal(p.urgent)
	}
}

// Ended takes an execution that has just ended.
func (g *Group) Ended(r drain.Row) { g.collector.end(r) }

// Mirrored takes an ended execution that was copied, or is a copy.
func (g *Group) Mirrored(x *sidecarv1.Mirrored) {
	g.mirrors.add(x, g.Now())
	g.Changed()
}

// Recovered takes executions of an earlier process that ended with it. Call it before Run.
func (g *Group) Recovered(rows []drain.Row) {
	reports := make([]*sidecarv1.Execution, 0, len(rows))
	for _, r := range rows {
		reports = append(reports, report(r))
	}
	for _, p := range g.peers {
		p.outbox.offer(reports)
	}
}

// Tried is closed once every replica has either sent a State or failed to.
func (g *Group) Tried() <-chan struct{} { return g.tried }

// AwaitLeft returns nil when at least one replica is connected and every one that is has confirmed that the endpoint has left the proxies.
func (g *Group) AwaitLeft(ctx context.Context) error {
	for {
		g.mu.Lock()
		connected, left := 0, 0
		for _, p := range g.peers {
			if p.connected {
				connected++
				if p.left {
					left++
				}
			}
		}
		moved := g.moved
		g.mu.Unlock()
		if connected > 0 && left == connected {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Connected counts the replicas whose State has come over a session that stands.
func (g *Group) Connected() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, p := range g.peers {
		if p.connected {
			n++
		}
	}
	return n
}

// update changes a peer's shared fields.
func (g *Group) update(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	close(g.moved)
	g.moved = make(chan struct{})
}

// crowdPause is how many intervals lie between two reports while a crowd is cut: a second.
const crowdPause = 10

// collect distributes what changed, at most once per interval.
func (g *Group) collect(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-g.dirty:
		case <-ctx.Done():
			return
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		g.gather()
		wait := g.Interval
		if g.collector.busy() {
			wait *= crowdPause
		}
		pause.Reset(wait)
	}
}

func (g *Group) gather() {
	changed, again := g.collector.gather()
	if again {
		g.Changed()
	}
	for _, p := range g.peers {
		if len(changed) > 0 {
			p.outbox.offer(changed)
		}
		signal(p.news)
	}
}

// signal leaves a token in a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
