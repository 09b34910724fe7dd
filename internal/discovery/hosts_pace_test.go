package discovery_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// Where many proxies are connected, hosts that come one after the other come to each proxy together, and a flip waits for none of them.
func TestManyProxiesAreToldOfHostsTogetherAndOfFlipsAtOnce(t *testing.T) {
	const clients = 150
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ab(1, "1"))
		crowd := make([]*client, clients)
		for i := range crowd {
			crowd[i] = w.has(fmt.Sprintf("e-%03d", i))
			crowd[i].subscribe(envoy.TypeScope)
			crowd[i].accept("SRDS +s.agents")
		}
		all := func(want ...string) {
			t.Helper()
			for _, c := range crowd {
				c.accept(want...)
			}
			synctest.Wait()
		}
		host := func(name string) { w.src.put(specOf(name, 1, []split{{"1", 10000}}, nil)) }
		<-time.After(time.Second) // a quiet time
		host("a")
		all("SRDS +a.agents")
		host("b")
		synctest.Wait()
		host("c")
		w.src.edit("s", route(2, split{"1", 10000}))
		all("RDS +spec/s")
		if e := w.cp.Effect("s", 2); !e.Proven() || len(e.Acked) != clients {
			t.Errorf("the flip waits behind hosts: %d of %d", len(e.Acked), clients)
		}
		<-time.After(time.Second)
		all("SRDS +b.agents +c.agents")
		<-time.After(time.Second)
		w.src.remove("a")
		all("SRDS -a.agents")
		all()
	})
}
