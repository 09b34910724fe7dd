package discovery_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"

	"google.golang.org/grpc/test/bufconn"
)

// cluster is what replicas share of each other, as etcd would hold it.
type cluster struct {
	*source
	acks  map[[2]string]routing.Acks // by spec and replica
	lives map[string]bool
}

func newCluster(specs ...envoy.Spec) *cluster {
	return &cluster{source: newSource(specs...), acks: map[[2]string]routing.Acks{}, lives: map[string]bool{}}
}

// as is the cluster as one replica sees it.
type as struct {
	*cluster
	id string
}

func (a as) Self() (string, <-chan struct{}) { return a.id, nil }

func (a as) Replicas() (out []routing.Replica) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range a.lives {
		out = append(out, routing.Replica{ID: id, Name: "xds-" + id})
	}
	return out
}

func (a as) Acks(spec string) (out []routing.Acks) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, acks := range a.acks {
		if spec == "" || spec == key[0] {
			out = append(out, acks)
		}
	}
	return out
}

func (a as) SaveAcks(_ context.Context, self string, all []routing.Acks) error {
	a.change(func() {
		for _, acks := range all {
			acks.Replica = self
			if len(acks.Proxies) == 0 {
				delete(a.acks, [2]string{acks.Spec, self})
			} else {
				a.acks[[2]string{acks.Spec, self}] = acks
			}
		}
	})
	return nil
}

func (a as) SaveProxies(ctx context.Context, self string, proxies []routing.Proxy) error {
	a.mu.Lock()
	var mine []routing.Proxy
	for _, p := range proxies {
		if old := a.proxies[p.Node]; p.Replica != "" || p.Forgotten != nil || old.Replica == "" || old.Replica == self {
			mine = append(mine, p)
		}
	}
	a.mu.Unlock()
	return a.source.SaveProxies(ctx, self, mine)
}

// die is what etcd does when a replica's lease has run out.
func (c *cluster) die(id string) {
	c.change(func() {
		delete(c.lives, id)
		maps.DeleteFunc(c.acks, func(key [2]string, _ routing.Acks) bool { return key[1] == id })
	})
}

// replica starts one, in the bubble.
func (c *cluster) replica(t tb, id string) *world {
	c.change(func() { c.lives[id] = true })
	l := bufconn.Listen(1 << 20)
	return &world{t: t, src: c.source, l: l, cp: serveOn(t, c.source, l, nil, func(o *discovery.Options) { o.Memory = as{c, id} })}
}

// has connects a proxy and lets it acknowledge the route that it is sent.
func (w *world) has(node string) *client {
	c := w.connect(node)
	c.subscribe(envoy.TypeCluster)
	c.accept("CDS")
	c.subscribe(envoy.TypeRoute, "spec/s")
	c.accept("CDS +s@1")
	c.subscribe(envoy.TypeEndpoint, "s@1")
	c.accept("EDS +s@1")
	c.accept("RDS +spec/s")
	synctest.Wait()
	return c
}

func TestAReplicaKnowsWhatTheProxiesOfTheOthersAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newCluster(ab(1, "1"))
		a, b := shared.replica(t, "a"), shared.replica(t, "b")
		here, there := a.has("here"), b.has("there")
		for _, w := range []*world{a, b} {
			if e := w.cp.Effect("s", 1); !e.Proven() || len(e.Acked) != 2 {
				t.Errorf("both have it: %+v", e)
			}
		}
		moved := a.cp.Changes()
		shared.edit("s", route(2, split{"1", 10000}))
		here.accept("RDS +spec/s")
		synctest.Wait()
		e := a.cp.Effect("s", 2)
		if e.Proven() || len(e.Acked) != 1 || len(e.Pending) != 1 || len(e.Gone) != 0 || !strings.Contains(e.Pending[0].Reason, "replica xds-b") {
			t.Errorf("one of two: %+v", e)
		}
		there.nack(there.expect("RDS +spec/s")[0], "too new for me")
		synctest.Wait()
		if e := a.cp.Effect("s", 2); len(e.Refused) != 1 || e.Refused[0].Refusal != "too new for me" || e.Refused[0].Generation != 1 {
			t.Errorf("refused at the other replica: %+v", e)
		}
		select {
		case <-moved:
		case <-time.After(time.Second): // of the bubble's time: it may come a moment later
			t.Error("nobody was told that the other replica knows more")
		}
		shared.edit("s", route(3, split{"1", 10000}))
		there.accept("RDS +spec/s")
		here.accept("RDS +spec/s")
		synctest.Wait()
		for _, w := range []*world{a, b} {
			if e := w.cp.Effect("s", 2); !e.Proven() || len(e.Acked) != 2 {
				t.Errorf("both have a later one: %+v", e)
			}
			proxies := w.cp.Proxies()
			if len(proxies) != 2 || proxies[0].Replica != "xds-a" || proxies[1].Replica != "xds-b" || !proxies[1].Connected || proxies[1].Specs[0].Generation != 3 {
				t.Errorf("proxies: %+v", proxies)
			}
		}
	})
}

func TestAProxyThatGoesToAnotherReplicaIsThatOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newCluster(ab(1, "1"))
		a, b := shared.replica(t, "a"), shared.replica(t, "b")
		c := a.has("e")
		b.has("e") // it comes before the old stream is known to be dead
		c.close()
		for _, w := range []*world{a, b} {
			if e := w.cp.Effect("s", 1); !e.Proven() || len(e.Acked) != 1 {
				t.Errorf("moved: %+v", e)
			}
			if p := w.cp.Proxies(); len(p) != 1 || !p[0].Connected || p[0].Replica != "xds-b" {
				t.Errorf("moved: %+v", p)
			}
		}
		if p := shared.proxies["e"]; p.Replica != "b" {
			t.Errorf("record: %+v", p)
		}
	})
}

func TestTheProxiesOfADeadReplicaAreGoneUntilTheyComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newCluster(ab(1, "1"))
		a, b := shared.replica(t, "a"), shared.replica(t, "b")
		b.has("e")
		shared.die("b")
		synctest.Wait()
		if e := a.cp.Effect("s", 1); len(e.Gone) != 1 || e.Proven() {
			t.Errorf("its replica has died: %+v", e)
		}
		a.has("e")
		if e := a.cp.Effect("s", 1); !e.Proven() || len(e.Acked) != 1 {
			t.Errorf("it came to this one: %+v", e)
		}
	})
}

func TestOfManyProxiesAReplicaNamesTheSlowest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newCluster(ab(1, "1"))
		a, b := shared.replica(t, "a"), shared.replica(t, "b")
		var clients []*client
		for i := range routing.MaxAcks + 50 {
			clients = append(clients, b.has(fmt.Sprintf("e-%03d", i)))
		}
		if e := a.cp.Effect("s", 1); !e.Proven() || e.Total() != len(clients) {
			t.Errorf("all have it: %d of %d", e.AckedCount(), e.Total())
		}
		shared.edit("s", route(2, split{"1", 10000}))
		for _, c := range clients[3:] {
			c.accept("RDS +spec/s")
		}
		synctest.Wait()
		e := a.cp.Effect("s", 2)
		if e.Total() != len(clients) || e.AckedCount() != len(clients)-3 || len(e.Pending) != 3 || e.Pending[0].Node != "e-000" {
			t.Errorf("all but three: %d of %d, %+v", e.AckedCount(), e.Total(), e.Pending)
		}
		if size := len(shared.acks[[2]string{"s", "b"}].Proxies); size != routing.MaxAcks {
			t.Errorf("the record names %d", size)
		}
	})
}

// Two Envoys at two replicas: a rollback is proven at either only once both have acknowledged.
func TestARollbackIsProvenAcrossReplicasByRealEnvoys(t *testing.T) {
	spec, _, _ := twoVersions(t)
	shared := newCluster(spec)
	var planes []*controlPlane
	var envoys []*envoytest.Envoy
	var relays []*envoytest.Relay
	for _, id := range []string{"a", "b"} {
		shared.change(func() { shared.lives[id] = true })
		cp := serve(t, shared.source, "", func(o *discovery.Options) { o.Memory = as{shared, id} })
		relay := envoytest.NewRelay(t, cp.Address)
		e := envoytest.Start(t, envoytest.Config{Node: "edge-" + id, Servers: []string{relay.Address}})
		wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "2.0.3 ")
		planes, envoys, relays = append(planes, cp), append(envoys, e), append(relays, relay)
	}
	planes[0].effective(t, shop, 1, 2)
	relays[1].Cut()
	eventually(t, "b knows that its Envoy is gone", planes[1].Changes, func() bool { return len(planes[1].Effect(shop, 1).Gone) == 1 })
	shared.edit(shop, route(2, split{"2.0.3", 0}, split{"2.1.0", 10000}))
	eventually(t, "one of two", planes[0].Changes, func() bool {
		e := planes[0].Effect(shop, 2)
		return len(e.Acked) == 1 && len(e.Gone) == 1 && !e.Proven()
	})
	relays[1].Mend(planes[0].Address) // it comes back to the other one
	for _, cp := range planes {
		cp.effective(t, shop, 2, 2)
	}
	for _, e := range envoys {
		wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "2.1.0 ")
	}
}
