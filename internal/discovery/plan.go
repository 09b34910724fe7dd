package discovery

import (
	"maps"
	"slices"

	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// Order is the order in which an Envoy learns of a change.
type Order int

const (
	// MakeBeforeBreak is the only order that loses no request, and the default.
	MakeBeforeBreak Order = iota
	// The others are what tests must notice.

	// RemoveFirst removes a cluster as soon as it gets no more traffic, and moves the route afterwards.
	RemoveFirst
	// RemoveAtOnce removes the cluster of a version that goes while a route that the Envoy has still refers to it.
	RemoveAtOnce
	// RouteAtOnce sends a route before the Envoy has what it refers to.
	RouteAtOnce
	// RouteOnClusters sends a route once its clusters are there, whether they have endpoints or not.
	RouteOnClusters
)

// pushOrder is make before break: what a resource refers to comes before it.
var pushOrder = []string{envoy.TypeCluster, envoy.TypeEndpoint, envoy.TypeListener, envoy.TypeScope, envoy.TypeRoute}

const (
	// pushCount and pushBytes bound one push; what is left follows once it is acknowledged.
	pushCount = 1000
	pushBytes = 1 << 20
)

// plan takes from the dirty names what may be sent now; nil if that is nothing. The catalog is locked for reading meanwhile, so that what
// is planned and what the ledger believes to be on its way never differ.
func (s *stream) plan(f *feed) *push {
	if !f.seen || f.flight != nil || len(f.dirty) == 0 && !f.owed {
		return nil
	}
	p := &push{seq: s.server.catalog.seq}
	bytes := 0
	for _, name := range slices.Sorted(maps.Keys(f.dirty)) {
		if !f.whole && (len(p.upserts)+len(p.removals) >= pushCount || bytes >= pushBytes) {
			break
		}
		want, known := s.want(f.typeURL, name)
		if !known || !f.wants(name) {
			delete(f.dirty, name)
			continue
		}
		verdict := s.judge(f, name, want)
		if verdict == later {
			continue
		}
		if verdict == nothing {
			s.overcome(f, name, want)
		}
		if verdict == send {
			version := ""
			if want != nil {
				version = want.Version
			}
			if suspect, ok := f.suspects[name]; ok && suspect == version {
				if len(p.upserts)+len(p.removals) > 0 {
					continue // alone, or not in this push
				}
				p.add(f, name, want)
				break
			}
			p.add(f, name, want)
			if want != nil {
				bytes += len(want.Body.Value)
			}
			continue
		}
		delete(f.dirty, name)
	}
	if len(p.upserts)+len(p.removals) == 0 && !f.owed {
		return nil
	}
	f.owed = false
	return p
}

func (p *push) add(f *feed, name string, want *envoy.Resource) {
	delete(f.dirty, name)
	delete(f.asked, name)
	if want == nil {
		p.removals = append(p.removals, name)
		return
	}
	p.upserts = append(p.upserts, want)
}

// verdict is what to do about one dirty name.
type verdict int

const (
	nothing verdict = iota
	later
	send
)

// judge compares what a name should be with what the client has.
func (s *stream) judge(f *feed, name string, want *envoy.Resource) verdict {
	have, held := f.held[name]
	_, asked := f.asked[name]
	switch {
	case want == nil && !held && !asked && !f.forgetful:
		return nothing
	case want == nil:
		if held && !s.mayRemove(f, name) {
			return later
		}
		return send
	case held && have.version == want.Version && !asked:
		s.confirm(f, have, want)
		return nothing
	case f.refuses(want):
		return nothing
	case f.typeURL == envoy.TypeRoute && s.older(have, want):
		return nothing
	case f.typeURL == envoy.TypeRoute && !s.mayRoute(want):
		return later
	}
	return send
}

// overcome ends the refusal of what is not wanted of the client any more: it is gone, or is again what the client has.
func (s *stream) overcome(f *feed, name string, want *envoy.Resource) {
	_, refused := f.refused[name]
	_, suspect := f.suspects[name]
	if !refused && !suspect || want != nil && f.held[name].version != want.Version {
		return
	}
	delete(f.refused, name)
	delete(f.suspects, name)
	s.session.overcome(f.typeURL, name)
}

// older says that the client has a route of a later generation than this replica knows; the replica will catch up.
func (s *stream) older(have holding, want *envoy.Resource) bool {
	return envoy.GenerationOf(have.version) > want.Generation
}

// confirm notes that the client has just what it should, which for what it brought along shows here for the first time.
func (s *stream) confirm(f *feed, have holding, want *envoy.Resource) {
	if have.resource == want {
		return
	}
	have.resource = want
	f.held[want.Name] = have
	if f.typeURL == envoy.TypeEndpoint {
		s.session.endpointsHeld(want.Name, want)
	}
}

// want is what the catalog has under a name; nil: it does not exist. Not known: it must be left as it is.
func (s *stream) want(typeURL, name string) (r *envoy.Resource, known bool) {
	c := s.server.catalog
	switch typeURL {
	case envoy.TypeListener:
		if s.listener != nil && s.listener.Name == name {
			return s.listener, true
		}
		return nil, true
	case envoy.TypeScope:
		return c.scopes[name], !c.undecided(name)
	case envoy.TypeRoute:
		spec, _ := envoy.SpecOfRoute(name)
		e := c.get(spec)
		if e == nil {
			return nil, true
		}
		_, held := s.feeds[typeURL].held[name]
		return e.Route, !e.broken || !held
	case envoy.TypeCluster:
		spec, _ := envoy.SpecOfCluster(name)
		e := c.get(spec)
		if e != nil && e.broken {
			return nil, false
		}
		if _, follows := s.specs[spec]; !follows {
			return nil, true
		}
		if s.server.order == RemoveFirst && !takesNew(e, name) {
			return nil, true
		}
		return e.cluster(name), true
	case envoy.TypeEndpoint:
		spec, _ := envoy.SpecOfCluster(name)
		e := c.get(spec)
		if e != nil && e.broken {
			return nil, false
		}
		return e.assignment(name), true
	}
	return nil, false
}

func takesNew(e *entry, cluster string) bool {
	return e != nil && e.Route != nil && slices.ContainsFunc(e.Route.Clusters, func(t envoy.Target) bool {
		return t.Cluster == cluster && t.New
	})
}

// mayRoute says whether the client has what a route refers to: each cluster, and its endpoints at least as new as the route. A version
// that gets no new work does not hold up a rollback if the client refused its cluster; its pin leads nowhere then.
func (s *stream) mayRoute(want *envoy.Resource) bool {
	clusters, endpoints := s.feeds[envoy.TypeCluster], s.feeds[envoy.TypeEndpoint]
	if !clusters.seen || s.server.order == RouteAtOnce {
		return true // a client that asks for no clusters has its own
	}
	spec, _ := envoy.SpecOfRoute(want.Name)
	e := s.server.catalog.get(spec)
	for _, t := range want.Clusters {
		if !t.New && s.server.order == RemoveFirst {
			continue
		}
		if _, ok := clusters.held[t.Cluster]; !ok {
			if c := e.cluster(t.Cluster); !t.New && c != nil && clusters.refuses(c) {
				continue
			}
			return false
		}
		if s.server.order == RouteOnClusters {
			continue
		}
		have, ok := endpoints.held[t.Cluster]
		newest := e.assignment(t.Cluster)
		switch {
		case ok && newest != nil && (have.version == newest.Version || have.seq >= e.routeSeq || endpoints.refuses(newest)):
		case !t.New && newest != nil && endpoints.refuses(newest):
		default:
			return false
		}
	}
	return true
}

// mayRemove says whether nothing that the client has still refers to the name.
func (s *stream) mayRemove(f *feed, name string) bool {
	switch f.typeURL {
	case envoy.TypeCluster:
		return s.server.order == RemoveFirst || s.server.order == RemoveAtOnce || !s.routeRefersTo(name)
	case envoy.TypeEndpoint:
		clusters := s.feeds[envoy.TypeCluster]
		_, held := clusters.held[name]
		return !held
	case envoy.TypeRoute:
		// The host must be gone first: Envoy keeps serving a route that it is told to remove.
		return s.feeds[envoy.TypeScope].settled()
	}
	return true
}

// routeRefersTo says whether a route that the client acknowledged or was sent, or may have from before, refers to the cluster.
func (s *stream) routeRefersTo(cluster string) bool {
	spec, ok := envoy.SpecOfCluster(cluster)
	if !ok {
		return false
	}
	if _, resumed := s.resumed[spec]; resumed {
		return true
	}
	routes, name := s.feeds[envoy.TypeRoute], envoy.RouteName(spec)
	if have, held := routes.held[name]; held && (have.resource == nil || refersTo(have.resource, cluster)) {
		return true
	}
	return routes.flight != nil && slices.ContainsFunc(routes.flight.upserts, func(r *envoy.Resource) bool {
		return r.Name == name && refersTo(r, cluster)
	})
}

func refersTo(route *envoy.Resource, cluster string) bool {
	return slices.ContainsFunc(route.Clusters, func(t envoy.Target) bool { return t.Cluster == cluster })
}
