package discovery_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// dumped is the part of an Envoy's own account that is compared. Envoy tells no versions of endpoints and scopes.
type dumped struct {
	Configs []struct {
		Clusters []struct {
			Version string                `json:"version_info"`
			Cluster struct{ Name string } `json:"cluster"`
		} `json:"dynamic_active_clusters"`
		Endpoints []struct {
			Assignment struct {
				Name       string `json:"cluster_name"`
				Localities []struct {
					Endpoints []struct {
						Endpoint struct {
							Address struct {
								Socket struct {
									Host string `json:"address"`
									Port int    `json:"port_value"`
								} `json:"socket_address"`
							} `json:"address"`
						} `json:"endpoint"`
					} `json:"lb_endpoints"`
				} `json:"endpoints"`
			} `json:"endpoint_config"`
		} `json:"dynamic_endpoint_configs"`
		Routes []struct {
			Version string                `json:"version_info"`
			Route   struct{ Name string } `json:"route_config"`
		} `json:"dynamic_route_configs"`
		Scopes []struct {
			Scopes []struct {
				Name  string `json:"name"`
				Route string `json:"route_configuration_name"`
			} `json:"scoped_route_configs"`
		} `json:"dynamic_scoped_route_configs"`
	} `json:"configs"`
}

// account is what an Envoy says that it has: versions of clusters and routes, the routes of hosts, the addresses of clusters.
type account struct {
	clusters, routes, hosts map[string]string
	endpoints               map[string][]string
}

func accountOf(t *testing.T, e *envoytest.Envoy) account {
	t.Helper()
	body, err := e.Get(t.Context(), "/config_dump?include_eds")
	if err != nil {
		t.Fatal(err)
	}
	var d dumped
	if err := json.Unmarshal(body, &d); err != nil {
		t.Fatal(err)
	}
	out := account{clusters: map[string]string{}, routes: map[string]string{}, hosts: map[string]string{}, endpoints: map[string][]string{}}
	for _, c := range d.Configs {
		for _, r := range c.Clusters {
			out.clusters[r.Cluster.Name] = r.Version
		}
		for _, r := range c.Routes {
			out.routes[r.Route.Name] = r.Version
		}
		for _, group := range c.Scopes {
			for _, scope := range group.Scopes {
				out.hosts[scope.Name] = scope.Route
			}
		}
		for _, r := range c.Endpoints {
			var addresses []string
			for _, l := range r.Assignment.Localities {
				for _, e := range l.Endpoints {
					addresses = append(addresses, net.JoinHostPort(e.Endpoint.Address.Socket.Host, fmt.Sprint(e.Endpoint.Address.Socket.Port)))
				}
			}
			out.endpoints[r.Assignment.Name] = addresses
		}
	}
	return out
}

// accountFor is what an Envoy should say that it has of a spec.
func accountFor(t *testing.T, spec envoy.Spec) account {
	t.Helper()
	res, err := envoy.Build(spec)
	if err != nil {
		t.Fatal(err)
	}
	out := account{
		clusters: map[string]string{}, endpoints: map[string][]string{}, hosts: map[string]string{},
		routes: map[string]string{res.Route.Name: res.Route.Version},
	}
	for _, c := range res.Clusters {
		out.clusters[c.Name] = c.Version
	}
	for _, h := range spec.Hosts {
		out.hosts[h] = res.Route.Name
	}
	for _, p := range spec.Pools {
		var addresses []string
		for _, in := range p.Instances {
			addresses = append(addresses, in.Address)
		}
		out.endpoints[spec.Name+"@"+p.Version] = addresses
	}
	return out
}

func (a account) differs(b account) bool {
	return !maps.Equal(a.clusters, b.clusters) || !maps.Equal(a.routes, b.routes) || !maps.Equal(a.hosts, b.hosts) ||
		!maps.EqualFunc(a.endpoints, b.endpoints, slices.Equal)
}

// spoiledOf spoils what one node is sent.
type spoiledOf struct {
	spoiled
	node string
	its  *atomic.Bool
}

func (s spoiledOf) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if req, ok := m.(*discoveryv3.DeltaDiscoveryRequest); ok && err == nil && req.GetNode() != nil {
		s.its.Store(req.GetNode().GetId() == s.node)
	}
	return err
}

func (s spoiledOf) SendMsg(m any) error {
	if s.its.Load() {
		return s.spoiled.SendMsg(m)
	}
	return s.ServerStream.SendMsg(m)
}

// What the control plane believes that its Envoys have is what the Envoys themselves say: after a deploy, new weights, a rollback, a refusal and
// what came after it.
func TestTheLedgerIsWhatEveryEnvoySaysItself(t *testing.T) {
	spec, _, _ := twoVersions(t)
	src := newSource(spec)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const refuser = "refuser"
	var on atomic.Bool
	cp := serveOn(t, src, l, []grpc.ServerOption{grpc.StreamInterceptor(
		func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(srv, spoiledOf{spoiled{ss, envoy.TypeRoute, &on}, refuser, new(atomic.Bool)})
		})})
	envoys := map[string]*envoytest.Envoy{}
	for _, node := range []string{"accepter", refuser} {
		envoys[node] = envoytest.Start(t, envoytest.Config{Node: node, Servers: []string{cp.Address}})
		wantReply(t, ask(t, envoys[node], "GET", shopHost, "/", ""), 200, "2.0.3 ")
	}
	last := map[string]account{}
	agree := func(when string, refused bool) {
		t.Helper()
		for _, p := range cp.Proxies() {
			got, want := accountOf(t, envoys[p.Node]), accountFor(t, spec)
			if p.Node == refuser && refused {
				// The last good route, with everything that was there for it.
				want = last[p.Node]
				if n, err := envoys[p.Node].Stat(t.Context(), "http.agents.rds."+envoy.RouteName(shop)+".update_rejected"); err != nil || n == 0 {
					t.Errorf("%s: Envoy counts %d refusals: %v", when, n, err)
				}
			}
			last[p.Node] = got
			if got.differs(want) {
				t.Errorf("%s: %s says that it has %+v, want %+v", when, p.Node, got, want)
			}
			if len(p.Specs) != 1 || envoy.GenerationOf(got.routes[envoy.RouteName(shop)]) != p.Specs[0].Generation {
				t.Errorf("%s: %s says that it has %+v, and the ledger that it has %+v", when, p.Node, got.routes, p.Specs)
			}
			if (p.Refusal != "") != (p.Node == refuser && refused) {
				t.Errorf("%s: %s is shown to refuse %q", when, p.Node, p.Refusal)
			}
		}
	}
	move := func(when string, splits ...split) {
		t.Helper()
		spec = movedTo(spec, splits...)
		src.put(spec)
		cp.effective(t, shop, spec.Route.Generation, len(envoys))
		agree(when, false)
	}
	cp.effective(t, shop, 1, len(envoys))
	agree("deployed", false)
	move("weights", split{"2.0.3", 9000}, split{"2.1.0", 1000})
	move("all of it", split{"2.1.0", 10000})
	move("rolled back", split{"2.0.3", 10000})

	on.Store(true)
	spec = movedTo(spec, split{"2.1.0", 10000})
	src.put(spec)
	eventually(t, "one refuses and one does not", cp.Changes, func() bool {
		e := cp.Effect(shop, spec.Route.Generation)
		return len(e.Refused) == 1 && len(e.Acked) == 1
	})
	agree("refused", true)
	on.Store(false)
	move("taken again", split{"2.0.3", 10000})
}

// movedTo is the spec with other weights, one generation on.
func movedTo(spec envoy.Spec, splits ...split) envoy.Spec {
	route(spec.Route.Generation+1, splits...)(&spec)
	return spec
}
