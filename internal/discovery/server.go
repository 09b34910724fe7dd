package discovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
	"github.com/specproxy/specproxy/internal/store"
)

const (
	// seenInterval is how often a connected proxy's record says that it was seen.
	seenInterval = time.Hour
	// saveRetry is how long to wait before records are written again that could not be.
	saveRetry = time.Second
	// buildBatch is how many specs one goroutine builds at a time.
	buildBatch = 64
	// lastSave bounds the write of the records when the server stops.
	lastSave = 2 * time.Second
)

// Options of a Server.
type Options struct {
	// Store has the specs and keeps the proxies.
	Store *store.Store
	// Source and Memory, if set, take the place of the store.
	Source Source
	Memory Memory
	// Log is required.
	Log *zap.Logger
	// Listener is how every Envoy's listener is set up.
	Listener envoy.ListenerOptions
	// Observe is told of every push before it is sent, by many goroutines at once; nil: nobody is.
	Observe func(Push)
	// Metrics is where counts are shown; nil: nowhere.
	Metrics prometheus.Registerer
	// Order is MakeBeforeBreak but in the test that shows what it is for.
	Order Order
}

// Push is one response to one proxy.
type Push struct {
	Node string
	// Type is the type URL.
	Type     string
	Upserted []string
	Removed  []string
	// Bytes is the size of the message on the wire, without framing.
	Bytes int
}

// Server serves delta ADS.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	source   Source
	memory   Memory
	log      *zap.Logger
	listener envoy.ListenerOptions
	observe  func(Push)
	metrics  *metrics
	order    Order
	now      func() time.Time

	catalog *catalog
	ledger  *ledger

	// merged is the source's revision as of which the ledger knows the stored proxies.
	mergeMu sync.Mutex
	merged  int64
	// savedAs is the id under which the other replicas were told. The goroutine of saveProxies owns it.
	savedAs string

	// loaded is closed when the catalog is filled: before, an Envoy would be told that nothing exists.
	loaded chan struct{}
	// stopping is closed when Run ends; streams counts handlers and their readers.
	stopping chan struct{}
	streamMu sync.Mutex
	stopped  bool
	streams  sync.WaitGroup
}

// New makes a server. It serves nothing until Run has loaded the specs.
func New(o Options) *Server {
	if o.Source == nil {
		o.Source = FromStore(o.Store)
	}
	if o.Memory == nil {
		o.Memory = FromStore(o.Store)
	}
	s := &Server{
		source: o.Source, memory: o.Memory, log: o.Log, listener: o.Listener, observe: o.Observe, order: o.Order,
		now:      time.Now,
		catalog:  newCatalog(),
		ledger:   newLedger(o.Memory.Proxies()),
		merged:   -1,
		loaded:   make(chan struct{}),
		stopping: make(chan struct{}),
	}
	s.metrics = newMetrics(o.Metrics, s)
	return s
}

// Register adds the discovery service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(r, s)
}

// Loaded is closed once the specs are loaded and proxies are served.
func (s *Server) Loaded() <-chan struct{} { return s.loaded }

// Run publishes changes of the source until ctx ends, then ends all streams and waits for them. It is called once. It returns nil when
// ctx ended, else why the source failed.
func (s *Server) Run(ctx context.Context) error {
	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { return s.publishChanges(running) })
	g.Go(func() error { s.saveProxies(running); return nil })
	err := g.Wait()

	s.streamMu.Lock()
	s.stopped = true
	close(s.stopping)
	s.streamMu.Unlock()
	s.streams.Wait()

	// What the streams said with their last breath: when each proxy was last seen.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSave)
	defer cancel()
	if err := s.saveOnce(last); err != nil {
		s.log.Warn("could not record when the proxies were last seen", zap.Error(err))
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// publishChanges is the one goroutine that builds and publishes.
func (s *Server) publishChanges(ctx context.Context) error {
	_, revision, _ := s.source.Changed(-1)
	s.publish(nil, revision)
	close(s.loaded)
	for {
		if _, err := s.source.Wait(ctx, revision); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("follow the specs: %w", err)
		}
		s.learnProxies() // wakes whoever waits for what another replica tells
		specs, newest, complete := s.source.Changed(revision)
		if !complete {
			specs = nil
		} else if specs == nil {
			specs = []string{}
		}
		s.publish(specs, newest)
		revision = newest
	}
}

// publish builds the named specs, or all if names is nil.
func (s *Server) publish(names []string, revision int64) {
	read := s.source.Read(names)
	if names == nil {
		names = s.catalog.names()
		for name := range read {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	built := make([]*entry, len(names))
	var builders errgroup.Group
	builders.SetLimit(runtime.GOMAXPROCS(0))
	for begin := 0; begin < len(names); begin += buildBatch {
		builders.Go(func() error {
			for i := begin; i < min(begin+buildBatch, len(names)); i++ {
				if spec, exists := read[names[i]]; exists {
					built[i] = s.build(spec)
				}
			}
			return nil
		})
	}
	_ = builders.Wait() // a spec that cannot be built is an entry, not an error
	entries := make(map[string]*entry, len(names))
	for i, name := range names {
		entries[name] = built[i]
	}
	s.catalog.publish(revision, entries)
}

// build makes an entry; if it cannot, the one before stays in force.
func (s *Server) build(spec envoy.Spec) *entry {
	res, err := envoy.Build(spec)
	if err != nil {
		s.log.Error("spec cannot be turned into Envoy resources: the last good ones stay", zap.String("spec", spec.Name), zap.Error(err))
		if before := s.catalog.entryOf(spec.Name); before != nil {
			kept := *before
			return &kept
		}
		return &entry{Resources: envoy.Resources{Spec: spec.Name}, hosts: spec.Hosts, broken: true}
	}
	for _, skipped := range res.Skipped {
		s.log.Warn("left out of the endpoints", zap.String("spec", spec.Name), zap.String("reason", skipped))
	}
	e := &entry{Resources: res}
	for _, scope := range res.Scopes {
		e.hosts = append(e.hosts, scope.Name)
	}
	return e
}

// saveProxies writes what the ledger has learned about proxies, many at a time.
func (s *Server) saveProxies(ctx context.Context) {
	seen := time.NewTicker(seenInterval)
	defer seen.Stop()
	for {
		var retry <-chan time.Time
		_, joined := s.memory.Self()
		if err := s.saveOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("could not record proxies; trying again", zap.Error(err))
			retry = time.After(saveRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-seen.C:
			s.ledger.refresh(s.now())
		case <-s.ledger.save:
		case <-joined:
		case <-retry:
		}
	}
}

// saveOnce writes the news in an order in which no other replica ever misses a proxy that has a spec: who left is on record as such before
// it is no more among this replica's, and who came is among them before its record says that it is here.
func (s *Server) saveOnce(ctx context.Context) error {
	self, _ := s.memory.Self()
	if self != s.savedAs {
		s.ledger.refresh(s.now()) // to the others this is a new replica
	}
	n := s.ledger.takeNews(self)
	err := s.saveNews(ctx, self, n)
	if err != nil {
		s.ledger.putBack(n)
		return err
	}
	s.savedAs = self
	s.ledger.saved()
	return nil
}

func (s *Server) saveNews(ctx context.Context, self string, n news) error {
	if len(n.left) > 0 {
		if err := s.memory.SaveProxies(ctx, self, n.left); err != nil {
			return err
		}
	}
	if self != "" && len(n.specs) > 0 {
		acks := make([]routing.Acks, len(n.specs))
		for i, spec := range n.specs {
			acks[i] = s.ledger.acks(spec)
		}
		if err := s.memory.SaveAcks(ctx, self, acks); err != nil {
			return err
		}
	}
	if len(n.here) > 0 {
		return s.memory.SaveProxies(ctx, self, n.here)
	}
	return nil
}

// learnProxies takes in what other replicas recorded, if anything was recorded since the last time.
func (s *Server) learnProxies() {
	s.mergeMu.Lock()
	defer s.mergeMu.Unlock()
	revision := s.memory.ProxiesRevision()
	if revision == s.merged {
		return
	}
	self, _ := s.memory.Self()
	s.ledger.merge(s.memory.Proxies(), self)
	s.merged = revision
}

// sourceRevision is the newest revision of the source.
func (s *Server) sourceRevision() int64 {
	published, _ := s.catalog.published()
	_, revision, _ := s.source.Changed(published)
	return revision
}

// enter counts a stream in, unless the server is stopping.
func (s *Server) enter() bool {
	s.streamMu.Lock()
	defer s.streamMu.Unlock()
	if s.stopped {
		return false
	}
	s.streams.Add(2) // the handler and its reader
	return true
}

// DeltaAggregatedResources serves one Envoy.
func (s *Server) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	st := newStream(s, g)
	return serve(s, g, st.mailbox, st)
}

// StreamAggregatedResources serves one gRPC client, which speaks the state-of-the-world variant only. Envoys use DELTA_GRPC.
func (s *Server) StreamAggregatedResources(g discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	w := newWhole(s, g)
	return serve(s, g, w.mailbox, w)
}

// conversation is one stream of either variant. One goroutine at a time uses it.
type conversation[Request any] interface {
	// request takes in what the client says, changed what the catalog has published. push sends what is to be sent now.
	request(req *Request) error
	changed()
	push() error
	// leave ends it.
	leave()
}

// serve runs one stream. Two goroutines take turns at the conversation: the one that reads takes in requests itself, since most are acknowledgements
// that ask for no answer and need not wake another; this one waits for changes and for the end.
func serve[Request any](s *Server, g interface {
	Context() context.Context
	Recv() (*Request, error)
}, m *mailbox, c conversation[Request],
) error {
	if !s.enter() {
		return errStopping
	}
	defer s.streams.Done()
	var mu sync.Mutex
	left := false
	s.catalog.join(m)
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		left = true
		c.leave()
	}()
	ended := make(chan error, 1)
	// Receive cannot be interrupted but by the end of this handler, so the reader outlives it by a moment; Run waits for both.
	go func() {
		defer s.streams.Done()
		select {
		case <-s.loaded:
		case <-g.Context().Done():
			return
		}
		for {
			req, err := g.Recv()
			if err != nil {
				if !errors.Is(err, io.EOF) && status.Code(err) != codes.Canceled {
					s.log.Debug("proxy's stream broke", zap.Error(err))
				}
				ended <- nil
				return
			}
			mu.Lock()
			if !left {
				if err = c.request(req); err == nil {
					err = c.push()
				}
			}
			mu.Unlock()
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	for {
		select {
		case <-g.Context().Done():
			return status.FromContextError(g.Context().Err()).Err()
		case <-s.stopping:
			return errStopping
		case err := <-ended:
			return err
		case <-m.wake:
		}
		mu.Lock()
		c.changed()
		err := c.push()
		mu.Unlock()
		if err != nil {
			return err
		}
	}
}

var errStopping = status.Error(codes.Unavailable, "the control plane is stopping")
