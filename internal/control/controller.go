// Package control turns commands and observations into store transactions.
//
// Invariants: one transaction per command, so a crash leaves the state before it or after it; a rollback's new generation, standings,
// drain orders and post-mortem are one transaction; generations only grow; a rollback never waits for the pool it abandons, nor for a plan,
// a gate or a freeze.
package control

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/store"
)

// Options of a Controller. All but the durations are required.
type Options struct {
	Store     *store.Store
	Archive   Archive
	Fleet     *fleet.Fleet
	Discovery *discovery.Server
	Log       *zap.Logger
	// FreezeFor is how long a rollback keeps automation away from a spec. Default 24 h.
	FreezeFor time.Duration
	// Prometheus answers the queries of canaries' judges; nil: there is none.
	Prometheus Numbers
	// PlanHosts are the hosts that plans may have posted to, as host, host:port or .domain; empty: any.
	PlanHosts []string
	// Metrics is where counts are shown; nil: nowhere.
	Metrics prometheus.Registerer
	// PublicURL is how people reach the API, for links: scheme, host and port.
	PublicURL string
	// Alone says that no other replica uses the store, so what an earlier process had begun nobody will end.
	Alone bool
}

// Controller is safe for concurrent use; commands that touch the same spec on several replicas are serialised by the store.
type Controller struct {
	store     *store.Store
	archive   Archive
	fleet     *fleet.Fleet
	discovery *discovery.Server
	log       *zap.Logger
	freezeFor time.Duration
	alone     bool
	publicURL string

	prometheus Numbers
	planHosts  []string
	started    time.Time
	metrics    *metrics

	commands sync.Mutex // one route change at a time in this replica

	catalogue catalogue
	errands   errands

	mu       sync.Mutex
	effects  map[effectKey]time.Time // when a generation was first seen effective
	progress chan struct{}           // closed and replaced when an effect is recorded
}

// New makes a Controller. Run must be called for drains to end, bakes to finish and effects to be recorded.
func New(o Options) *Controller {
	if o.FreezeFor == 0 {
		o.FreezeFor = 24 * time.Hour
	}
	c := &Controller{
		store: o.Store, archive: o.Archive, fleet: o.Fleet, discovery: o.Discovery, log: o.Log, freezeFor: o.FreezeFor,
		alone: o.Alone, publicURL: o.PublicURL, prometheus: o.Prometheus, planHosts: o.PlanHosts, started: time.Now(),
		effects: map[effectKey]time.Time{}, progress: make(chan struct{}),
	}
	c.metrics = newMetrics(o.Metrics, c)
	return c
}

// Run works until ctx ends. It may run on one replica at a time.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.followEffects(ctx) })
	g.Go(func() error { return c.followDrains(ctx) })
	g.Go(func() error { return c.followBakes(ctx) })
	g.Go(func() error { return c.followFences(ctx) })
	g.Go(func() error { return c.followTargets(ctx) })
	g.Go(func() error { return c.followShadows(ctx) })
	g.Go(func() error { return c.followRollouts(ctx) })
	g.Go(func() error { return c.followRehearsals(ctx) })
	g.Go(func() error { return c.followEvidence(ctx) })
	return g.Wait()
}

// Actor is who gave a command.
type Actor struct {
	// Name as the audit shows it, such as "admin (alice@host)".
	Name string
	// Automation is set by CI and scripts; a frozen spec refuses them.
	Automation bool
	// Admin may override an open post-mortem.
	Admin bool
}

// Refused is an error that a person can act on: the command was understood and not carried out; nothing changed.
type Refused struct {
	// Why names the object and the reason.
	Why string
	// Next is the command to type next; may be empty.
	Next string
}

func (r *Refused) Error() string {
	if r.Next == "" {
		return r.Why
	}
	return r.Why + "\n  next: " + r.Next
}

func refuse(next, format string, args ...any) error {
	return &Refused{Why: fmt.Sprintf(format, args...), Next: next}
}

// NotFound is a Refused for a thing that does not exist.
type NotFound struct{ Refused }
