package discovery_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// model is a client that behaves as Envoy does: it wants endpoints for the clusters that it has, routes for the hosts that were asked for,
// and drops a route only when its host goes. It is trivial on purpose; what the server must keep true is checked after every step.
type model struct {
	rt failer
	w  *world
	c  *client
	// have is name to version, by type.
	have map[string]map[string]string
	// routes are the bodies of the routes it has.
	routes map[string]*routev3.RouteConfiguration
	wanted map[string]bool
	queue  []*discoveryv3.DeltaDiscoveryResponse
	// refused is the last version of a route that it refused.
	refused map[string]string
	// left, if set, is told of every cluster that goes.
	left func(cluster string)
}

// failer is told of what must not be.
type failer interface {
	Fatal(...any)
	Fatalf(string, ...any)
}

func (m *model) reset() {
	m.have = map[string]map[string]string{}
	for _, typeURL := range []string{envoy.TypeCluster, envoy.TypeEndpoint, envoy.TypeScope, envoy.TypeRoute} {
		m.have[typeURL] = map[string]string{}
	}
	m.routes, m.wanted, m.refused = map[string]*routev3.RouteConfiguration{}, map[string]bool{}, map[string]string{}
}

// connect opens a stream and says what it has, in Envoy's order.
func (m *model) connect() {
	m.queue = nil
	m.c = m.w.connect("e")
	m.c.resume(envoy.TypeCluster, maps.Clone(m.have[envoy.TypeCluster]))
	if names := slices.Sorted(maps.Keys(m.have[envoy.TypeCluster])); len(names) > 0 {
		m.c.resume(envoy.TypeEndpoint, maps.Clone(m.have[envoy.TypeEndpoint]), names...)
	}
	m.c.resume(envoy.TypeScope, maps.Clone(m.have[envoy.TypeScope]))
	if len(m.wanted) > 0 {
		m.c.resume(envoy.TypeRoute, maps.Clone(m.have[envoy.TypeRoute]), slices.Sorted(maps.Keys(m.wanted))...)
	}
}

func (m *model) collect() { m.queue = append(m.queue, m.c.take()...) }

// want is a client's first request for a host.
func (m *model) want(spec string) {
	name := envoy.RouteName(spec)
	if m.have[envoy.TypeScope][spec+".agents"] == "" || m.wanted[name] {
		return
	}
	m.wanted[name] = true
	m.c.subscribe(envoy.TypeRoute, name)
}

// step takes in the oldest response of any type.
func (m *model) step(refuse bool) bool {
	m.collect()
	if len(m.queue) == 0 {
		return false
	}
	res := m.queue[0]
	m.queue = m.queue[1:]
	if refuse && res.TypeUrl == envoy.TypeRoute && len(res.Resources) == 1 {
		m.refused[res.Resources[0].Name] = res.Resources[0].Version
		m.c.nack(res, "refused")
		return true
	}
	for _, r := range res.Resources {
		m.add(res.TypeUrl, r)
	}
	for _, name := range res.RemovedResources {
		m.remove(res.TypeUrl, name)
	}
	m.c.ack(res)
	m.check(line(res))
	return true
}

func (m *model) add(typeURL string, r *discoveryv3.Resource) {
	_, had := m.have[typeURL][r.Name]
	switch typeURL {
	case envoy.TypeCluster:
		if !had {
			m.c.subscribe(envoy.TypeEndpoint, r.Name)
		}
	case envoy.TypeEndpoint:
		if m.have[envoy.TypeCluster][r.Name] == "" {
			return // it was on its way when the cluster went
		}
	case envoy.TypeRoute:
		if !m.wanted[r.Name] {
			return
		}
		config := &routev3.RouteConfiguration{}
		if err := r.Resource.UnmarshalTo(config); err != nil {
			m.rt.Fatal(err)
		}
		if envoy.GenerationOf(r.Version) < envoy.GenerationOf(m.have[typeURL][r.Name]) {
			m.rt.Fatalf("route %s went back from %s to %s", r.Name, m.have[typeURL][r.Name], r.Version)
		}
		m.routes[r.Name] = config
	}
	m.have[typeURL][r.Name] = r.Version
}

func (m *model) remove(typeURL, name string) {
	switch typeURL {
	case envoy.TypeCluster:
		if _, had := m.have[typeURL][name]; had {
			if m.left != nil {
				m.left(name)
			}
			m.c.unsubscribe(envoy.TypeEndpoint, name)
			delete(m.have[envoy.TypeEndpoint], name)
		}
	case envoy.TypeScope:
		route := envoy.RouteName(strings.TrimSuffix(name, ".agents"))
		if m.wanted[route] {
			m.c.unsubscribe(envoy.TypeRoute, route)
			delete(m.wanted, route)
			delete(m.routes, route)
			delete(m.have[envoy.TypeRoute], route)
		}
	case envoy.TypeRoute, envoy.TypeEndpoint:
		return // Envoy keeps both till the host or the cluster goes
	}
	delete(m.have[typeURL], name)
}

// check is the invariant: no route leads to a cluster that is not there with its endpoints, weights are whole, and every version that takes
// part in the route can be reached by its pin.
func (m *model) check(after string) {
	for name, config := range m.routes {
		pinned, weighted, sum := reached(config)
		if sum != routing.Full || !slices.Equal(pinned, weighted) {
			m.rt.Fatalf("after %s, route %s has weights of %d in all over %q, and pins of %q", after, name, sum, weighted, pinned)
		}
		for _, target := range targets(config) {
			if m.have[envoy.TypeCluster][target] == "" || m.have[envoy.TypeEndpoint][target] == "" {
				m.rt.Fatalf("after %s, route %s refers to cluster %s, which the proxy has not", after, name, target)
			}
		}
	}
}

func targets(config *routev3.RouteConfiguration) []string {
	var out []string
	for _, vh := range config.GetVirtualHosts() {
		for _, r := range vh.Routes {
			if c := r.GetRoute().GetCluster(); c != "" {
				out = append(out, c)
			}
			for _, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
				out = append(out, c.Name)
			}
			for _, m := range r.GetRoute().GetRequestMirrorPolicies() {
				out = append(out, m.GetCluster())
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// converged compares what the client has in the end with what the specs say.
func (m *model) converged(specs map[string]envoy.Spec) {
	clusters, endpoints := map[string]string{}, map[string]string{}
	for _, spec := range specs {
		res, err := envoy.Build(spec)
		if err != nil {
			m.rt.Fatal(err)
		}
		if got := m.have[envoy.TypeScope][spec.Name+".agents"]; got != res.Scopes[0].Version {
			m.rt.Fatalf("scope of %s is %q, want %q", spec.Name, got, res.Scopes[0].Version)
		}
		name := envoy.RouteName(spec.Name)
		if !m.wanted[name] {
			continue
		}
		effect := m.w.cp.Effect(spec.Name, spec.Route.Generation)
		if m.refused[name] == res.Route.Version && m.have[envoy.TypeRoute][name] != res.Route.Version {
			// Be it no more than a pin that came on top of the generation which it has.
			if len(effect.Refused) != 1 || effect.Proven() {
				m.rt.Fatalf("the refused route of %s has the effect %+v", spec.Name, effect)
			}
			for _, old := range targets(m.routes[name]) { // kept for the old route
				clusters[old], endpoints[old] = m.have[envoy.TypeCluster][old], m.have[envoy.TypeEndpoint][old]
			}
		} else {
			if got := m.have[envoy.TypeRoute][name]; got != res.Route.Version {
				m.rt.Fatalf("route of %s is %q, want %q", spec.Name, got, res.Route.Version)
			}
			if !effect.Proven() || len(effect.Acked) != 1 {
				m.rt.Fatalf("effect of %s: %+v", spec.Name, effect)
			}
		}
		for _, c := range res.Clusters {
			clusters[c.Name] = c.Version
		}
		for _, a := range res.Assignments {
			endpoints[a.Name] = a.Version
		}
	}
	if got := m.have[envoy.TypeCluster]; !maps.Equal(got, clusters) {
		m.rt.Fatalf("clusters are %v, want %v", got, clusters)
	}
	if got := m.have[envoy.TypeEndpoint]; !maps.Equal(got, endpoints) {
		m.rt.Fatalf("endpoints are %v, want %v", got, endpoints)
	}
	if got := len(m.have[envoy.TypeScope]); got != len(specs) {
		m.rt.Fatalf("%d scopes, want %d", got, len(specs))
	}
}

// reached are the clusters, sorted, that a route leads to by pin, and those among which it draws, with the sum of their weights.
func reached(config *routev3.RouteConfiguration) (pinned, weighted []string, sum uint32) {
	for _, vh := range config.GetVirtualHosts() {
		for _, r := range vh.Routes {
			if c := r.GetRoute().GetCluster(); c != "" && r.GetMatch().GetHeaders()[0].GetName() == envoy.HeaderPin {
				pinned = append(pinned, c)
			}
			if r.GetMatch().GetRuntimeFraction() != nil {
				continue // for the requests that are copied: drawn as all others are
			}
			for _, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
				weighted = append(weighted, c.Name)
				sum += c.Weight.GetValue()
			}
		}
	}
	slices.Sort(pinned)
	slices.Sort(weighted)
	return pinned, weighted, sum
}

var modelSpecs = []string{"a", "b", "c"}

// drawSpec is a spec in a random state: one or two versions with weight, others kept for their pins, some with instances.
func drawSpec(rt *rapid.T, name string, generation uint64) envoy.Spec {
	versions := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"1", "2", "3", "4"}), 1, 4, rapid.ID).Draw(rt, "versions")
	splits := []split{{versions[0], routing.Full}}
	if len(versions) > 1 && rapid.Bool().Draw(rt, "canary") {
		w := rapid.Uint32Range(1, routing.Full-1).Draw(rt, "weight")
		splits = []split{{versions[0], routing.Full - w}, {versions[1], w}}
	}
	instances := map[string][]string{}
	for _, v := range versions {
		instances[v] = nil
		for i := range rapid.IntRange(0, 2).Draw(rt, "instances") {
			instances[v] = append(instances[v], fmt.Sprintf("10.0.0.%d:80", i+1))
		}
	}
	return specOf(name, generation, splits, instances)
}

func TestNoHistoryBreaksARouteAndEveryHistoryConverges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { rapid.SyncTest(rt, history) })
}

func history(rt *rapid.T) {
	specs := map[string]envoy.Spec{}
	src := newSource()
	m := &model{rt: rt, w: worldOf(rt, src)}
	m.reset()
	m.connect()
	generation := uint64(0)
	names := rapid.SampledFrom(modelSpecs)
	rt.Repeat(map[string]func(*rapid.T){
		"put": func(rt *rapid.T) {
			generation++
			spec := drawSpec(rt, names.Draw(rt, "spec"), generation)
			specs[spec.Name] = spec
			src.put(spec)
		},
		"remove": func(rt *rapid.T) {
			name := names.Draw(rt, "spec")
			delete(specs, name)
			src.remove(name)
		},
		"want":    func(rt *rapid.T) { m.want(names.Draw(rt, "spec")) },
		"accept":  func(*rapid.T) { m.step(false) },
		"accept2": func(*rapid.T) { m.step(false) },
		"refuse":  func(*rapid.T) { m.step(true) },
		"reconnect": func(*rapid.T) {
			m.c.close()
			m.connect()
		},
		"restart": func(*rapid.T) {
			m.c.close()
			m.reset()
			m.connect()
		},
		"replica": func(*rapid.T) {
			m.c.close()
			m.w.cp.stop()
			m.w = worldOf(rt, src)
			m.connect()
		},
	})
	for m.step(false) {
	}
	m.converged(specs)
}
