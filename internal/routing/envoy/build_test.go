package envoy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

var update = flag.Bool("update", false, "write the golden files")

func pool(version string, instances ...routing.Instance) envoy.Pool {
	return envoy.Pool{Version: version, Pin: "pin-of-" + version, Live: true, Instances: instances}
}

func instance(address string, health routing.Health) routing.Instance {
	return routing.Instance{ID: "i-" + address, Address: address, Health: health}
}

func routeOf(generation uint64, splits ...routing.Split) routing.Route {
	return routing.Route{Generation: generation, Splits: splits}
}

// canary is a spec in the middle of a canary, with the way out kept warm.
func canary() envoy.Spec {
	return envoy.Spec{
		Name:  "customer-service",
		Hosts: []string{"customer-service.agents", "refunds.example"},
		Route: routeOf(17, routing.Split{Version: "2.0.3", BasisPoints: 9000}, routing.Split{Version: "2.1.0", BasisPoints: 1000}),
		Pools: []envoy.Pool{
			pool("2.0.2", instance("10.0.0.1:8080", routing.Leaving)),
			pool("2.0.3", instance("10.0.0.2:8080", routing.Ready), instance("[::1]:8080", routing.Ready)),
			pool("2.1.0", instance("unix:/run/agent", routing.Ready), instance("10.0.0.9:8080", routing.Starting)),
			{Version: "1.0.0", Pin: "pin-of-1.0.0"},
		},
		BodyBuffer: 4096,
	}
}

func TestGolden(t *testing.T) {
	res, err := envoy.Build(canary())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := envoy.Listener("0.0.0.0:10000", envoy.ListenerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, resources := range map[string][]*envoy.Resource{
		"scopes": res.Scopes, "route": {res.Route}, "clusters": res.Clusters[:1], "endpoints": res.Assignments, "listener": {listener},
	} {
		var out bytes.Buffer
		for _, r := range resources {
			raw, err := protojson.Marshal(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Indent(&out, raw, "", "  "); err != nil {
				t.Fatal(err)
			}
			out.WriteByte('\n')
		}
		golden(t, name+".json", out.Bytes())
	}
}

func TestBootstrapGolden(t *testing.T) {
	plain, err := envoy.Bootstrap(envoy.BootstrapOptions{
		Node: "edge-1", Listen: "127.0.0.1:10000", Admin: "127.0.0.1:9901", Servers: []string{"127.0.0.1:18000"},
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "bootstrap.yaml", plain)
	secured, err := envoy.Bootstrap(envoy.BootstrapOptions{
		Node: "edge-1", Listen: "0.0.0.0:443", Servers: []string{"xds-1.internal:18000", "xds-2.internal:18000"}, Token: "t0ken",
		TLS:      &envoy.BootstrapTLS{CA: "/etc/ca.pem", Cert: "/etc/cert.pem", Key: "/etc/key.pem", ServerName: "xds.internal"},
		Sidecars: &envoy.BootstrapTLS{CA: "/etc/sidecars.pem", Cert: "/etc/envoy.pem", Key: "/etc/envoy-key.pem"},
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "bootstrap-tls.yaml", secured)
	example, err := os.ReadFile("../../../examples/envoy/generated.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(example, plain) {
		t.Error("examples/envoy/generated.yaml is not what the generator writes; copy testdata/bootstrap.yaml there")
	}
}

func TestScopeHeaders(t *testing.T) {
	for name, refused := range map[string]bool{
		"": false, "x-agent": false, "X-Agent": false, ":authority": false, "host": true, "x-spec-host": true, "x-envoy-host": true, "x agent": true, ":path": true,
	} {
		if err := envoy.CheckScopeHeader(name); (err != nil) != refused {
			t.Errorf("%q: %v", name, err)
		}
	}
	o := envoy.BootstrapOptions{Node: "edge-1", Listen: "127.0.0.1:10000", Servers: []string{"127.0.0.1:18000"}, ScopeHeader: "X-Agent"}
	if _, err := envoy.Bootstrap(o); err == nil || !strings.Contains(err.Error(), "to xds instead") {
		t.Errorf("a scope header without a listener to put it in: %v", err)
	}
	o.Fragment = true
	if out, err := envoy.Bootstrap(o); err != nil || !bytes.Contains(out, []byte("name: x-agent")) {
		t.Errorf("a fragment with a scope header: %v\n%s", err, out)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// protojson deliberately varies its spacing within a line.
	if !bytes.Equal(unspaced(got), unspaced(want)) {
		t.Errorf("%s differs; run the test with -update and read the diff\n%s", name, got)
	}
}

func unspaced(b []byte) []byte { return bytes.ReplaceAll(b, []byte(":  "), []byte(": ")) }

func TestWhatCannotBeBuiltIsRefusedAndNamed(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*envoy.Spec)
		want   string
	}{
		"weights":       {func(s *envoy.Spec) { s.Route.Splits[0].BasisPoints = 1 }, "weights sum to 1001"},
		"more than all": {func(s *envoy.Spec) { s.Route.Splits[0].BasisPoints = 1 << 31 }, "more than all"},
		"two weights":   {func(s *envoy.Spec) { s.Route.Splits[1].Version = "2.0.3" }, "version 2.0.3 has two weights"},
		"no pool":       {func(s *envoy.Spec) { s.Pools = s.Pools[:2] }, "version 2.1.0 has weight and no live pool"},
		"not live":      {func(s *envoy.Spec) { s.Pools[1].Live = false }, "version 2.0.3 has weight and no live pool"},
		"header to no pool": {func(s *envoy.Spec) {
			s.Route.HeaderTargets = []routing.HeaderTarget{{Header: "x-tenant", Value: "acme", Version: "1.0.0"}}
		}, "header x-tenant leads to version 1.0.0, which has no live pool"},
		"shadow with weight": {func(s *envoy.Spec) { s.Route.Shadow = &routing.Shadow{Version: "2.1.0", BasisPoints: 100} }, "version 2.1.0 has weight and gets copies"},
		"shadow of no pool":  {func(s *envoy.Spec) { s.Route.Shadow = &routing.Shadow{Version: "1.0.0", BasisPoints: 100} }, "version 1.0.0 gets copies of requests and has no live pool"},
		"shadow of nothing":  {func(s *envoy.Spec) { s.Route.Shadow = &routing.Shadow{Version: "2.0.2"} }, "0 basis points"},
		"header of ours": {func(s *envoy.Spec) {
			s.Route.HeaderTargets = []routing.HeaderTarget{{Header: "x-spec-pin", Value: "acme", Version: "2.0.3"}}
		}, "header x-spec-pin"},
		"two pools":         {func(s *envoy.Spec) { s.Pools[0].Version = "2.0.3" }, "version 2.0.3 has two pools"},
		"no pin":            {func(s *envoy.Spec) { s.Pools[0].Pin = "" }, "version 2.0.2 has no pin"},
		"same pin":          {func(s *envoy.Spec) { s.Pools[0].Pin = s.Pools[1].Pin }, "have the same pin"},
		"host with port":    {func(s *envoy.Spec) { s.Hosts[0] = "a:80" }, `"a:80" cannot be a host name`},
		"name of a cluster": {func(s *envoy.Spec) { s.Name = "a@b" }, "cannot be a spec's name"},
	} {
		t.Run(name, func(t *testing.T) {
			s := canary()
			c.change(&s)
			res, err := envoy.Build(s)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), s.Name) {
				t.Errorf("error %v, want the spec's name and %q", err, c.want)
			}
			if res.Route != nil || res.Clusters != nil {
				t.Error("half a spec was built")
			}
		})
	}
}

func TestASpecWithoutARouteHasNothing(t *testing.T) {
	s := canary()
	s.Route = routing.Route{}
	res, err := envoy.Build(s)
	if err != nil || res.Route != nil || len(res.Scopes)+len(res.Clusters)+len(res.Assignments) != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestEndpoints(t *testing.T) {
	s := canary()
	s.Pools[1].Instances = []routing.Instance{
		instance("10.0.0.2:80", routing.Ready),
		instance("10.0.0.1:80", routing.Leaving),
		instance("10.0.0.3:80", routing.Starting),
		{ID: "ghost", Address: "10.0.0.2:80", Health: routing.Leaving},
		instance("agent.example:80", routing.Ready),
		instance("10.0.0.4", routing.Ready),
		instance("10.0.0.4:0", routing.Ready),
		instance("unix:relative", routing.Ready),
		instance("unix:/"+strings.Repeat("x", 107), routing.Ready),
		instance("10.0.0.5:80", "dizzy"),
	}
	res, err := envoy.Build(s)
	if err != nil {
		t.Fatal(err)
	}
	a := &endpointv3.ClusterLoadAssignment{}
	body := res.Assignments[slices.IndexFunc(res.Assignments, func(r *envoy.Resource) bool { return strings.HasSuffix(r.Name, "@2.0.3") })]
	if err := body.Body.UnmarshalTo(a); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range a.Endpoints[0].LbEndpoints {
		got = append(got, fmt.Sprint(e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress(), " ", e.HealthStatus))
	}
	if want := []string{"10.0.0.1 DRAINING", "10.0.0.2 HEALTHY"}; !slices.Equal(got, want) {
		t.Errorf("endpoints %q, want %q", got, want)
	}
	if !body.Takes("10.0.0.2:80") || body.Takes("10.0.0.1:80") || body.Takes("10.0.0.3:80") {
		t.Errorf("open: %q", body.Open)
	}
	if len(res.Skipped) != 6 {
		t.Errorf("skipped: %q", res.Skipped)
	}
}

// drawSpec is any spec that the control plane may hold.
func drawSpec(t *rapid.T) envoy.Spec {
	versions := rapid.SliceOfNDistinct(rapid.StringMatching(`[0-9]\.[0-9]\.[0-9](-rc)?`), 1, 6, rapid.ID).Draw(t, "versions")
	weighted := rapid.IntRange(1, len(versions)).Draw(t, "weighted")
	s := envoy.Spec{
		Name:       rapid.StringMatching(`[a-z][-a-z0-9]{0,20}`).Draw(t, "name"),
		Hosts:      rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,8}\.agents`), 1, 3).Draw(t, "hosts"),
		BodyBuffer: rapid.Uint32().Draw(t, "buffer"),
	}
	s.Route.Generation = rapid.Uint64Min(1).Draw(t, "generation")
	left := uint32(routing.Full)
	for i, v := range versions[:weighted] {
		w := left
		if i < weighted-1 {
			w = rapid.Uint32Range(0, left).Draw(t, "weight")
		}
		left -= w
		s.Route.Splits = append(s.Route.Splits, routing.Split{Version: v, BasisPoints: w})
	}
	for i, v := range versions {
		p := envoy.Pool{Version: v, Pin: "pin-" + v, Live: i < weighted || rapid.Bool().Draw(t, "live")}
		for range rapid.IntRange(0, 3).Draw(t, "instances") {
			p.Instances = append(p.Instances, routing.Instance{
				ID:      rapid.StringMatching(`[a-z]{4}`).Draw(t, "id"),
				Address: fmt.Sprintf("10.0.0.%d:80", rapid.IntRange(1, 4).Draw(t, "address")),
				Health:  rapid.SampledFrom([]routing.Health{routing.Ready, routing.Leaving, routing.Starting}).Draw(t, "health"),
			})
		}
		s.Pools = append(s.Pools, p)
	}
	return s
}

func TestEverySpecIsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSpec(t)
		res, err := envoy.Build(s)
		if err != nil {
			t.Fatal(err)
		}
		clusters := map[string]bool{}
		for i, c := range res.Clusters {
			clusters[c.Name] = true
			if res.Assignments[i].Name != c.Name {
				t.Fatalf("cluster %s has the endpoints of %s", c.Name, res.Assignments[i].Name)
			}
		}
		config := &routev3.RouteConfiguration{}
		if err := res.Route.Body.UnmarshalTo(config); err != nil {
			t.Fatal(err)
		}
		if err := config.ValidateAll(); err != nil {
			t.Fatal(err)
		}
		routes := config.VirtualHosts[0].Routes
		pins := map[string]string{}
		for _, r := range routes[:len(routes)-1] {
			if !clusters[r.GetRoute().GetCluster()] {
				t.Fatalf("pin to absent cluster %s", r.GetRoute().GetCluster())
			}
			pins[r.Match.Headers[0].GetStringMatch().GetExact()] = r.GetRoute().GetCluster()
		}
		for _, p := range s.Pools {
			if p.Live != (pins[p.Pin] == routing.Cluster(s.Name, p.Version)) {
				t.Fatalf("version %s, live %t, has the pin route %q", p.Version, p.Live, pins[p.Pin])
			}
		}
		sum := uint32(0)
		for _, c := range routes[len(routes)-1].GetRoute().GetWeightedClusters().GetClusters() {
			sum += c.Weight.Value
			if !clusters[c.Name] {
				t.Fatalf("weight on absent cluster %s", c.Name)
			}
		}
		if sum != routing.Full {
			t.Fatalf("weights sum to %d", sum)
		}
		if got := envoy.GenerationOf(res.Route.Version); got != s.Route.Generation {
			t.Fatalf("version %s says generation %d", res.Route.Version, got)
		}
		if on := config.VirtualHosts[0].GetRetryPolicy().GetRetryOn(); on != "connect-failure" {
			t.Fatalf("retries on %q", on)
		}
		for _, r := range routes {
			if r.GetRoute().RetryPolicy != nil {
				t.Fatalf("route %s has retries of its own", r.Name)
			}
		}
	})
}

func TestTheSameSpecGivesTheSameBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSpec(t)
		shuffled := s
		shuffled.Pools = rapid.Permutation(s.Pools).Draw(t, "pools")
		shuffled.Hosts = rapid.Permutation(s.Hosts).Draw(t, "order of hosts")
		a, err := envoy.Build(s)
		if err != nil {
			t.Fatal(err)
		}
		b, err := envoy.Build(shuffled)
		if err != nil {
			t.Fatal(err)
		}
		all := func(r envoy.Resources) []*envoy.Resource {
			return slices.Concat(r.Scopes, r.Clusters, r.Assignments, []*envoy.Resource{r.Route})
		}
		for i, r := range all(a) {
			if other := all(b)[i]; r.Version != other.Version || !proto.Equal(r.Body, other.Body) {
				t.Fatalf("%s differs with the order of the input", r.Name)
			}
		}
	})
}

// A hash lands in the newest version's share, which begins at zero: as the share grows, who was in it stays in it.
func TestRaisingTheNewestVersionOnlyAddsToIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		low := rapid.Uint32Range(1, routing.Full-1).Draw(t, "low")
		high := rapid.Uint32Range(low, routing.Full-1).Draw(t, "high")
		hash := rapid.Uint32Range(0, routing.Full-1).Draw(t, "hash")
		at := func(weight uint32) string {
			s := canary()
			s.Route.Splits = []routing.Split{{Version: "2.0.3", BasisPoints: routing.Full - weight}, {Version: "2.1.0", BasisPoints: weight}}
			res, err := envoy.Build(s)
			if err != nil {
				t.Fatal(err)
			}
			config := &routev3.RouteConfiguration{}
			if err := res.Route.Body.UnmarshalTo(config); err != nil {
				t.Fatal(err)
			}
			routes, sum := config.VirtualHosts[0].Routes, uint32(0)
			for _, c := range routes[len(routes)-1].GetRoute().GetWeightedClusters().GetClusters() {
				if sum += c.Weight.Value; hash < sum {
					return c.Name
				}
			}
			t.Fatal("hash beyond all weights")
			return ""
		}
		if before := at(low); strings.HasSuffix(before, "@2.1.0") && at(high) != before {
			t.Fatalf("hash %d left the newest version as its weight grew from %d to %d", hash, low, high)
		}
	})
}

func TestBootstrapRefusesWhatCannotWork(t *testing.T) {
	good := envoy.BootstrapOptions{Node: "e", Listen: "127.0.0.1:1", Servers: []string{"127.0.0.1:2"}}
	for name, c := range map[string]struct {
		change func(*envoy.BootstrapOptions)
		want   string
	}{
		"node":         {func(o *envoy.BootstrapOptions) { o.Node = "" }, "no node name"},
		"listen":       {func(o *envoy.BootstrapOptions) { o.Listen = "localhost:1" }, `"localhost" is not an IP address`},
		"no server":    {func(o *envoy.BootstrapOptions) { o.Servers = nil }, "no control-plane server"},
		"server":       {func(o *envoy.BootstrapOptions) { o.Servers = []string{"xds"} }, `"xds" is not host:port`},
		"admin":        {func(o *envoy.BootstrapOptions) { o.Admin = "0.0.0.0:9901" }, "open to other machines"},
		"tls":          {func(o *envoy.BootstrapOptions) { o.TLS = &envoy.BootstrapTLS{} }, "without a CA"},
		"half a pair":  {func(o *envoy.BootstrapOptions) { o.TLS = &envoy.BootstrapTLS{CA: "c", Cert: "x"} }, "needs its key"},
		"no authority": {func(o *envoy.BootstrapOptions) { o.Sidecars = &envoy.BootstrapTLS{Cert: "c", Key: "k"} }, "--sidecar-ca"},
		"half of it":   {func(o *envoy.BootstrapOptions) { o.Sidecars = &envoy.BootstrapTLS{CA: "a", Cert: "c"} }, "--sidecar-key"},
		"port of node": {func(o *envoy.BootstrapOptions) { o.Listen = "127.0.0.1:99999" }, "is not a port"},
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			c.change(&o)
			if _, err := envoy.Bootstrap(o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// A cluster is never updated: what its sidecars demand of an Envoy is in its name, and an endpoint says which of it it demands.
func TestPoolsWithTLSHaveClustersOfTheirOwn(t *testing.T) {
	over := func(address string, transport routing.Transport, health routing.Health) routing.Instance {
		in := instance(address, health)
		in.Transport = transport
		return in
	}
	plain := over("10.0.0.1:80", routing.Plain, routing.Ready)
	for _, c := range []struct {
		name      string
		instances []routing.Instance
		sockets   []string
		endpoints []string
	}{
		{"", nil, nil, nil},
		{"", []routing.Instance{plain}, nil, []string{"10.0.0.1 "}},
		{"/tls", []routing.Instance{plain, over("10.0.0.2:80", routing.TLS, routing.Ready)}, []string{"tls"}, []string{"10.0.0.1 ", "10.0.0.2 tls"}},
		// It has no traffic yet, but once it has, the cluster must be there.
		{"/mtls", []routing.Instance{over("10.0.0.2:80", routing.TLS, routing.Leaving), over("10.0.0.3:80", routing.MutualTLS, routing.Starting)}, []string{"mtls", "tls"}, []string{"10.0.0.2 tls"}},
		{"", []routing.Instance{plain, over("10.0.0.2:80", "quic", routing.Ready)}, nil, []string{"10.0.0.1 "}},
	} {
		res, err := envoy.Build(envoy.Spec{Name: "shop", Route: routeOf(1, routing.Split{Version: "1.0.0", BasisPoints: routing.Full}), Pools: []envoy.Pool{pool("1.0.0", c.instances...)}})
		if err != nil {
			t.Fatal(err)
		}
		name := "shop@1.0.0" + c.name
		var cluster clusterv3.Cluster
		var assignment endpointv3.ClusterLoadAssignment
		if err := errors.Join(proto.Unmarshal(res.Clusters[0].Body.GetValue(), &cluster), proto.Unmarshal(res.Assignments[0].Body.GetValue(), &assignment)); err != nil {
			t.Fatal(err)
		}
		var sockets, endpoints []string
		for _, m := range cluster.GetTransportSocketMatches() {
			sockets = append(sockets, m.GetName())
		}
		for _, l := range assignment.GetEndpoints() {
			for _, e := range l.GetLbEndpoints() {
				mark := e.GetMetadata().GetFilterMetadata()["envoy.transport_socket_match"].GetFields()["specproxy"].GetStringValue()
				endpoints = append(endpoints, e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress()+" "+mark)
			}
		}
		if cluster.GetName() != name || assignment.GetClusterName() != name || res.Route.Clusters[0].Cluster != name || !slices.Equal(sockets, c.sockets) || !slices.Equal(endpoints, c.endpoints) {
			t.Errorf("%v: cluster %s, sockets %q, endpoints %q of %s, route to %s", c.instances, cluster.GetName(), sockets, endpoints, assignment.GetClusterName(), res.Route.Clusters[0].Cluster)
		}
		if spec, ok := envoy.SpecOfCluster(name); !ok || spec != "shop" {
			t.Errorf("%s is of %q", name, spec)
		}
	}
}

func TestNamesAreReversible(t *testing.T) {
	if spec, ok := envoy.SpecOfCluster(routing.Cluster("a", "1.0.0-x@y")); !ok || spec != "a" {
		t.Errorf("%q, %t", spec, ok)
	}
	if spec, ok := envoy.SpecOfRoute(envoy.RouteName("a/b")); !ok || spec != "a/b" {
		t.Errorf("%q, %t", spec, ok)
	}
	for _, name := range []string{"", "spec/", "other/a", "@1"} {
		if _, ok := envoy.SpecOfRoute(name); ok {
			t.Errorf("%q is no route of ours", name)
		}
		if _, ok := envoy.SpecOfCluster(name); ok {
			t.Errorf("%q is no cluster of ours", name)
		}
	}
	for version, want := range map[string]uint64{"17.0123": 17, "0123": 0, "": 0, "x.1": 0} {
		if got := envoy.GenerationOf(version); got != want {
			t.Errorf("generation of %q is %d, want %d", version, got, want)
		}
	}
}

// A header goes before the weights and after the pins, and what it leads somewhere carries no x-spec-route: nobody drew it.
func TestHeadersLeadToVersionsWhateverTheWeights(t *testing.T) {
	s := canary()
	s.Route.HeaderTargets = []routing.HeaderTarget{{Header: "x-tenant", Value: "acme", Version: "2.0.2"}, {Header: "x-tester", Value: "true", Version: "2.1.0"}}
	res, err := envoy.Build(s)
	if err != nil {
		t.Fatal(err)
	}
	config := &routev3.RouteConfiguration{}
	if err := res.Route.Body.UnmarshalTo(config); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range config.GetVirtualHosts()[0].GetRoutes() {
		what := r.GetRoute().GetCluster()
		for _, h := range r.GetMatch().GetHeaders() {
			what += " where " + h.GetName() + " is " + h.GetStringMatch().GetExact()
		}
		for _, h := range r.GetRequestHeadersToAdd() {
			what += " adds " + h.GetHeader().GetKey() + "=" + h.GetHeader().GetValue()
		}
		got = append(got, what)
	}
	want := []string{
		"customer-service@2.1.0 where x-spec-pin is pin-of-2.1.0", "customer-service@2.0.3 where x-spec-pin is pin-of-2.0.3", "customer-service@2.0.2 where x-spec-pin is pin-of-2.0.2",
		"customer-service@2.0.2 where x-tenant is acme adds x-spec-target=17", "customer-service@2.1.0 where x-tester is true adds x-spec-target=17",
		" adds x-spec-route=17",
	}
	if !slices.Equal(got, want) {
		t.Errorf("routes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, target := range res.Route.Clusters {
		if !target.New {
			t.Errorf("%s gets new work, by weight or by a header; it is said to be for pins alone", target.Cluster)
		}
	}
}

// Requests that are copied are drawn like the others, and they and their copies carry what tells them apart.
func TestShadowCopiesAShareOfWhatIsDrawn(t *testing.T) {
	s := canary()
	s.Route.Splits = []routing.Split{{Version: "2.0.3", BasisPoints: routing.Full}}
	s.Route.Shadow = &routing.Shadow{Version: "2.1.0", BasisPoints: 250, Since: 17}
	res, err := envoy.Build(s)
	if err != nil {
		t.Fatal(err)
	}
	config := &routev3.RouteConfiguration{}
	if err := res.Route.Body.UnmarshalTo(config); err != nil {
		t.Fatal(err)
	}
	routes := config.GetVirtualHosts()[0].GetRoutes()
	copied, drawn := routes[len(routes)-2], routes[len(routes)-1]
	share := copied.GetMatch().GetRuntimeFraction().GetDefaultValue()
	if share.GetNumerator() != 250 || share.GetDenominator().String() != "TEN_THOUSAND" {
		t.Errorf("the share is %v", share)
	}
	policies := copied.GetRoute().GetRequestMirrorPolicies()
	if len(policies) != 1 || policies[0].GetCluster() != "customer-service@2.1.0" || policies[0].GetRuntimeFraction() != nil || !policies[0].GetDisableShadowHostSuffixAppend() {
		t.Errorf("copied by %v", policies)
	}
	added := map[string]string{}
	for _, h := range copied.GetRequestHeadersToAdd() {
		added[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	if len(added) != 2 || added["x-spec-route"] != "17" || added["x-spec-mirror"] != "2.1.0 17 %UNIQUE_ID%" {
		t.Errorf("added %v", added)
	}
	// But for that, both are the same.
	copied.Match.RuntimeFraction, copied.GetRoute().RequestMirrorPolicies, copied.RequestHeadersToAdd = nil, nil, drawn.RequestHeadersToAdd
	if !proto.Equal(copied, drawn) {
		t.Errorf("what is copied is drawn by\n%v\nand the rest by\n%v", copied, drawn)
	}
}

// A rehearsal adds one route, before all others, that only its pin can take, and changes nothing else; its weights are nothing or everything. It is
// left out where one of its versions has no pool.
func TestARehearsalStandsBesideTheRoute(t *testing.T) {
	config := func(s envoy.Spec) (*envoy.Resource, *routev3.VirtualHost) {
		t.Helper()
		res, err := envoy.Build(s)
		if err != nil {
			t.Fatal(err)
		}
		var rc routev3.RouteConfiguration
		if err := res.Route.Body.UnmarshalTo(&rc); err != nil {
			t.Fatal(err)
		}
		return res.Route, rc.GetVirtualHosts()[0]
	}
	plain, before := config(canary())
	versionsOf := map[string]bool{plain.Version: true}
	for _, to := range []string{"2.0.3", "2.1.0"} {
		s := canary()
		s.Rehearsal = &envoy.Rehearsal{Pin: "secret", Round: "2", Mark: "2.secret", To: to, Versions: []string{"2.0.3", "2.1.0"}}
		r, vh := config(s)
		own, rest := vh.GetRoutes()[0], vh.GetRoutes()[1:]
		if len(rest) != len(before.GetRoutes()) || r.Mark != "2.secret" || r.Generation != plain.Generation || versionsOf[r.Version] {
			t.Fatalf("to %s: %d more routes, mark %q, version %s", to, len(vh.GetRoutes())-len(before.GetRoutes()), r.Mark, r.Version)
		}
		versionsOf[r.Version] = true
		for i := range rest {
			if !proto.Equal(rest[i], before.GetRoutes()[i]) {
				t.Errorf("to %s: it changes the route %v", to, rest[i])
			}
		}
		match := own.GetMatch().GetHeaders()
		if len(match) != 1 || match[0].GetName() != envoy.HeaderPin || match[0].GetStringMatch().GetExact() != "secret" || own.GetRequestHeadersToAdd()[0].GetHeader().GetValue() != "2" {
			t.Errorf("to %s: taken by %v", to, own)
		}
		got := map[string]uint32{}
		for _, c := range own.GetRoute().GetWeightedClusters().GetClusters() {
			got[c.GetName()] = c.GetWeight().GetValue()
		}
		if len(got) != 2 || got["customer-service@"+to] != routing.Full {
			t.Errorf("to %s: %v", to, got)
		}
	}
	s := canary()
	s.Rehearsal = &envoy.Rehearsal{Pin: "secret", Round: "1", Mark: "1.secret", To: "2.0.3", Versions: []string{"2.0.3", "1.0.0"}}
	if r, _ := config(s); r.Mark != "" || r.Version != plain.Version {
		t.Errorf("with a version that has no pool: mark %q", r.Mark)
	}
}
