package e2e

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/routing"
)

// held are the versions of a spec, sorted, of which an Envoy has the cluster.
func held(t testing.TB, e *envoytest.Envoy, spec string, versions ...string) []string {
	t.Helper()
	all, err := e.Clusters(t.Context())
	if err != nil {
		t.Fatalf("clusters of Envoy %s: %v", e.Node, err)
	}
	var out []string
	for _, v := range versions {
		if _, ok := all[routing.Cluster(spec, v)]; ok {
			out = append(out, v)
		}
	}
	return out
}

// TestAVersionLeavesEnvoyAfterItsDrainAndNotBefore replaces a version twice, so that it is not even the way out any more, while one execution
// runs there. Its pool leaves; the last instance stays for that execution, and so long does its cluster.
func TestAVersionLeavesEnvoyAfterItsDrainAndNotBefore(t *testing.T) {
	const spec = "shop"
	all := []string{"1.0.0", "1.1.0", "1.2.0", "1.3.0"}
	w, f := startPlane(t, nil), newFlips()
	agents, sidecars := map[string]*agent{}, map[string]*process{}
	for _, v := range all {
		agents[v] = startAgent(t, v, f)
		w.publish(spec, v, completeContract)
		sidecars[v] = w.sidecar(spec+":"+v, agents[v].url)
		w.ready(spec, v, 1)
	}
	w.deploy(spec, "1.0.0")
	e := w.envoy("edge-1")
	tr := newTraffic(t, spec+".agents", e.Address, f, nil)
	tr.warm(t)
	ended := make(chan error, 1)
	go func() {
		version, err := tr.sse(t.Context(), "long")
		if err == nil && version != "1.0.0" {
			err = fmt.Errorf("it ran under %s", version)
		}
		ended <- err
	}()
	eventually(t, "execution at 1.0.0", func() error {
		if agents["1.0.0"].ids()["long"] != 1 {
			return errors.New("not begun")
		}
		return nil
	})

	w.deploy(spec, "1.1.0")
	w.deploy(spec, "1.2.0")
	sidecars["1.0.0"].terminate()
	w.ready(spec, "1.0.0", 0)
	w.deploy(spec, "1.3.0") // whatever may leave leaves before the acknowledgement of a route that came after it
	w.acked(spec, 1)
	if got := held(t, e, spec, all...); !slices.Equal(got, all) {
		t.Errorf("while an execution runs under 1.0.0 Envoy has %q, want %q", got, all)
	}
	if got := endpoints(t, e, spec, "1.0.0"); len(got) != 1 {
		t.Errorf("the instance that runs it is at %q, want it to be there, draining", got)
	}
	select {
	case err := <-ended:
		t.Fatalf("the execution ended before its time: %v", err)
	default:
	}
	f.add()
	if err := <-ended; err != nil {
		t.Errorf("the execution: %v", err)
	}
	eventually(t, "end of 1.0.0 at Envoy", func() error {
		if got := held(t, e, spec, all...); !slices.Equal(got, all[1:]) {
			return fmt.Errorf("Envoy has %q", got)
		}
		return nil
	})
}
