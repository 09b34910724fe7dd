package e2e

import (
	"sync"
	"testing"

	"github.com/specproxy/specproxy/internal/controlplane"
	"github.com/specproxy/specproxy/internal/discovery"
)

// completeContract lets everything that runs end under the abandoned version.
const completeContract = "default: {onRollback: complete, within: 5m, then: cancel}"

// flipUnderLoad deploys 1.1.0 and rolls back to 1.0.0 in turn, n flips in all, under traffic. Every cycle-th round trip, the pool that lost
// the traffic is replaced by a new one, so that its cluster leaves the proxies and comes back.
func flipUnderLoad(t *testing.T, order discovery.Order, n, cycle int) *traffic {
	const spec = "shop"
	w := startPlane(t, func(o *controlplane.Options) { o.Discovery = func(d *discovery.Options) { d.Order = order } })
	f := newFlips()
	old, next := startAgent(t, "1.0.0", f), startAgent(t, "1.1.0", f)
	w.publish(spec, "1.0.0", completeContract)
	w.publish(spec, "1.1.0", completeContract)
	for range 2 {
		w.sidecar(spec+":1.0.0", old.url)
	}
	pool := []*process{w.sidecar(spec+":1.1.0", next.url), w.sidecar(spec+":1.1.0", next.url)}
	w.ready(spec, "1.0.0", 2)
	w.ready(spec, "1.1.0", 2)
	w.deploy(spec, "1.0.0")
	envoy := w.envoy("edge-1")
	versions := []string{"1.0.0"} // that hold weight after each flip; guarded by mu
	var mu sync.Mutex
	tr := newTraffic(t, spec+".agents", envoy.Address, f, func(from, to int) []string {
		mu.Lock()
		defer mu.Unlock()
		// A flip takes effect before it is counted, and a command takes its time.
		return versions[min(from, len(versions)-1):min(to+2, len(versions))]
	})
	tr.warm(t)
	end := tr.begin(200)
	defer end()
	flip := func(version string, command func()) {
		mu.Lock()
		versions = append(versions, version)
		mu.Unlock()
		command()
		f.add()
	}
	for i := range n / 2 {
		flip("1.1.0", func() { w.deploy(spec, "1.1.0") })
		flip("1.0.0", func() {
			change := w.rollback(spec)
			w.closePostMortem(change.GetPostmortem(), "false-alarm")
		})
		if cycle > 0 && (i+1)%cycle == 0 {
			for _, p := range pool {
				p.terminate() // it stays until its last stream has ended, which may take one more flip
			}
			w.ready(spec, "1.1.0", 0)
			pool = []*process{w.sidecar(spec+":1.1.0", next.url), w.sidecar(spec+":1.1.0", next.url)}
			w.ready(spec, "1.1.0", 2)
		}
	}
	end()
	return tr
}

func TestAHundredFlipsUnderMixedTrafficLoseNothing(t *testing.T) {
	tr := flipUnderLoad(t, discovery.MakeBeforeBreak, 100, 10)
	for _, kind := range kinds {
		if tr.sent[kind] == 0 {
			t.Errorf("no %s was sent", kind)
		}
	}
	tr.report(t)
}

func TestRemovingTheClusterFirstIsSeenByTheSameTraffic(t *testing.T) {
	tr := flipUnderLoad(t, discovery.RemoveFirst, 10, 1)
	if len(tr.fails) == 0 {
		t.Error("removing clusters before routes lost nothing: the traffic of these tests cannot see a wrong order")
	}
}
