package discovery_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	"github.com/specproxy/specproxy/internal/routing/envoy"
)

func TestClusterThenEndpointsThenRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1", "2"))
		c := w.connect("e")
		c.subscribe(envoy.TypeCluster)
		c.accept("CDS")
		c.subscribe(envoy.TypeListener)
		c.accept("LDS +agents")
		c.subscribe(envoy.TypeScope)
		c.accept("SRDS +s.agents")
		c.subscribe(envoy.TypeRoute, "spec/s")
		clusters := c.expect("CDS +s@1 +s@2")
		c.subscribe(envoy.TypeEndpoint, "s@1")
		endpoints := c.expect("EDS +s@1")
		c.ack(clusters[0])
		c.ack(endpoints[0])
		c.expect() // one cluster has no endpoints yet
		c.subscribe(envoy.TypeEndpoint, "s@2")
		endpoints = c.expect("EDS +s@2")
		c.ack(endpoints[0])
		c.accept("RDS +spec/s")
		c.expect()
		if e := w.cp.Effect("s", 1); len(e.Acked) != 1 || !e.Proven() {
			t.Errorf("effect: %+v", e)
		}

		// One version goes, another comes: nothing is removed while a route refers to it.
		w.src.put(ab(2, "2", "3"))
		c.accept("CDS +s@3", "EDS +s@2") // the address of version 2 changed with the same revision
		c.subscribe(envoy.TypeEndpoint, "s@3")
		c.accept("EDS +s@3")
		routes := c.expect("RDS +spec/s")
		if e := w.cp.Effect("s", 2); len(e.Pending) != 1 || e.Pending[0].Generation != 1 {
			t.Errorf("effect before the ACK: %+v", e)
		}
		c.ack(routes[0])
		removal := c.expect("CDS -s@1")
		c.unsubscribe(envoy.TypeEndpoint, "s@1")
		c.ack(removal[0])
		c.expect()
	})
}

func TestEndpointsOfARouteAreAtLeastAsNewAsTheRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		empty := ab(1, "1", "2")
		empty.Route.Splits[0].Version = "1"
		empty.Pools[1].Instances = nil
		w := newWorld(t, empty)
		c := w.connect("e")
		c.boot()
		c.accept("CDS +s@1 +s@2")
		c.subscribe(envoy.TypeEndpoint, "s@1", "s@2")
		c.accept("EDS +s@1 +s@2")
		c.accept("RDS +spec/s")
		// The first instance registers, and its version gets the traffic at once.
		w.src.put(ab(2, "1", "2"))
		endpoints := c.expect("EDS +s@2")
		c.ack(endpoints[0])
		c.accept("RDS +spec/s")
	})
}

func TestNamesThatDoNotExistAreAnsweredAsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1"))
		c := w.connect("e")
		c.subscribe(envoy.TypeRoute, "spec/nobody", "other")
		c.accept("RDS -other -spec/nobody")
		c.subscribe(envoy.TypeEndpoint, "nobody@1")
		c.accept("EDS -nobody@1")
		c.expect()
		nobody := specOf("nobody", 1, []split{{"1", 10000}}, nil)
		w.src.put(nobody)
		// It comes to exist. This client takes no clusters, so nothing holds up its route.
		c.accept("EDS +nobody@1", "RDS +spec/nobody")
	})
}

func TestWhoAsksAgainIsSentItAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1"))
		c := w.connect("e")
		c.subscribe(envoy.TypeEndpoint, "s@1")
		c.accept("EDS +s@1")
		c.subscribe(envoy.TypeEndpoint, "s@1")
		c.accept("EDS +s@1")
		c.unsubscribe(envoy.TypeEndpoint, "s@1")
		w.src.put(ab(2, "0", "1"))
		c.expect()
		c.subscribe(envoy.TypeEndpoint, "s@1")
		c.accept("EDS +s@1")
	})
}

func TestARefusedVersionIsNotSentAgainAndTheNextOneIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1"))
		c := w.connect("e")
		c.boot()
		c.accept("CDS +s@1")
		c.subscribe(envoy.TypeEndpoint, "s@1")
		c.accept("EDS +s@1")
		c.accept("RDS +spec/s")
		w.src.edit("s", route(2, split{"1", 10000}))
		c.nack(c.expect("RDS +spec/s")[0], "no such filter")
		synctest.Wait()
		e := w.cp.Effect("s", 2)
		if len(e.Refused) != 1 || e.Refused[0].Refusal != "no such filter" || e.Refused[0].Generation != 1 {
			t.Errorf("effect: %+v", e)
		}
		if e := w.cp.Effect("s", 1); len(e.Acked) != 1 {
			t.Errorf("the generation it kept: %+v", e)
		}
		// Something else of the spec changes; the route does not.
		w.src.edit("s", func(s *envoy.Spec) { s.Pools[0].Instances = nil })
		c.accept("EDS +s@1")
		c.expect()
		w.src.edit("s", route(3, split{"1", 10000}))
		c.accept("RDS +spec/s")
		synctest.Wait()
		if e := w.cp.Effect("s", 2); !e.Proven() || len(e.Acked) != 1 || e.Acked[0].Generation != 3 {
			t.Errorf("effect: %+v", e)
		}
	})
}

func TestOneBadResourceOfManyIsFoundAndTheOthersArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1", "2", "3"))
		c := w.connect("e")
		c.boot()
		c.nack(c.expect("CDS +s@1 +s@2 +s@3")[0], "one of these is bad")
		c.accept("CDS +s@1")
		c.nack(c.expect("CDS +s@2")[0], "this one is bad")
		c.accept("CDS +s@3")
		c.expect()
		// The bad one has no weight: it must not hold up the route.
		c.subscribe(envoy.TypeEndpoint, "s@1", "s@3")
		c.accept("EDS +s@1 +s@3")
		c.accept("RDS +spec/s")
		synctest.Wait()
		if e := w.cp.Effect("s", 1); len(e.Acked) != 1 {
			t.Errorf("effect: %+v", e)
		}
		// With weight it does, and says so.
		w.src.edit("s", route(2, split{"2", 10000}))
		c.expect()
		if e := w.cp.Effect("s", 2); len(e.Pending)+len(e.Refused) != 1 {
			t.Errorf("a route to a cluster that was refused: %+v", e)
		}
	})
}

func TestASlowReaderHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		specs := []envoy.Spec{ab(1, "1")}
		for i := range 3000 {
			specs = append(specs, specOf(fmt.Sprintf("other-%04d", i), 1, []split{{"1", 10000}}, nil))
		}
		w := newWorld(t, specs...)
		slow := w.dial("slow", grpc.WithInitialWindowSize(65535), grpc.WithInitialConnWindowSize(65535))
		defer slow.close()
		slow.subscribe(envoy.TypeScope)
		synctest.Wait() // its server side now waits for room
		c := w.connect("quick")
		c.subscribe(envoy.TypeRoute, "spec/s")
		c.accept("RDS +spec/s")
		w.src.edit("s", route(2, split{"1", 10000}))
		c.accept("RDS +spec/s")
		synctest.Wait()
		if e := w.cp.Effect("s", 2); len(e.Acked) != 1 || !e.Proven() {
			t.Errorf("effect: %+v", e)
		}
	})
}

func TestAtMostOnePushOfATypeIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1"))
		c := w.connect("e")
		c.subscribe(envoy.TypeRoute, "spec/s")
		first := c.expect("RDS +spec/s")[0]
		for g := uint64(2); g < 6; g++ {
			w.src.edit("s", route(g, split{"1", 10000}))
			c.expect()
		}
		c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: envoy.TypeRoute, ResponseNonce: "stale"})
		c.expect()
		c.ack(first)
		last := c.expect("RDS +spec/s")[0]
		if got := envoy.GenerationOf(last.Resources[0].Version); got != 5 {
			t.Errorf("generation %d follows the first one, want the newest, 5", got)
		}
	})
}

func TestAHostThatTwoSpecsClaimGoesToOneOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := specOf("a", 1, []split{{"1", 10000}}, nil), specOf("b", 1, []split{{"1", 10000}}, nil)
		b.Hosts = []string{"shared.example"}
		w := newWorld(t, b)
		c := w.connect("e")
		c.subscribe(envoy.TypeScope)
		c.accept("SRDS +shared.example")
		a.Hosts = []string{"shared.example", "b.agents"}
		w.src.put(a)
		c.accept("SRDS +b.agents +shared.example")
		b.Hosts = []string{"shared.example", "b.agents"}
		w.src.put(b)
		c.accept("SRDS +b.agents") // a spec's own name cannot be taken by another
		w.src.remove("a")
		c.accept("SRDS +shared.example")
		w.src.remove("b")
		c.accept("SRDS -b.agents -shared.example")
	})
}

func TestASpecThatCannotBeBuiltKeepsItsLastGoodState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1"))
		c := w.connect("e")
		c.subscribe(envoy.TypeCluster)
		c.accept("CDS")
		c.subscribe(envoy.TypeScope)
		c.accept("SRDS +s.agents")
		c.subscribe(envoy.TypeRoute, "spec/s")
		c.accept("CDS +s@1")
		c.subscribe(envoy.TypeEndpoint, "s@1")
		c.accept("EDS +s@1")
		held := c.expect("RDS +spec/s")[0]
		c.ack(held)
		w.src.edit("s", route(2, split{"1", 1}))
		c.expect()
		c.close()

		// A replica that starts with it knows no good state, and leaves alone what the Envoy has.
		again := worldOf(t, w.src)
		c = again.connect("e")
		c.resume(envoy.TypeCluster, map[string]string{"s@1": "v"})
		c.resume(envoy.TypeScope, map[string]string{"s.agents": "v"})
		c.resume(envoy.TypeRoute, map[string]string{"spec/s": held.Resources[0].Version}, "spec/s")
		c.resume(envoy.TypeEndpoint, map[string]string{"s@1": "v"}, "s@1")
		c.accept("CDS")
		other := again.connect("new")
		other.subscribe(envoy.TypeRoute, "spec/s")
		other.accept("RDS -spec/s")
		w.src.put(ab(3, "2"))
		c.accept("CDS +s@2", "SRDS +s.agents")
		c.subscribe(envoy.TypeEndpoint, "s@2")
		c.accept("EDS +s@2")
		c.accept("RDS +spec/s")
		c.accept("CDS -s@1")
	})
}

func TestAReconnectedProxyCountsAsHoldingWhatItMayHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1"))
		c := w.connect("e")
		c.boot()
		clusters := c.expect("CDS +s@1")[0]
		c.ack(clusters)
		c.subscribe(envoy.TypeEndpoint, "s@1")
		endpoints := c.expect("EDS +s@1")[0]
		c.ack(endpoints)
		routes := c.expect("RDS +spec/s")[0]
		c.ack(routes)
		c.close()
		if e := w.cp.Effect("s", 1); len(e.Gone) != 1 || e.Proven() {
			t.Errorf("a proxy that left: %+v", e)
		}
		w.src.edit("s", route(2, split{"1", 10000}))

		have := func(res *discoveryv3.DeltaDiscoveryResponse) map[string]string {
			out := map[string]string{}
			for _, r := range res.Resources {
				out[r.Name] = r.Version
			}
			return out
		}
		c = w.connect("e")
		c.subscribe(envoy.TypeListener)
		c.accept("LDS +agents")
		if e := w.cp.Effect("s", 2); len(e.Pending) != 1 {
			t.Errorf("before it said anything: %+v", e)
		}
		c.resume(envoy.TypeCluster, have(clusters))
		probe := c.expect("CDS")[0]
		if e := w.cp.Effect("s", 2); len(e.Pending) != 1 {
			t.Errorf("after it named its clusters: %+v", e)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.cp.EndpointGone(gone, "s", "1", "10.0.0.1:80"); err == nil || !strings.Contains(err.Error(), "e has just connected") {
			t.Errorf("endpoint gone: %v", err)
		}
		c.resume(envoy.TypeRoute, have(routes), "spec/s")
		c.expect()
		if e := w.cp.Effect("s", 1); len(e.Acked) != 1 || e.Acked[0].Generation != 1 {
			t.Errorf("what it brought along: %+v", e)
		}
		c.ack(probe)
		c.resume(envoy.TypeEndpoint, have(endpoints), "s@1")
		c.accept("RDS +spec/s")
		synctest.Wait()
		if e := w.cp.Effect("s", 2); len(e.Acked) != 1 || !e.Proven() {
			t.Errorf("in the end: %+v", e)
		}

		// One that comes back with clusters and acknowledges before it asks for a route has no route.
		c.close()
		c = w.connect("e")
		c.resume(envoy.TypeCluster, have(clusters))
		c.accept("CDS")
		c.accept("CDS -s@1")
		if e := w.cp.Effect("s", 2); e.Total() != 0 {
			t.Errorf("clusters and no route: %+v", e)
		}

		// An Envoy that was started anew has nothing, and its namesake's past does not count.
		c.close()
		c = w.connect("e")
		c.subscribe(envoy.TypeCluster)
		c.accept("CDS")
		if e := w.cp.Effect("s", 2); e.Total() != 0 {
			t.Errorf("a new process: %+v", e)
		}
	})
}

func TestALaggingReplicaDoesNotUndoARollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(7, "1"))
		c := w.connect("e")
		c.resume(envoy.TypeRoute, map[string]string{"spec/s": "9.0123456789abcdef"}, "spec/s")
		c.expect()
		if e := w.cp.Effect("s", 9); len(e.Acked) != 1 {
			t.Errorf("what it holds: %+v", e)
		}
		w.src.edit("s", route(8, split{"1", 10000}))
		c.expect()
		w.src.edit("s", route(10, split{"1", 10000}))
		c.accept("RDS +spec/s")
	})
}

func TestOfTwoProxiesWithOneNameBothMustAcknowledge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1"))
		a, b := w.connect("e"), w.connect("e")
		for _, c := range []*client{a, b} {
			c.subscribe(envoy.TypeRoute, "spec/s")
		}
		a.accept("RDS +spec/s")
		res := b.expect("RDS +spec/s")[0]
		if e := w.cp.Effect("s", 1); e.Proven() || e.Total() != 1 {
			t.Errorf("one of two: %+v", e)
		}
		b.ack(res)
		synctest.Wait()
		if e := w.cp.Effect("s", 1); !e.Proven() || e.Total() != 1 {
			t.Errorf("both: %+v", e)
		}
	})
}

func TestEndpointGoneWaitsForEveryAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1"))
		c := w.connect("e")
		c.subscribe(envoy.TypeRoute, "spec/s")
		c.accept("RDS +spec/s")
		c.subscribe(envoy.TypeEndpoint, "s@1")
		c.accept("EDS +s@1")
		w.src.edit("s", func(s *envoy.Spec) { s.Pools[0].Instances = nil })
		res := c.expect("EDS +s@1")[0]
		done := make(chan error, 1)
		go func() { done <- w.cp.EndpointGone(t.Context(), "s", "1", "10.0.0.1:80") }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("gone before it was acknowledged: %v", err)
		default:
		}
		c.ack(res)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestProxiesAreRecordedAndForgottenAfterADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1"))
		c := w.connect("e")
		c.subscribe(envoy.TypeRoute, "spec/s")
		c.accept("RDS +spec/s")
		c.close()
		record := w.src.proxies["e"]
		if !slices.Equal(record.Specs, []string{"s"}) || record.LastSeen.IsZero() {
			t.Errorf("record: %+v", record)
		}
		w.cp.stop()
		again := worldOf(t, w.src)
		if e := again.cp.Effect("s", 1); len(e.Gone) != 1 || e.Gone[0].Node != "e" {
			t.Errorf("after a restart: %+v", e)
		}
		day(t)
		if e := again.cp.Effect("s", 1); e.Total() != 0 {
			t.Errorf("after a day: %+v", e)
		}
		if p := again.cp.Proxies(); len(p) != 0 {
			t.Errorf("after a day: %+v", p)
		}
	})
}

// day lets 24 hours pass in the bubble.
func day(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
	defer cancel()
	<-ctx.Done()
}
