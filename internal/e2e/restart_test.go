package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/routing"
)

// acked waits until n proxies, and no other is known, have acknowledged the route in force.
func (w *world) acked(spec string, n uint32) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("acknowledgement of %s by %d proxies", spec, n), func() error {
		res, err := w.client.GetEffect(w.t.Context(), connect.NewRequest(&operatorv1.GetEffectRequest{Spec: spec}))
		if err != nil {
			return err
		}
		if e := res.Msg; e.GetProxiesAcked() != n || e.GetProxiesTotal() != n {
			return fmt.Errorf("%v", e)
		}
		return nil
	})
}

// pool reads what is known of one version's instances.
func (w *world) pool(spec, version string) *operatorv1.Pool {
	w.t.Helper()
	return w.version(spec + ":" + version).GetPool()
}

// endpoints are the addresses, sorted, that an Envoy holds for a version; nil if it has no such cluster.
func endpoints(t testing.TB, e *envoytest.Envoy, spec, version string) []string {
	t.Helper()
	all, err := e.Clusters(t.Context())
	if err != nil {
		t.Fatalf("clusters of Envoy %s: %v", e.Node, err)
	}
	return all[routing.Cluster(spec, version)]
}

// TestSidecarsThatComeBackLateKeepTheirEndpoints kills the control plane and keeps the sidecars away from the next one, while the proxy is back
// at once. To the new process every instance is silent; that must not empty a pool.
func TestSidecarsThatComeBackLateKeepTheirEndpoints(t *testing.T) { comeBackAfter(t, 3*time.Second) }

func comeBackAfter(t *testing.T, silence time.Duration) {
	const spec = "shop"
	w, f := startXDS(t), newFlips()
	relay := envoytest.NewRelay(t, w.grpc)
	for _, version := range []string{older, newer} {
		agent := startAgent(t, version, f)
		w.publish(spec, version, completeContract)
		for range 2 {
			w.sidecarVia(relay.Address, spec+":"+version, agent.url)
		}
		w.ready(spec, version, 2)
		w.deploy(spec, version)
	}
	envoy := w.envoy("edge-1")
	tr := newTraffic(t, spec+".agents", envoy.Address, f, func(int, int) []string { return []string{newer} })
	tr.warm(t)
	end := tr.begin(50)
	defer end()
	w.acked(spec, 1)
	held := map[string][]string{older: endpoints(t, envoy, spec, older), newer: endpoints(t, envoy, spec, newer)}
	if len(held[older]) != 2 || len(held[newer]) != 2 {
		t.Fatalf("Envoy holds %v, want two endpoints of each version", held)
	}
	check := func(silent uint32) {
		t.Helper()
		for version, want := range held {
			if p := w.pool(spec, version); p.GetReady() != 2 || p.GetSilent() != silent {
				t.Fatalf("%s: %v; want 2 ready, %d of them silent", version, p, silent)
			}
			if got := endpoints(t, envoy, spec, version); !slices.Equal(got, want) {
				t.Fatalf("Envoy holds %v of %s, want %v", got, version, want)
			}
		}
	}

	relay.Cut()
	w.xds.kill()
	w.restartXDS()
	w.acked(spec, 1) // the proxy is back
	before := tr.total()
	over := time.NewTimer(silence)
	defer over.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-tick.C:
			check(2)
		case <-over.C:
			waiting = false
		}
	}
	if n := tr.total() - before; n == 0 {
		t.Errorf("no request was answered in %s of silence", silence)
	}
	relay.Mend(w.grpc)
	for version := range held {
		eventually(t, "sessions of the sidecars of "+version, func() error {
			if p := w.pool(spec, version); p.GetSilent() > 0 {
				return fmt.Errorf("%v", p)
			}
			return nil
		})
	}
	check(0)
	end()
	tr.report(t)
}

const (
	// handshakeBytes is what a restart may cost on the way to a proxy: HTTP/2 settings, headers and a few pings, more of them the slower the
	// machine and with the oldest Envoy.
	handshakeBytes = 500
	// pushBytes is less than even the smallest resource costs on top of it.
	pushBytes = 200
)

// TestAnUnchangedResourceIsNotPushedAgain counts the bytes from the control plane to a proxy.
func TestAnUnchangedResourceIsNotPushedAgain(t *testing.T) {
	const spec = "shop"
	w, f := startXDS(t), newFlips()
	agents := map[string]*agent{}
	for _, version := range []string{older, newer} {
		agents[version] = startAgent(t, version, f)
		w.publish(spec, version, completeContract)
		w.sidecar(spec+":"+version, agents[version].url)
		w.ready(spec, version, 1)
	}
	w.deploy(spec, older)
	others := 0
	another := func() {
		others++
		name := fmt.Sprintf("other-%02d", others)
		w.publish(name, "1.0.0", completeContract)
		if _, err := w.client.Deploy(t.Context(), connect.NewRequest(&operatorv1.DeployRequest{Refs: []*operatorv1.Ref{{Spec: name, Version: "1.0.0"}}, Now: true})); err != nil {
			t.Fatalf("deploy %s: %v", name, err)
		}
	}
	for range 20 {
		another()
	}
	relay := envoytest.NewRelay(t, w.grpc)
	envoy := w.envoyVia(relay.Address, "edge-1")
	newTraffic(t, spec+".agents", envoy.Address, f, nil).warm(t)
	w.acked(spec, 1)
	first := relay.Down()

	// cost is what a change costs on the way to the proxy, and a round trip of the route after it, which everything before it precedes.
	cost := func(change func()) int64 {
		before := relay.Down()
		change()
		w.deploy(spec, newer)
		w.acked(spec, 1)
		rollback := w.rollback(spec)
		w.acked(spec, 1)
		w.closePostMortem(rollback.GetPostmortem(), "false-alarm")
		return relay.Down() - before
	}
	restart := func() {
		w.xds.kill()
		w.restartXDS()
		w.acked(spec, 1)
	}
	for range 4 { // generations of one digit are shorter
		cost(func() {})
	}
	trip := cost(func() {})
	// A restart that takes long may move something, which is rightly sent: what is sent for nothing is sent each time.
	again := cost(restart) - trip
	for range 3 {
		if again <= handshakeBytes {
			break
		}
		again = cost(restart) - trip
	}
	withScope := cost(func() {
		restart()
		another()
	}) - trip
	withEndpoints := cost(func() {
		restart()
		w.sidecar(spec+":"+newer, agents[newer].url)
		w.ready(spec, newer, 2)
	}) - trip
	t.Logf("bytes to the proxy: %d at its first start, %d for two routes; %d for a restart, %d with one new scope, %d with new endpoints of one cluster",
		first, trip, again, withScope, withEndpoints)
	if again > handshakeBytes {
		t.Errorf("a restart sends %d bytes, more than a handshake: %d", again, handshakeBytes)
	}
	if withScope < again+pushBytes || withEndpoints < again+pushBytes || trip < pushBytes || first < again+pushBytes {
		t.Errorf("a push costs less than %d bytes, and would pass for a part of the handshake", pushBytes)
	}
}
