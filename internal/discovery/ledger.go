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
	// holders are the nodes that have the route of a spec, or may have it: the reverse of node.specs.
	holders map[string]map[*node]struct{}
	// moved is closed at the next change.
	moved chan struct{}
	// unsaved are the nodes whose record is to be written, untold the specs whose Acks the other replicas are to be told; save holds a token
	// while there are any.
	unsaved, untold map[string]struct{}
	save            chan struct{}
	// saving are nodes whose record is being written.
	saving map[string]struct{}
}

// node is one proxy by name. Two Envoys that share a name are two sessions of one node, and both must acknowledge.
type node struct {
	name, version string
	lastSeen      time.Time
	// replica that it was connected to by its record, if it is not connected here.
	replica string
	// specs whose route it had when it was last asked. Changed by hold alone.
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
	l := &ledger{
		nodes: map[string]*node{}, holders: map[string]map[*node]struct{}{}, moved: make(chan struct{}),
		unsaved: map[string]struct{}{}, untold: map[string]struct{}{}, save: make(chan struct{}, 1),
	}
	l.merge(past, "")
	return l
}

// node returns the node of a name, which may be new; the caller holds mu.
func (l *ledger) node(name string) *node {
	n := l.nodes[name]
	if n == nil {
		n = &node{name: name, specs: map[string]struct{}{}, sessions: map[*session]struct{}{}}
		l.nodes[name] = n
	}
	return n
}

// hold notes whether a node has a spec's route, or may have it; the caller holds mu. It returns false if that was known.
func (l *ledger) hold(n *node, spec string, holds bool) bool {
	if _, held := n.specs[spec]; held == holds {
		return false
	}
	if !holds {
		delete(n.specs, spec)
		delete(l.holders[spec], n)
		if len(l.holders[spec]) == 0 {
			delete(l.holders, spec)
		}
		return true
	}
	n.specs[spec] = struct{}{}
	if l.holders[spec] == nil {
		l.holders[spec] = map[*node]struct{}{}
	}
	l.holders[spec][n] = struct{}{}
	return true
}

// merge takes in what is stored, which other replicas write too. What this replica, which is self, sees itself it knows better. A record that
// names another replica is newer than what was seen here, whatever the clocks say: a replica that a proxy has left takes only its own name
// from the record.
func (l *ledger) merge(past []routing.Proxy, self string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range past {
		n := l.node(p.Node)
		_, unsaved := l.unsaved[p.Node]
		_, saving := l.saving[p.Node]
		elsewhere := p.Replica != "" && p.Replica != self
		if len(n.sessions) > 0 || unsaved || saving || !elsewhere && p.LastSeen.Before(n.lastSeen) {
			continue
		}
		n.version, n.lastSeen, n.replica = p.Version, p.LastSeen, p.Replica
		for spec := range n.specs {
			if _, still := slices.BinarySearch(p.Specs, spec); !still {
				l.hold(n, spec, false)
			}
		}
		for _, spec := range p.Specs {
			l.hold(n, spec, true)
		}
	}
	l.touch()
}

// touch wakes whoever waits for a change; the caller holds mu.
func (l *ledger) touch() {
	close(l.moved)
	l.moved = make(chan struct{})
}

// keep has the node's record written; the caller holds mu.
func (l *ledger) keep(n *node) {
	l.unsaved[n.name] = struct{}{}
	l.wake()
}

// tell has the other replicas told of a spec; the caller holds mu.
func (l *ledger) tell(spec string) {
	l.untold[spec] = struct{}{}
	l.wake()
}

func (l *ledger) wake() {
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
	n := l.node(name)
	n.version, n.lastSeen, n.replica = version, now, ""
	s := &session{
		ledger: l, node: n, since: now,
		routes: map[string]*routeState{}, endpoints: map[string]*endpointState{}, resumed: map[string]struct{}{},
	}
	n.sessions[s] = struct{}{}
	l.keepAll(n)
	l.touch()
	return s
}

func (s *session) close(now time.Time) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	s.node.lastSeen = now
	s.learn()
	delete(s.node.sessions, s)
	s.ledger.keepAll(s.node)
	s.ledger.touch()
}

// keepAll has the node's record written and the other replicas told of all that it has; the caller holds mu.
func (l *ledger) keepAll(n *node) {
	l.keep(n)
	for spec := range n.specs {
		l.tell(spec)
	}
}

// learn brings what the node holds up to date from its sessions, of which one has said more about what it has. The caller holds mu.
func (s *session) learn() {
	n, changed := s.node, false
	for spec := range s.resumed {
		changed = s.ledger.hold(n, spec, n.holds(spec)) || changed
	}
	for spec := range maps.Clone(n.specs) {
		changed = s.ledger.hold(n, spec, n.holds(spec)) || changed
		s.ledger.tell(spec)
	}
	if changed {
		s.ledger.keep(n)
	}
}

// learnOf is learn for one spec.
func (s *session) learnOf(spec string) {
	if s.ledger.hold(s.node, spec, s.node.holds(spec)) {
		s.ledger.keep(s.node)
	}
	s.ledger.tell(spec)
}

// holds says whether any session of the node has the spec's route, or may have it.
func (n *node) holds(spec string) bool {
	for s := range n.sessions {
		if s.routes[spec] != nil || s.mayHold(spec) {
			return true
		}
	}
	return false
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
		s.learn()
	})
}

// settled notes that the client has named all routes that it has.
func (s *session) settled() {
	s.change(func() {
		s.routesNamed = true
		s.learn()
	})
}

// subscribed notes that the client wants the spec's route; it may have a generation of it already.
func (s *session) subscribed(spec string, generation uint64) {
	s.change(func() {
		if s.routes[spec] == nil {
			s.routes[spec] = &routeState{generation: generation, at: s.since}
		}
		s.learnOf(spec)
	})
}

func (s *session) unsubscribed(spec string) {
	s.change(func() {
		delete(s.routes, spec)
		s.learnOf(spec)
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
		s.ledger.tell(spec)
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
				s.ledger.tell(spec)
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

// news is what the ledger has learned since it was last asked.
type news struct {
	// left are the records of proxies that are not connected here any more, here those of the others.
	left, here []routing.Proxy
	// specs whose Acks are to be told.
	specs []string
}

// takeNews returns what is to be written by this replica, which is self; empty: alone.
func (l *ledger) takeNews(self string) news {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out news
	for _, name := range slices.Sorted(maps.Keys(l.unsaved)) {
		n := l.nodes[name]
		p := routing.Proxy{Node: n.name, Version: n.version, LastSeen: n.lastSeen, Specs: slices.Sorted(maps.Keys(n.specs))}
		if len(n.sessions) == 0 {
			out.left = append(out.left, p)
			continue
		}
		p.Replica = self
		out.here = append(out.here, p)
	}
	out.specs = slices.Sorted(maps.Keys(l.untold))
	l.saving = l.unsaved
	l.unsaved, l.untold = map[string]struct{}{}, map[string]struct{}{}
	return out
}

// saved ends what takeNews began.
func (l *ledger) saved() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saving = nil
}

// putBack has what could not be written now written later.
func (l *ledger) putBack(n news) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range slices.Concat(n.left, n.here) {
		l.unsaved[p.Node] = struct{}{}
	}
	for _, spec := range n.specs {
		l.untold[spec] = struct{}{}
	}
	l.saving = nil
}

// refresh marks all connected nodes as seen now, to be written, and the other replicas as to be told of everything.
func (l *ledger) refresh(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.nodes {
		if len(n.sessions) > 0 {
			n.lastSeen = now
			l.keepAll(n)
		}
	}
}
