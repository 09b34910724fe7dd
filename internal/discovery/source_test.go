package discovery_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"

	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// tb is what *testing.T and *rapid.T share.
type tb interface {
	zaptest.TestingT
	Helper()
	Cleanup(func())
	Context() context.Context
	Fatal(...any)
	Fatalf(string, ...any)
}

// source is a Source and a Memory that live in the test's own memory. Every change is a revision.
type source struct {
	mu       sync.Mutex
	specs    map[string]envoy.Spec
	touched  map[string]int64
	proxies  map[string]routing.Proxy
	revision int64
	moved    chan struct{}
	saved    chan struct{} // closed when proxies are next saved
}

func newSource(specs ...envoy.Spec) *source {
	s := &source{
		specs: map[string]envoy.Spec{}, touched: map[string]int64{}, proxies: map[string]routing.Proxy{},
		moved: make(chan struct{}), saved: make(chan struct{}),
	}
	s.put(specs...)
	return s
}

// put publishes specs in one revision.
func (s *source) put(specs ...envoy.Spec) {
	s.change(func() {
		for _, spec := range specs {
			s.specs[spec.Name] = spec
			s.touched[spec.Name] = s.revision
		}
	})
}

// edit changes one spec.
func (s *source) edit(name string, fn func(*envoy.Spec)) {
	s.change(func() {
		spec := s.specs[name]
		spec.Pools, spec.Hosts = slices.Clone(spec.Pools), slices.Clone(spec.Hosts)
		fn(&spec)
		s.specs[name] = spec
		s.touched[name] = s.revision
	})
}

func (s *source) remove(name string) {
	s.change(func() {
		delete(s.specs, name)
		s.touched[name] = s.revision
	})
}

func (s *source) change(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	fn()
	close(s.moved)
	s.moved = make(chan struct{})
}

func (s *source) Wait(ctx context.Context, after int64) (int64, error) {
	for {
		s.mu.Lock()
		revision, moved := s.revision, s.moved
		s.mu.Unlock()
		if revision > after {
			return revision, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return revision, ctx.Err()
		}
	}
}

func (s *source) Changed(after int64) ([]string, int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after < 0 {
		return nil, s.revision, false
	}
	var names []string
	for name, at := range s.touched {
		if at > after {
			names = append(names, name)
		}
	}
	return names, s.revision, true
}

func (s *source) Read(names []string) map[string]envoy.Spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	if names == nil {
		return maps.Clone(s.specs)
	}
	out := map[string]envoy.Spec{}
	for _, name := range names {
		if spec, ok := s.specs[name]; ok {
			out[name] = spec
		}
	}
	return out
}

func (s *source) Proxies() []routing.Proxy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.proxies))
}

func (s *source) ProxiesRevision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision
}

// A source that is nobody's replica is alone.
func (s *source) Self() (string, <-chan struct{})                        { return "", nil }
func (s *source) Replicas() []routing.Replica                            { return nil }
func (s *source) Acks(string) []routing.Acks                             { return nil }
func (s *source) SaveAcks(context.Context, string, []routing.Acks) error { return nil }

func (s *source) SaveProxies(_ context.Context, _ string, proxies []routing.Proxy) error {
	s.change(func() {
		for _, p := range proxies {
			s.proxies[p.Node] = p
		}
		close(s.saved)
		s.saved = make(chan struct{})
	})
	return nil
}

// split is "2.1.0=1000" in the order given, which is the order in which the versions first held weight.
type split struct {
	version string
	weight  uint32
}

// specOf makes a spec whose versions are all live: those of the splits, and those of instances (version to addresses, ready ones).
func specOf(name string, generation uint64, splits []split, instances map[string][]string) envoy.Spec {
	s := envoy.Spec{Name: name, Hosts: []string{name + ".agents"}, Route: routing.Route{Spec: name, Generation: generation}}
	versions := map[string]bool{}
	for _, sp := range splits {
		versions[sp.version] = true
		if sp.weight > 0 {
			s.Route.Splits = append(s.Route.Splits, routing.Split{Version: sp.version, BasisPoints: sp.weight})
		}
	}
	for v := range instances {
		versions[v] = true
	}
	for _, v := range slices.Sorted(maps.Keys(versions)) {
		p := envoy.Pool{Version: v, Pin: routing.Pin([]byte("test"), name, v), Live: true}
		for _, a := range instances[v] {
			p.Instances = append(p.Instances, routing.Instance{ID: a, Spec: name, Version: v, Address: a, Health: routing.Ready})
		}
		s.Pools = append(s.Pools, p)
	}
	return s
}

func route(generation uint64, splits ...split) func(*envoy.Spec) {
	return func(s *envoy.Spec) {
		s.Route.Generation, s.Route.Splits = generation, nil
		for _, sp := range splits {
			if sp.weight > 0 {
				s.Route.Splits = append(s.Route.Splits, routing.Split{Version: sp.version, BasisPoints: sp.weight})
			}
		}
	}
}

// controlPlane is a server that runs until the test ends or it is stopped.
type controlPlane struct {
	*discovery.Server
	Address string
	stop    func()
	pushes  *pushLog
}

// serve starts a control plane at address; empty: any port.
func serve(t tb, s *source, address string, change ...func(*discovery.Options)) *controlPlane {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, s, l, nil, change...)
}

func serveOn(t tb, s *source, l net.Listener, opts []grpc.ServerOption, change ...func(*discovery.Options)) *controlPlane {
	t.Helper()
	pushes := &pushLog{moved: make(chan struct{})}
	o := discovery.Options{Source: s, Memory: s, Log: zaptest.NewLogger(t), Observe: pushes.add}
	for _, fn := range change {
		fn(&o)
	}
	d := discovery.New(o)
	gs := grpc.NewServer(opts...)
	d.Register(gs)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	wg.Go(func() { _ = gs.Serve(l) }) // ends with Stop
	stop := sync.OnceFunc(func() {
		cancel()
		gs.Stop()
		wg.Wait()
	})
	t.Cleanup(stop)
	return &controlPlane{Server: d, Address: l.Addr().String(), stop: stop, pushes: pushes}
}

// pushLog records what was sent.
type pushLog struct {
	mu    sync.Mutex
	all   []discovery.Push
	moved chan struct{}
}

func (p *pushLog) add(push discovery.Push) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, push)
	close(p.moved)
	p.moved = make(chan struct{})
}

func (p *pushLog) list() []discovery.Push {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.all)
}

// resources counts what was sent since the first n pushes.
func (p *pushLog) resources(n int) (count int, lines []string) {
	for _, push := range p.list()[n:] {
		count += len(push.Upserted) + len(push.Removed)
		lines = append(lines, fmt.Sprintf("%s +%v -%v", push.Type, push.Upserted, push.Removed))
	}
	return count, lines
}

// eventually waits on change until ok, which is asked after every change.
func eventually(t tb, what string, changes func() <-chan struct{}, ok func() bool) {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		c := changes()
		if ok() {
			return
		}
		select {
		case <-c:
		case <-timeout:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// effective waits until the generation is proven by at least n proxies.
func (c *controlPlane) effective(t tb, spec string, generation uint64, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("generation %d of %s at %d proxies: %+v", generation, spec, n, c.Effect(spec, generation)), c.Changes, func() bool {
		e := c.Effect(spec, generation)
		return e.Proven() && len(e.Acked) >= n
	})
}

func (p *pushLog) changes() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.moved
}

func (p *pushLog) removed(typeURL, name string) bool {
	return slices.ContainsFunc(p.list(), func(push discovery.Push) bool {
		return push.Type == typeURL && slices.Contains(push.Removed, name)
	})
}

// ticking is for what nothing announces, such as which worker of an Envoy has seen a change: ask again every few milliseconds.
func ticking() func() <-chan struct{} {
	return func() <-chan struct{} {
		c := make(chan struct{})
		time.AfterFunc(5*time.Millisecond, func() { close(c) })
		return c
	}
}
