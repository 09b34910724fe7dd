package discovery_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// pinned adds a version that gets no traffic to s, within its generation: the route has one more pin.
func pinned(version string) func(*envoy.Spec) {
	more := specOf("s", 0, nil, map[string][]string{version: {"10.0.0.9:80"}})
	return func(s *envoy.Spec) { s.Pools = append(s.Pools, more.Pools...) }
}

func without(version string) func(*envoy.Spec) {
	return func(s *envoy.Spec) {
		kept := s.Pools[:0]
		for _, p := range s.Pools {
			if p.Version != version {
				kept = append(kept, p)
			}
		}
		s.Pools = kept
	}
}

// offered is the route of s with the pin of version 2, which the client has everything else for.
func (c *client) offered(w *world) {
	c.t.Helper()
	w.src.edit("s", pinned("2"))
	c.accept("CDS +s@2")
	c.subscribe(envoy.TypeEndpoint, "s@2")
	c.accept("EDS +s@2")
}

// A route changes within a generation when a pin comes on top. Who acknowledged the one and refuses the other has not acknowledged the generation
// as it is, in whichever order it said so.
func TestARefusalWithinAGenerationIsNeverProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1"))
		c := w.has("e")
		is := func(when string, proven bool) {
			t.Helper()
			synctest.Wait()
			e := w.cp.Effect("s", 1)
			if e.Proven() != proven || len(e.Acked)+len(e.Refused) != 1 || !proven && e.Refused[0].Refusal != "no such pin" {
				t.Errorf("%s: %+v", when, e)
			}
			if shown := w.cp.Proxies()[0].Refusal; (shown == "") != proven {
				t.Errorf("%s: an operator is shown %q", when, shown)
			}
		}
		is("acknowledged", true)
		c.offered(w)
		is("the pin is on its way", true)
		c.nack(c.expect("RDS +spec/s")[0], "no such pin")
		is("acknowledged, then refused", false)

		// What it has is what it should have again, so there is nothing that it refuses.
		w.src.edit("s", without("2"))
		c.accept("CDS -s@2")
		c.accept("EDS -s@2")
		c.unsubscribe(envoy.TypeEndpoint, "s@2")
		is("the pin is gone", true)
		// And the same once more is asked for once more.
		c.offered(w)
		c.nack(c.expect("RDS +spec/s")[0], "no such pin")
		is("refused again", false)

		// The other way round: one is refused, another of the same generation is acknowledged.
		w.src.edit("s", pinned("3"))
		c.accept("CDS +s@3")
		c.subscribe(envoy.TypeEndpoint, "s@3")
		c.accept("EDS +s@3")
		c.accept("RDS +spec/s")
		is("refused, then acknowledged what is newer", true)
		w.src.edit("s", without("3"))
		c.nack(c.expect("RDS +spec/s")[0], "no such pin")
		is("back to what it refuses", false)
	})
}

// A refused cluster is told of until the client takes it, whatever else it acknowledges.
func TestARefusedClusterIsNotForgottenWithTheRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1"))
		c := w.has("e")
		w.src.edit("s", pinned("2"))
		c.nack(c.expect("CDS +s@2")[0], "no such cluster")
		c.accept("RDS +spec/s") // without weight it holds up nothing
		synctest.Wait()
		if p := w.cp.Proxies()[0]; p.Refusal != "s: no such cluster" || p.Specs[0].Refusal != "no such cluster" {
			t.Errorf("an operator is shown %+v", p)
		}
		if e := w.cp.Effect("s", 1); !e.Proven() {
			t.Errorf("the route was acknowledged: %+v", e)
		}
		w.src.edit("s", without("2"))
		c.accept("RDS +spec/s")
		synctest.Wait()
		if p := w.cp.Proxies()[0]; p.Refusal != "" {
			t.Errorf("it is gone, and an operator is shown %+v", p)
		}
	})
}

// What is of no spec is refused and taken likewise.
func TestARefusedHostIsToldOfUntilItIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1"))
		c := w.connect("e")
		c.subscribe(envoy.TypeScope)
		c.nack(c.expect("SRDS +s.agents")[0], "no such scope")
		synctest.Wait()
		if p := w.cp.Proxies()[0]; p.Refusal != "no such scope" {
			t.Errorf("an operator is shown %+v", p)
		}
		w.src.remove("s")
		c.accept("SRDS -s.agents")
		w.src.put(specOf("other", 1, []split{{"1", 10000}}, nil))
		c.accept("SRDS +other.agents")
		synctest.Wait()
		if p := w.cp.Proxies()[0]; p.Refusal != "" {
			t.Errorf("it is gone, and an operator is shown %+v", p)
		}
	})
}

// More proxies refuse than a replica names: those that it only counts are not counted as proof.
func TestOfManyRefusalsNoneIsProofAtAnotherReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newCluster(ab(1, "1"))
		a, b := shared.replica(t, "a"), shared.replica(t, "b")
		var clients []*client
		for i := range routing.MaxAcks + 50 {
			clients = append(clients, b.has(fmt.Sprintf("e-%03d", i)))
		}
		shared.edit("s", pinned("2"))
		for _, c := range clients {
			c.accept("CDS +s@2")
			c.subscribe(envoy.TypeEndpoint, "s@2")
			c.accept("EDS +s@2")
			c.nack(c.expect("RDS +spec/s")[0], "no such pin")
		}
		synctest.Wait()
		for _, at := range []*discovery.Server{a.cp.Server, b.cp.Server} {
			if e := at.Effect("s", 1); e.AckedCount() != 0 || e.Total() != len(clients) {
				t.Errorf("%d of %d are counted as proof", e.AckedCount(), e.Total())
			}
		}
	})
}

// Whoever waits for a proof goes on waiting while a proxy has yet to answer, but not once any has refused, at whichever replica.
func TestNobodyWaitsOnARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newCluster(ab(1, "1"))
		a, b := shared.replica(t, "a"), shared.replica(t, "b")
		slow, refuser := a.has("slow"), b.has("refuser")
		shared.edit("s", route(2, split{"1", 10000}))
		slow.expect("RDS +spec/s")
		sent := refuser.expect("RDS +spec/s")[0]
		if !a.cp.Waits("s", 2) || !b.cp.Waits("s", 2) || a.cp.Waits("s", 1) {
			t.Error("the proxies of both replicas have yet to answer")
		}
		refuser.nack(sent, "no such route")
		synctest.Wait()
		if a.cp.Waits("s", 2) || b.cp.Waits("s", 2) {
			t.Error("one has refused")
		}
	})
}
