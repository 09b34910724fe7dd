package discovery_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

func TestEveryHostNameOfASpecLeadsToIt(t *testing.T) {
	spec, _, _ := twoVersions(t)
	spec.Hosts = []string{shopHost, "refunds.example", "refunds.internal"}
	src := newSource(spec)
	cp := serve(t, src, "", routeWait)
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	served(t, e, shopHost)
	for _, host := range []string{shopHost, "refunds.example:443", "refunds.internal"} {
		wantReply(t, ask(t, e, "GET", host, "/", ""), 200, "2.0.3 ")
	}
	src.edit(shop, func(s *envoy.Spec) { s.Hosts = []string{shopHost, "refunds.new"} })
	eventually(t, "the new name", ticking(), func() bool { return ask(t, e, "GET", "refunds.new", "/", "").status == 200 })
	for _, host := range []string{"refunds.example", "refunds.internal"} {
		eventually(t, host+" is gone", ticking(), func() bool { return ask(t, e, "GET", host, "/", "").status == 404 })
	}
	// All names share one RouteConfiguration: one flip moves them together.
	src.edit(shop, route(2, split{"2.1.0", 10000}))
	cp.effective(t, shop, 2, 1)
	for _, host := range []string{shopHost, "refunds.new"} {
		wantReply(t, ask(t, e, "GET", host, "/", ""), 200, "2.1.0 ")
	}
}

func TestSpecsAreToldApartByAHeaderInsteadOfTheAuthority(t *testing.T) {
	spec, older, newer := twoVersions(t)
	other := specOf("billing", 1, []split{{"1.0.0", 10000}}, map[string][]string{"1.0.0": {newAgent(t, "billing").Address}})
	src := newSource(spec, other)
	cp := serve(t, src, "", routeWait, func(o *discovery.Options) { o.Listener.ScopeHeader = "X-Agent" })
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	const shared = "agents.example"
	served(t, e, shared, "x-agent", shopHost)
	wantReply(t, ask(t, e, "GET", shared, "/", "", "x-agent", shopHost), 200, "2.0.3 ")
	served(t, e, shared, "x-agent", "billing.agents")
	wantReply(t, ask(t, e, "GET", shared, "/", "", "x-agent", "billing.agents:8080"), 200, "billing ")
	wantReply(t, ask(t, e, "GET", shared, "/", "", "x-agent", "nobody.agents"), 404, "")
	wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 404, "") // no header, no spec
	if got := older.requests()[0].Host; got != shared {
		t.Errorf("the agent was asked for %q, the client asked for %q", got, shared)
	}

	// The header stays on a request that is handed over, so it comes back to its own spec.
	newer.answer(redirectTo("2.0.3", ""))
	src.edit(shop, route(2, split{"2.1.0", 10000}))
	cp.effective(t, shop, 2, 1)
	wantReply(t, ask(t, e, "POST", shared, "/", "again", "x-agent", shopHost), 200, "2.0.3 again")
}

// versionsHeld are the clusters of agents that Envoy has, in words: name and number of hosts.
func versionsHeld(t *testing.T, e *envoytest.Envoy) []string {
	t.Helper()
	all, err := e.Clusters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if name != envoy.ControlCluster {
			out = append(out, fmt.Sprint(name, " ", len(all[name])))
		}
	}
	return out
}

// What an Envoy has loaded follows its traffic, and outlives the control plane's absence but not its own restart.
func TestAnEnvoyHoldsWhatItsTrafficUsesAndNothingElse(t *testing.T) {
	spec, _, _ := twoVersions(t) // 2.1.0 has no weight: it is the way out
	src := newSource(spec)
	for i := range 50 {
		name := fmt.Sprintf("other-%d", i)
		src.put(specOf(name, 1, []split{{"1.0.0", 10000}}, map[string][]string{"1.0.0": {spec.Pools[0].Instances[0].Address}, "0.9.0": nil}))
	}
	cp := serve(t, src, "")
	relay := envoytest.NewRelay(t, cp.Address)
	config := envoytest.Config{Servers: []string{relay.Address}}
	e := envoytest.Start(t, config)
	holds := func(what string, want ...string) {
		t.Helper()
		var got []string
		eventually(t, what, ticking(), func() bool { got = versionsHeld(t, e); return slices.Equal(got, want) })
	}
	if got := versionsHeld(t, e); len(got) != 0 {
		t.Errorf("before its first request Envoy holds %q", got)
	}
	wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "2.0.3 ")
	both := []string{shop + "@2.0.3 1", shop + "@2.1.0 1"}
	if got := versionsHeld(t, e); !slices.Equal(got, both) {
		t.Errorf("after its first request Envoy holds %q, want %q, the way out with its endpoints included", got, both)
	}
	wantReply(t, ask(t, e, "GET", "other-7.agents", "/", ""), 200, "2.0.3 ")
	both = append(both, "other-7@0.9.0 0", "other-7@1.0.0 1")
	if got := versionsHeld(t, e); !slices.Equal(got, both) {
		t.Errorf("after its second spec Envoy holds %q, want %q", got, both)
	}

	// The control plane is away: nothing that is loaded goes, and the way out still works.
	relay.Cut()
	eventually(t, "gone", cp.Changes, func() bool { return len(cp.Effect(shop, 1).Gone) == 1 })
	wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "2.0.3 ")
	wantReply(t, ask(t, e, "GET", shopHost, "/", "", "x-spec-pin", pin(shop, "2.1.0")), 200, "2.1.0 ")
	if got := versionsHeld(t, e); !slices.Equal(got, both) {
		t.Errorf("without the control plane Envoy holds %q, want %q", got, both)
	}

	// A version goes meanwhile. Its cluster leaves once Envoy has heard of it, and the one that has the traffic stays.
	src.edit(shop, func(s *envoy.Spec) { s.Pools = s.Pools[:1] })
	src.remove("other-7")
	relay.Mend(cp.Address)
	holds("the version is gone from Envoy", shop+"@2.0.3 1")
	wantReply(t, ask(t, e, "GET", shopHost, "/", "", "x-spec-pin", pin(shop, "2.1.0")), 200, "2.0.3 ")
	if !cp.pushes.removed(envoy.TypeCluster, routing.Cluster(shop, "2.1.0")) {
		t.Error("its removal was not pushed")
	}

	// A restarted Envoy begins with nothing, whatever it held before, and loads with its first request again.
	src.put(spec)
	holds("the version is back", shop+"@2.0.3 1", shop+"@2.1.0 1")
	e.Stop()
	e = envoytest.Start(t, config)
	if got := versionsHeld(t, e); len(got) != 0 {
		t.Errorf("after its restart Envoy holds %q", got)
	}
	wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "2.0.3 ")
	holds("what its traffic uses", shop+"@2.0.3 1", shop+"@2.1.0 1")
}
