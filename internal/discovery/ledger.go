package discovery

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// remembered is how long a proxy that is not connected still counts as one that may be serving.
const remembered = 24 * time.Hour

// ledger knows, for every proxy, what it acknowledged. Streams write to it, the effect of a change is read from it.
type ledger struct {
	mu    sync.Mutex
	nodes map[string]*node
	// moved is closed at the next change.
	moved chan struct{}
	// unsaved are the nodes whose record is to be written; save holds a token while there are any.
	unsaved map[string]struct{}
	save    chan struct{}
}

// node is one proxy by name. Two Envoys that share a name are two sessions of one node, and both must acknowledge.
type node struct {
	name, version string
	lastSeen      time.Time
	// specs whose route it had when it was last asked.
	specs    map[string]struct{}
	sessions map[*session]struct{}
}

// session is one stream's part of the ledger. All fields are guarded by ledger.mu.
type session struct {
	ledger *ledger
	node   *node
	since  time.Time
	// clustersNamed and routesNamed: the client has said what it has of each.
	clustersNamed, routesNamed, endpointsNamed bool
	resumed                                    map[string]struct{}
	routes                                     map[string]*routeState
	endpoints                                  map[string]*endpointState
	trouble                                    string
}

// routeState is one subscribed spec.
type routeState struct {
	generation uint64
	at         time.Time
	// refusal of a push after the last acknowledgement, and the generation that it was for: 0 if it was a cluster or endpoints.
	refusal           string
	refusedGeneration uint64
}

// endpointState is one cluster's assignment: nil resources are unknown ones until known says otherwise.
type endpointState struct {
	known       bool
	sent, acked *envoy.Resource
}

func newLedger(past []routing.Proxy) *ledger {
	l := &ledger{nodes: map[string]*node{}, moved: make(chan struct{}), unsaved: map[string]struct{}{}, save: make(chan struct{}, 1)}
	l.merge(past)
	return l
}

// merge takes in what is stored, which other replicas write too. What this replica sees itself it knows better.
func (l *ledger) merge(past []routing.Proxy) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range past {
		n := l.nodes[p.Node]
		if n == nil {
			n = &node{name: p.Node, sessions: map[*session]struct{}{}}
			l.nodes[p.Node] = n
		}
		if len(n.sessions) > 0 || !p.LastSeen.After(n.lastSeen) {
			continue
		}
		n.version, n.lastSeen, n.specs = p.Version, p.LastSeen, map[string]struct{}{}
		for _, s := range p.Specs {
			n.specs[s] = struct{}{}
		}
	}
}

// touch wakes whoever waits for a change; the caller holds mu.
func (l *ledger) touch() {
	close(l.moved)
	l.moved = make(chan struct{})
}

// keep has the node's record written; the caller holds mu.
func (l *ledger) keep(n *node) {
	l.unsaved[n.name] = struct{}{}
	select {
	case l.save <- struct{}{}:
	default: // there is a token already
	}
}

func (l *ledger) changes() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.moved
}

// connect opens a session.
func (l *ledger) connect(name, version string, now time.Time) *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[name]
	if n == nil {
		n = &node{name: name, specs: map[string]struct{}{}, sessions: map[*session]struct{}{}}
		l.nodes[name] = n
	}
	n.version, n.lastSeen = version, now
	s := &session{
		ledger: l, node: n, since: now,
		routes: map[string]*routeState{}, endpoints: map[string]*endpointState{}, resumed: map[string]struct{}{},
	}
	n.sessions[s] = struct{}{}
	l.keep(n)
	l.touch()
	return s
}

func (s *session) close(now time.Time) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	s.node.lastSeen = now
	s.node.learn()
	delete(s.node.sessions, s)
	s.ledger.keep(s.node)
	s.ledger.touch()
}

// learn brings the node's specs up to date from its sessions, once those have said what they have.
func (n *node) learn() {
	specs := map[string]struct{}{}
	for s := range n.sessions {
		for spec := range s.routes {
			specs[spec] = struct{}{}
		}
		for spec := range n.specs {
			if s.mayHold(spec) {
				specs[spec] = struct{}{}
			}
		}
		for spec := range s.resumed {
			if s.mayHold(spec) {
				specs[spec] = struct{}{}
			}
		}
	}
	n.specs = specs
}

// mayHold says whether the client may have the route of a spec though it has not asked for it on this stream.
func (s *session) mayHold(spec string) bool {
	if s.routesNamed {
		return false
	}
	if s.clustersNamed {
		_, ok := s.resumed[spec]
		return ok
	}
	_, ok := s.node.specs[spec]
	return ok
}

// change runs fn under the lock and tells the waiters.
func (s *session) change(fn func()) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	fn()
	s.ledger.touch()
}

func (s *session) problem(text string) { s.change(func() { s.trouble = text }) }

// resumes notes the specs that the client brought clusters of.
func (s *session) resumes(specs map[string]struct{}) {
	s.change(func() {
		s.clustersNamed, s.resumed = true, maps.Clone(specs)
		s.learnAndKeep()
	})
}

// settled notes that the client has named all routes that it has.
func (s *session) settled() {
	s.change(func() {
		s.routesNamed = true
		s.learnAndKeep()
	})
}

func (s *session) learnAndKeep() {
	before := s.node.specs
	s.node.learn()
	if !maps.Equal(before, s.node.specs) {
		s.ledger.keep(s.node)
	}
}

// subscribed notes that the client wants the spec's route; it may have a generation of it already.
func (s *session) subscribed(spec string, generation uint64) {
	s.change(func() {
		if s.routes[spec] == nil {
			s.routes[spec] = &routeState{generation: generation, at: s.since}
		}
		s.learnAndKeep()
	})
}

func (s *session) unsubscribed(spec string) {
	s.change(func() {
		delete(s.routes, spec)
		s.learnAndKeep()
	})
}

func (s *session) acknowledged(spec string, generation uint64, now time.Time) {
	s.change(func() {
		r := s.routes[spec]
		if r == nil {
			return // unsubscribed while it was on its way
		}
		r.generation, r.at, r.refusal, r.refusedGeneration = generation, now, "", 0
		s.node.lastSeen = now
	})
}

// refused notes the client's own words with every spec that the push was about.
func (s *session) refused(typeURL string, p *push, message string) {
	s.change(func() {
		generation := map[string]uint64{}
		for _, r := range p.upserts {
			if spec, ok := specOf(typeURL, r.Name); ok {
				generation[spec] = max(generation[spec], r.Generation)
			}
		}
		if len(generation) == 0 {
			s.trouble = message
		}
		for spec, g := range generation {
			if r := s.routes[spec]; r != nil {
				r.refusal, r.refusedGeneration = message, g
			}
		}
	})
}

func specOf(typeURL, name string) (string, bool) {
	switch typeURL {
	case envoy.TypeRoute:
		return envoy.SpecOfRoute(name)
	case envoy.TypeCluster, envoy.TypeEndpoint:
		return envoy.SpecOfCluster(name)
	}
	return "", false
}

func (s *session) asksEndpoints() { s.change(func() { s.endpointsNamed = true }) }

func (s *session) endpointsAsked(cluster string) {
	s.change(func() {
		if s.endpoints[cluster] == nil {
			s.endpoints[cluster] = &endpointState{}
		}
	})
}

func (s *session) endpointsDropped(cluster string) { s.change(func() { delete(s.endpoints, cluster) }) }

func (s *session) endpointsSent(cluster string, r *envoy.Resource) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	if e := s.endpoints[cluster]; e != nil {
		e.known, e.sent = false, r
	}
}

func (s *session) endpointsHeld(cluster string, r *envoy.Resource) {
	s.change(func() {
		if e := s.endpoints[cluster]; e != nil {
			e.known, e.sent, e.acked = true, r, r
		}
	})
}

// takeUnsaved returns the records to write.
func (l *ledger) takeUnsaved() []routing.Proxy {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]routing.Proxy, 0, len(l.unsaved))
	for name := range l.unsaved {
		n := l.nodes[name]
		out = append(out, routing.Proxy{Node: n.name, Version: n.version, LastSeen: n.lastSeen, Specs: slices.Sorted(maps.Keys(n.specs))})
	}
	clear(l.unsaved)
	slices.SortFunc(out, func(a, b routing.Proxy) int { return compareNames(a.Node, b.Node) })
	return out
}

// putBack has records written later that could not be written now.
func (l *ledger) putBack(proxies []routing.Proxy) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range proxies {
		l.unsaved[p.Node] = struct{}{}
	}
}

// refresh marks all connected nodes as seen now, to be written.
func (l *ledger) refresh(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.nodes {
		if len(n.sessions) > 0 {
			n.lastSeen = now
			l.keep(n)
		}
	}
}
