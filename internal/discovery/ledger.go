package discovery

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// remembered is how long a proxy that is not connected still counts as one that may be serving.
const remembered = 24 * time.Hour

// noticeEvery is how often, at most, whoever waits for acknowledgements is woken.
const noticeEvery = 5 * time.Millisecond

// ledger knows, for every proxy, what it acknowledged. Streams write to it, the effect of a change is read from it.
type ledger struct {
	mu    sync.Mutex
	nodes map[string]*node
	// holders are the nodes that have the route of a spec, or may have it: the reverse of node.specs.
	holders map[string]map[*node]struct{}
	// moved is closed at the next change, or a moment later if there was one just before: thousands of acknowledgements come together, and who
	// waits for them looks through all of them each time.
	moved   chan struct{}
	movedAt time.Time
	moving  bool
	// unsaved are the nodes whose record is to be written, untold the specs whose Acks the other replicas are to be told; save holds a token
	// while there are any.
	unsaved, untold map[string]struct{}
	save            chan struct{}
	// refusing are the sessions that refuse something.
	refusing map[*session]struct{}
	// saving are nodes whose record is being written; wrote is closed and replaced when that has been tried.
	saving map[string]struct{}
	wrote  chan struct{}
}

// node is one proxy by name. Two Envoys that share a name are two sessions of one node, and both must acknowledge.
type node struct {
	name, version string
	// listen is where it takes requests, host:port; empty: not known.
	listen   string
	lastSeen time.Time
	// replica that it was connected to by its record, if it is not connected here.
	replica string
	// forgotten by somebody, since when it has no say.
	forgotten *routing.Forgotten
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
	// refusals are what the client keeps refusing. trouble is what is wrong with it from the start.
	refusals map[resource]refusal
	trouble  string
}

// resource is one of any type, by name.
type resource struct{ typeURL, name string }

// refusal is a client's own words about a resource, and the generation if that is a route.
type refusal struct {
	message    string
	generation uint64
}

// routeState is one subscribed spec.
type routeState struct {
	generation uint64
	at         time.Time
	mark       string
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
		refusing: map[*session]struct{}{}, wrote: make(chan struct{}),
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
		n.version, n.listen, n.lastSeen, n.replica, n.forgotten = p.Version, p.Listen, p.LastSeen, p.Replica, p.Forgotten
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

// touch wakes whoever waits for a change, at once if it is the first for a moment; the caller holds mu.
func (l *ledger) touch() {
	if l.moving {
		return
	}
	if since := time.Since(l.movedAt); since < noticeEvery {
		l.moving = true
		time.AfterFunc(noticeEvery-since, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.moving = false
			l.notify()
		})
		return
	}
	l.notify()
}

func (l *ledger) notify() {
	l.movedAt = time.Now()
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
	n.version, n.lastSeen, n.replica, n.forgotten = version, now, "", nil
	s := &session{
		ledger: l, node: n, since: now,
		routes: map[string]*routeState{}, endpoints: map[string]*endpointState{}, resumed: map[string]struct{}{},
		refusals: map[resource]refusal{},
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
	delete(s.ledger.refusing, s)
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

// listens notes where the proxy takes requests.
func (s *session) listens(address string) {
	s.change(func() {
		s.node.listen = address
		s.ledger.keep(s.node)
	})
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
		s.forgive(resource{envoy.TypeRoute, envoy.RouteName(spec)})
		s.learnOf(spec)
	})
}

// acknowledged notes all that the client took in with one push.
func (s *session) acknowledged(typeURL string, p *push, now time.Time) {
	if typeURL == envoy.TypeCluster && len(p.upserts)+len(p.removals) == 0 {
		return // the empty answer of a beginning
	}
	s.change(func() {
		for _, r := range p.upserts {
			s.forgive(resource{typeURL, r.Name})
			switch typeURL {
			case envoy.TypeRoute:
				s.routeHeld(r, now)
			case envoy.TypeEndpoint:
				s.assigned(r.Name, r)
			}
		}
		for _, name := range p.removals {
			s.forgive(resource{typeURL, name})
			if typeURL == envoy.TypeEndpoint {
				s.assigned(name, nil)
			}
		}
	})
}

// routeHeld notes an acknowledged route; the caller holds the lock.
func (s *session) routeHeld(r *envoy.Resource, now time.Time) {
	spec, ok := envoy.SpecOfRoute(r.Name)
	if state := s.routes[spec]; ok && state != nil { // else it was unsubscribed while it was on its way
		state.generation, state.at, state.mark = r.Generation, now, r.Mark
		s.node.lastSeen = now
		s.ledger.tell(spec)
	}
}

// refused notes the client's own words with everything that the push was about.
func (s *session) refused(typeURL string, p *push, message string) {
	s.change(func() {
		for _, r := range p.upserts {
			s.refuse(resource{typeURL, r.Name}, refusal{message: message, generation: r.Generation})
		}
		for _, name := range p.removals {
			s.refuse(resource{typeURL, name}, refusal{message: message})
		}
		if len(p.upserts)+len(p.removals) == 0 {
			s.trouble = message
		}
	})
}

func (s *session) refuse(what resource, why refusal) {
	s.refusals[what] = why
	s.ledger.refusing[s] = struct{}{}
	if spec, ok := specOf(what.typeURL, what.name); ok {
		s.ledger.tell(spec)
	}
}

// overcome ends a refusal without an acknowledgement: the client has what it should have, since that is what it was before again.
func (s *session) overcome(typeURL, name string) {
	s.change(func() { s.forgive(resource{typeURL, name}) })
}

// forgive ends a refusal, if there is one; the caller holds the lock.
func (s *session) forgive(what resource) {
	if _, refused := s.refusals[what]; !refused {
		return
	}
	delete(s.refusals, what)
	if len(s.refusals) == 0 {
		delete(s.ledger.refusing, s)
	}
	if spec, ok := specOf(what.typeURL, what.name); ok {
		s.ledger.tell(spec)
	}
}

// refusal is what the client keeps refusing of a spec: of its newest route if it is that. The caller holds the lock.
func (s *session) refusal(spec string) (newest refusal) {
	for what, why := range s.refusals {
		if of, ok := specOf(what.typeURL, what.name); ok && of == spec {
			newest = cmp.Or(newest, why)
			if why.generation > newest.generation || why.generation == newest.generation && why.message < newest.message {
				newest = why
			}
		}
	}
	return newest
}

// troubles is what is wrong with the client as a whole, in its own words if it refuses something that is of no spec. The caller holds the lock.
func (s *session) troubles() string {
	first := s.trouble
	for what, why := range s.refusals {
		if _, ok := specOf(what.typeURL, what.name); !ok && (first == "" || why.message < first) {
			first = why.message
		}
	}
	return first
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

func (s *session) endpointsDropped(cluster string) {
	s.change(func() {
		delete(s.endpoints, cluster)
		s.forgive(resource{envoy.TypeEndpoint, cluster})
	})
}

func (s *session) endpointsSent(cluster string, r *envoy.Resource) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	if e := s.endpoints[cluster]; e != nil {
		e.known, e.sent = false, r
	}
}

func (s *session) endpointsHeld(cluster string, r *envoy.Resource) {
	s.change(func() { s.assigned(cluster, r) })
}

// assigned notes the endpoints that the client has of a cluster; the caller holds the lock.
func (s *session) assigned(cluster string, r *envoy.Resource) {
	if e := s.endpoints[cluster]; e != nil {
		e.known, e.sent, e.acked = true, r, r
	}
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
		p := routing.Proxy{Node: n.name, Version: n.version, Listen: n.listen, LastSeen: n.lastSeen, Specs: slices.Sorted(maps.Keys(n.specs)), Forgotten: n.forgotten}
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
	close(l.wrote)
	l.wrote = make(chan struct{})
}

// forget takes a proxy that is connected to nobody out of account, until it comes back. known is false where there is no such proxy, connected
// where it is connected here.
func (l *ledger) forget(name string, f routing.Forgotten) (known, connected bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[name]
	if n == nil || len(n.sessions) > 0 {
		return n != nil, n != nil
	}
	if n.forgotten == nil {
		n.forgotten = &f
	}
	for spec := range maps.Clone(n.specs) {
		l.hold(n, spec, false)
		l.tell(spec)
	}
	l.keep(n)
	l.touch()
	return true, false
}

// written says whether the node's record is on disk as it is known here, and that it is forgotten; else when to ask again.
func (l *ledger) written(name string) (yes, forgotten bool, again <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, unsaved := l.unsaved[name]
	_, saving := l.saving[name]
	return !unsaved && !saving, l.nodes[name].forgotten != nil, l.wrote
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
