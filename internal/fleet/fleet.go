// Package fleet is the control plane's end of the sidecar sessions: it registers instances, tells each sidecar the state it must hold,
// and keeps what they report.
//
// Invariants: registration and health are stored, everything else is soft state that the sidecars send again after a reconnect; the silence
// of a stream is not the death of an instance; what a sidecar must hold is a pure function of one store view, so a stream can open with it
// at any time on any replica.
package fleet

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// Archive is where sidecars pull versions from.
type Archive interface {
	Get(ctx context.Context, digest string) (versions.Packed, error)
	// Attachments of the version with this digest, verified.
	Attachments(ctx context.Context, subject, kind string) ([]versions.Attachment, error)
}

// Proxies tells when an instance's endpoint has left every connected proxy.
type Proxies interface {
	EndpointGone(ctx context.Context, spec, version, address string) error
}

// Options of a Fleet. All are required but Grace.
type Options struct {
	Store   *store.Store
	Archive Archive
	Proxies Proxies
	Log     *zap.Logger
	// Grace is how long a silent instance keeps its endpoint before its health is asked, counted from this replica's start at the
	// earliest. Default 30 s.
	Grace time.Duration
	// Metrics is where counts are shown; nil: nowhere.
	Metrics prometheus.Registerer
}

// Fleet is safe for concurrent use.
type Fleet struct {
	sidecarv1.UnimplementedSidecarServiceServer

	store   *store.Store
	archive Archive
	proxies Proxies
	log     *zap.Logger
	grace   time.Duration
	started time.Time

	mu      sync.Mutex
	members map[string]*member             // by instance id
	pools   map[poolKey]*history           // counts of gone instances and recent rates
	recent  map[string]map[string]*history // the same pools, by spec and version
	changed chan struct{}                  // closed and replaced on every change
	touched map[string]struct{}            // specs, for Touched
	// mirrored is what was told of shadows, by spec.
	mirrored map[string]*mirrored
	// acted wait to be stored, actedCount of them; storing are those that are on their way.
	acted, storing map[waiting][]store.Failure
	actedCount     int

	storingActs sync.Mutex // held by whoever stores acted; taken before mu
}

type poolKey struct{ spec, version string }

// member is what one sidecar told over its newest session. Guarded by Fleet.mu.
type member struct {
	key       poolKey
	address   string
	session   uint64 // number of the session that may write; an older one is stale
	connected bool
	silentAt  time.Time
	startedAt time.Time // of the process
	status    *sidecarv1.Status
	totals    *sidecarv1.Totals
	running   map[string]*sidecarv1.Execution
	told      told
}

// New makes a Fleet; Run must be called for it to reap dead instances.
func New(o Options) *Fleet {
	if o.Grace == 0 {
		o.Grace = 30 * time.Second
	}
	f := &Fleet{
		store: o.Store, archive: o.Archive, proxies: o.Proxies, log: o.Log, grace: o.Grace, started: time.Now(),
		members: map[string]*member{}, pools: map[poolKey]*history{}, recent: map[string]map[string]*history{}, changed: make(chan struct{}), touched: map[string]struct{}{},
		acted: map[waiting][]store.Failure{}, mirrored: map[string]*mirrored{},
	}
	if o.Metrics != nil {
		o.Metrics.MustRegister(fleetMetrics{f})
	}
	return f
}

// Touched returns the specs whose sidecars came, went or reported since it was last called: it is for one caller.
func (f *Fleet) Touched() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := slices.Collect(maps.Keys(f.touched))
	clear(f.touched)
	return out
}

// Changes returns a channel that is closed at the next change of anything the Fleet can tell.
func (f *Fleet) Changes() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// broadcast wakes everyone who waits on Changes, which are of one spec; empty: it is not known of which. f.mu is held.
func (f *Fleet) broadcast(spec string) {
	if spec != "" {
		f.touched[spec] = struct{}{}
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// Pool is what is known of one version's instances.
type Pool struct {
	// Ready, Instances and Silent count stored instances: ready for traffic; all; those without a live session here.
	Ready, Instances, Silent int
	InFlight                 uint64
	// Started is every execution that began here.
	Started uint64
	// Succeeded and Failed include what still runs and has stated its outcome: a request that waits for a person who never comes has
	// failed now, not when its client gives up. They are part of InFlight too.
	Succeeded, Failed uint64
	Unknown           uint64
	Drained           drain.Counts
	// Here is the part of Drained that instances counted which are stored now.
	Here     drain.Counts
	PassedOn uint64
	// Settling is the part of InFlight that an order decided over.
	Settling uint64
	// Durations of executions that ended by themselves.
	Durations drain.Durations
	// Segments count by the attributes that the manifest declares.
	Segments []drain.Segment
	// Shadow counts copies of requests; they are in no other field.
	Shadow Shadow
	// Rate is new executions a second, over the last 30 s.
	Rate float64
	// RecentSucceeded and RecentFailed ended within the last 30 s, or run and have stated it.
	RecentSucceeded, RecentFailed uint64
	// Fence is how far the order to stop admitting has come.
	Fence Fences
	// decided says for each instance under which order it decided last.
	decided []decided
}

type decided struct {
	instance   string
	connected  bool
	generation uint64
}

// Acked is how far an order has come: raising the fence, or (a promotion) deciding over what runs.
func (p Pool) Acked(order drain.Drain) Fences {
	if order.Kind != drain.KindPromote {
		return p.Fence
	}
	f := Fences{Total: len(p.decided)}
	for _, d := range p.decided {
		switch {
		case !d.connected:
			f.Laggards = append(f.Laggards, d.instance+": no control stream")
		case d.generation < order.Generation:
			f.Laggards = append(f.Laggards, d.instance+": order not acknowledged")
		default:
			f.Acked++
		}
	}
	return f
}

// Fences says which instances of a pool have raised their fence.
type Fences struct {
	Acked, Total int
	// Laggards names those that have not, and why.
	Laggards        []string
	LastAdmissionAt time.Time
	LastAdmissionID string
}

// Pool of one version. The instances are the stored ones: one whose session is gone counts as silent, never as idle.
func (f *Fleet) Pool(view *store.View, spec, version string) Pool {
	f.mu.Lock()
	defer f.mu.Unlock()
	var p Pool
	key := poolKey{spec, version}
	for _, in := range view.InstancesOf(spec, version) {
		p.Instances++
		p.Fence.Total++
		if in.Health == routing.Ready {
			p.Ready++
		}
		m := f.members[in.ID]
		p.decided = append(p.decided, decidedBy(in, m))
		if m == nil || !m.connected {
			p.Silent++
			p.Fence.Laggards = append(p.Fence.Laggards, "instance "+in.ID+" at "+in.Address+": no control stream")
		}
		if m == nil || m.totals == nil { // not heard of since this replica began to listen
			stored, _ := view.Counted(spec, version, in.ID)
			p.Here = p.Here.Plus(stored.Counts)
		}
		if m == nil {
			continue
		}
		if m.connected {
			if m.status.GetFenced() {
				p.Fence.Acked++
			} else {
				p.Fence.Laggards = append(p.Fence.Laggards, "instance "+in.ID+" at "+in.Address+": fence not acknowledged")
			}
		}
		p.InFlight += m.totals.GetInFlight()
		p.Settling += m.totals.GetSettling()
		p.Shadow.InFlight += m.totals.GetShadow().GetInFlight()
		p.Here = p.Here.Plus(countsOf(m.totals))
		if at := m.status.GetLastAdmissionAt(); at != nil && at.AsTime().After(p.Fence.LastAdmissionAt) {
			p.Fence.LastAdmissionAt, p.Fence.LastAdmissionID = at.AsTime(), m.status.GetLastAdmissionId()
		}
	}
	h := f.pools[key]
	if h == nil {
		return p
	}
	sum := h.gone.clone()
	var early told
	for _, m := range h.members {
		sum.add(m.totals)
		early.succeeded += m.told.succeeded
		early.failed += m.told.failed
	}
	p.Started = sum.started
	p.Succeeded, p.Failed, p.Unknown, p.PassedOn = sum.succeeded, sum.failed, sum.unknown, sum.passedOn
	p.Succeeded += early.succeeded
	p.Failed += early.failed
	p.Drained, p.Durations, p.Segments = sum.drained, sum.durations, sum.segments
	inFlight := p.Shadow.InFlight
	p.Shadow = sum.shadow
	p.Shadow.InFlight = inFlight
	now := time.Now()
	p.Rate = h.recent.rate(now, f.started)
	p.RecentSucceeded, p.RecentFailed = h.recent.outcomes(now)
	p.RecentSucceeded += early.succeeded
	p.RecentFailed += early.failed
	return p
}

func decidedBy(in routing.Instance, m *member) decided {
	d := decided{instance: "instance " + in.ID + " at " + in.Address}
	if m != nil {
		d.connected, d.generation = m.connected, m.status.GetOrderedGeneration()
	}
	return d
}

// Running lists the executions that a version's sidecars report as running, with the id of the instance each runs on.
func (f *Fleet) Running(spec, version string) []Running {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Running
	for id, m := range f.membersOf(spec, version) {
		for _, x := range m.running {
			out = append(out, Running{Instance: id, Execution: x})
		}
	}
	return out
}

// membersOf one version, by instance id. f.mu is held.
func (f *Fleet) membersOf(spec, version string) map[string]*member {
	if h := f.pools[poolKey{spec, version}]; h != nil {
		return h.members
	}
	return nil
}

// Seen are the versions of a spec that have instances, or of which executions began lately, in no order.
func (f *Fleet) Seen(view *store.View, spec string) []string {
	var out []string
	for _, in := range view.Instances(spec) {
		if !slices.Contains(out, in.Version) {
			out = append(out, in.Version)
		}
	}
	since := time.Now().Add(-recentSpan)
	f.mu.Lock()
	defer f.mu.Unlock()
	for version, h := range f.recent[spec] {
		if h.recent.newest.After(since) && !slices.Contains(out, version) {
			out = append(out, version)
		}
	}
	return out
}

// Running is one execution and where it runs.
type Running struct {
	Instance  string
	Execution *sidecarv1.Execution
}

// Unfenced waits until every connected instance of a version has lifted its fence.
func (f *Fleet) Unfenced(ctx context.Context, spec, version string) error {
	for {
		f.mu.Lock()
		wait, lifted := f.changed, true
		for _, m := range f.membersOf(spec, version) {
			if m.connected && m.status.GetFenced() {
				lifted = false
			}
		}
		f.mu.Unlock()
		if lifted {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
