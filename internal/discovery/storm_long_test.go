//go:build long

package discovery_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"

	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// A thousand clients drop and come back together, five times, while one that is connected reads nothing. Nothing that they have is sent again, all
// of them count as proven as soon as they have come back, and what then changes reaches each of them.
func TestLongAStormPushesNothingAndASlowReaderDelaysNobody(t *testing.T) {
	const clients, rounds, others = 1000, 5, 3000
	synctest.Test(t, func(t *testing.T) {
		specs := []envoy.Spec{ab(1, "1")}
		for i := range others {
			specs = append(specs, specOf(fmt.Sprintf("other-%04d", i), 1, []split{{"1", 10000}}, nil))
		}
		w := newWorld(t, specs...)
		// It asks for more than fits into what it never reads.
		slow := w.dial("slow", grpc.WithInitialWindowSize(65535), grpc.WithInitialConnWindowSize(65535))
		defer slow.close()
		slow.subscribe(envoy.TypeScope)
		synctest.Wait()

		crowd := make([]*client, clients)
		for i := range crowd {
			crowd[i] = w.has(fmt.Sprintf("e-%04d", i))
		}
		spec := specs[0]
		for round := range rounds {
			have := map[string]map[string]string{}
			want := accountFor(t, spec)
			have[envoy.TypeCluster], have[envoy.TypeRoute] = want.clusters, want.routes
			have[envoy.TypeEndpoint] = assignmentsOf(t, spec)
			for _, c := range crowd {
				c.close()
			}
			if e := w.cp.Effect("s", spec.Route.Generation); len(e.Gone) != clients || e.Proven() {
				t.Fatalf("round %d: %d of %d are gone", round, len(e.Gone), clients)
			}
			before := len(w.cp.pushes.list())
			for i := range crowd {
				c := w.connect(fmt.Sprintf("e-%04d", i))
				c.resume(envoy.TypeCluster, have[envoy.TypeCluster])
				c.resume(envoy.TypeEndpoint, have[envoy.TypeEndpoint], slices.Sorted(maps.Keys(have[envoy.TypeCluster]))...)
				c.resume(envoy.TypeRoute, have[envoy.TypeRoute], envoy.RouteName("s"))
				crowd[i] = c
			}
			for _, c := range crowd {
				c.accept("CDS") // which says that there is nothing to say
			}
			synctest.Wait()
			if n, lines := w.cp.pushes.resources(before); n != 0 {
				t.Fatalf("round %d pushed %d resources: %v", round, n, lines[:min(n, 5)])
			}
			if e := w.cp.Effect("s", spec.Route.Generation); !e.Proven() || len(e.Acked) != clients {
				t.Fatalf("round %d: %d of %d are proven", round, len(e.Acked), clients)
			}
			spec = movedTo(spec, split{"1", 10000})
			w.src.put(spec)
			for _, c := range crowd {
				c.accept("RDS +spec/s")
			}
			synctest.Wait()
			if e := w.cp.Effect("s", spec.Route.Generation); !e.Proven() || len(e.Acked) != clients {
				t.Fatalf("round %d: the change after it is proven by %d of %d", round, len(e.Acked), clients)
			}
		}
	})
}

// assignmentsOf are the versions of a spec's endpoints.
func assignmentsOf(t *testing.T, spec envoy.Spec) map[string]string {
	t.Helper()
	res, err := envoy.Build(spec)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, a := range res.Assignments {
		out[a.Name] = a.Version
	}
	return out
}
