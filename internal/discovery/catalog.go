package discovery

import (
	"cmp"
	"slices"
	"sync"

	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// entry is one spec as published. It never changes; a change replaces it.
type entry struct {
	envoy.Resources
	hosts []string
	// routeSeq is the publication in which the route became what it is.
	routeSeq uint64
	// broken: it could not be built and there is no earlier state to keep. What an Envoy has of it stays there.
	broken bool
}

func (e *entry) cluster(name string) *envoy.Resource {
	if e == nil {
		return nil
	}
	return find(e.Clusters, name)
}

func (e *entry) clusters() []*envoy.Resource {
	if e == nil {
		return nil
	}
	return e.Clusters
}

func (e *entry) assignments() []*envoy.Resource {
	if e == nil {
		return nil
	}
	return e.Assignments
}

func (e *entry) assignment(name string) *envoy.Resource {
	if e == nil {
		return nil
	}
	return find(e.Assignments, name)
}

func find(sorted []*envoy.Resource, name string) *envoy.Resource {
	i, found := slices.BinarySearchFunc(sorted, name, func(r *envoy.Resource, name string) int { return cmp.Compare(r.Name, name) })
	if !found {
		return nil
	}
	return sorted[i]
}

// catalog is what all streams serve from.
type catalog struct {
	mu sync.RWMutex
	// revision of the source that is published in full.
	revision int64
	// seq counts publications.
	seq   uint64
	specs map[string]*entry
	// claims are the specs that want a host; the scope goes to one of them.
	claims map[string]map[string]struct{}
	scopes map[string]*envoy.Resource
	// owners are the specs that the scopes lead to, by host.
	owners map[string]string

	// mailboxes of all streams, and of those that follow a spec.
	all       map[*mailbox]struct{}
	followers map[string]map[*mailbox]struct{}
	// moved is closed at the next publication.
	moved chan struct{}
}

func newCatalog() *catalog {
	return &catalog{
		revision:  -1,
		specs:     map[string]*entry{},
		claims:    map[string]map[string]struct{}{},
		scopes:    map[string]*envoy.Resource{},
		owners:    map[string]string{},
		all:       map[*mailbox]struct{}{},
		followers: map[string]map[*mailbox]struct{}{},
		moved:     make(chan struct{}),
	}
}

// get returns an entry; the caller holds mu.
func (c *catalog) get(spec string) *entry { return c.specs[spec] }

// entryOf returns the current entry for the builder, which is the only one to replace it.
func (c *catalog) entryOf(spec string) *entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.specs[spec]
}

// names of all published specs.
func (c *catalog) names() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]string, 0, len(c.specs))
	for name := range c.specs {
		out = append(out, name)
	}
	return out
}

// publish replaces the entries of the named specs (nil: the spec is gone) and tells those whom it concerns. Resources whose bytes did not
// change keep their identity.
func (c *catalog) publish(revision int64, entries map[string]*entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	var news []*mailbox
	hosts := map[string]struct{}{}
	for name, next := range entries {
		old := c.specs[name]
		c.claim(name, old, next, hosts)
		if next == nil {
			delete(c.specs, name)
		} else {
			next.keep(old, c.seq)
			c.specs[name] = next
		}
		if !same(old, next) {
			for m := range c.followers[name] {
				if m.spec(name) {
					news = append(news, m)
				}
			}
		}
	}
	for _, m := range append(news, c.settleHosts(hosts)...) {
		m.ring()
	}
	c.revision = revision
	close(c.moved)
	c.moved = make(chan struct{})
}

// claim moves a spec's claims from its old hosts to its new ones and notes all hosts to decide about.
func (c *catalog) claim(spec string, old, next *entry, hosts map[string]struct{}) {
	if old != nil {
		for _, h := range old.hosts {
			delete(c.claims[h], spec)
			hosts[h] = struct{}{}
		}
	}
	if next != nil {
		for _, h := range next.hosts {
			if c.claims[h] == nil {
				c.claims[h] = map[string]struct{}{}
			}
			c.claims[h][spec] = struct{}{}
			hosts[h] = struct{}{}
		}
	}
}

// settleHosts gives each host to one of the specs that claim it. Envoy refuses all scopes if two have the same key, so one spec too many
// must not reach it: the host's own spec ("<name>.agents") comes first, then the first by name. That is the same on every replica. It
// returns the mailboxes that were empty and have news now.
func (c *catalog) settleHosts(hosts map[string]struct{}) (news []*mailbox) {
	for h := range hosts {
		winner := ""
		for spec := range c.claims[h] {
			if winner == "" || owns(spec, h) || spec < winner && !owns(winner, h) {
				winner = spec
			}
		}
		if winner == "" {
			delete(c.claims, h)
		}
		var next *envoy.Resource
		if e := c.specs[winner]; e != nil {
			if e.broken {
				continue // whatever an Envoy has there stays
			}
			next = find(e.Scopes, h)
		}
		old := c.scopes[h]
		switch {
		case next == nil && old == nil, next != nil && old != nil && next.Version == old.Version:
			continue
		case next == nil:
			delete(c.scopes, h)
			delete(c.owners, h)
		default:
			c.scopes[h] = next
			c.owners[h] = winner
		}
		for m := range c.all {
			if m.host(h) {
				news = append(news, m)
			}
		}
	}
	return news
}

func owns(spec, host string) bool { return host == spec+".agents" }

// undecided says that nobody can tell what the host should be, since a spec that claims it could not be built. The caller holds mu.
func (c *catalog) undecided(host string) bool {
	for spec := range c.claims[host] {
		if e := c.specs[spec]; e != nil && e.broken {
			return true
		}
	}
	return false
}

// keep takes over what is unchanged from the entry before.
func (e *entry) keep(old *entry, seq uint64) {
	e.routeSeq = seq
	if old == nil {
		return
	}
	if e.Route != nil && old.Route != nil && e.Route.Version == old.Route.Version {
		e.Route, e.routeSeq = old.Route, old.routeSeq
	}
	for _, pair := range [][2][]*envoy.Resource{{e.Scopes, old.Scopes}, {e.Clusters, old.Clusters}, {e.Assignments, old.Assignments}} {
		for i, r := range pair[0] {
			if before := find(pair[1], r.Name); before != nil && before != r && before.Version == r.Version {
				pair[0][i] = before
			}
		}
	}
}

// same says that two entries differ in nothing that a follower of the spec is sent.
func same(a, b *entry) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Route == b.Route && slices.Equal(a.Clusters, b.Clusters) && slices.Equal(a.Assignments, b.Assignments) && a.broken == b.broken
}

func (c *catalog) join(m *mailbox) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[m] = struct{}{}
}

func (c *catalog) leave(m *mailbox, follows map[string]*entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, m)
	for spec := range follows {
		c.drop(m, spec)
	}
}

// follow makes changes of the spec arrive in the mailbox, beginning after the entry that it returns (nil: there is none).
func (c *catalog) follow(m *mailbox, spec string) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.followers[spec] == nil {
		c.followers[spec] = map[*mailbox]struct{}{}
	}
	c.followers[spec][m] = struct{}{}
	return c.specs[spec]
}

func (c *catalog) unfollow(m *mailbox, spec string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(m, spec)
}

func (c *catalog) drop(m *mailbox, spec string) {
	delete(c.followers[spec], m)
	if len(c.followers[spec]) == 0 {
		delete(c.followers, spec)
	}
}

// published returns the revision that is published and a channel that is closed at the next publication.
func (c *catalog) published() (int64, <-chan struct{}) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.revision, c.moved
}

// mailbox collects, for one stream, the names of what changed since it last looked. A name is in it once however often it changed.
type mailbox struct {
	mu    sync.Mutex
	specs map[string]struct{}
	hosts map[string]struct{}
	// wake holds a token while there is something to look at.
	wake chan struct{}
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

// spec puts a name in and says whether the mailbox was empty: if it was not, its owner has been woken and not looked yet.
func (m *mailbox) spec(name string) (first bool) { return m.put(&m.specs, name) }

func (m *mailbox) host(name string) (first bool) { return m.put(&m.hosts, name) }

func (m *mailbox) put(names *map[string]struct{}, name string) (first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first = m.specs == nil && m.hosts == nil
	if *names == nil {
		*names = map[string]struct{}{}
	}
	(*names)[name] = struct{}{}
	return first
}

func (m *mailbox) ring() {
	select {
	case m.wake <- struct{}{}:
	default: // it has been rung
	}
}

// take empties the mailbox.
func (m *mailbox) take() (specs, hosts map[string]struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	specs, hosts = m.specs, m.hosts
	m.specs, m.hosts = nil, nil
	return specs, hosts
}
