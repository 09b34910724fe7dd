package e2e

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/controlplane"
	"github.com/specproxy/specproxy/internal/envoytest"
)

// shortGrace is the time that a silent instance gets in these tests.
const shortGrace = 500 * time.Millisecond

func shorten(o *controlplane.Options) { o.Grace = shortGrace }

// instances waits until a version has n instances, silent ones included.
func (w *world) instances(spec, version string, n uint32) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d instances of %s:%s", n, spec, version), func() error {
		if p := w.pool(spec, version); p.GetInstances() != n {
			return fmt.Errorf("%v", p)
		}
		return nil
	})
}

// outlived returns when whatever is dead by now and may be removed has been: an instance of an unrouted version dies after it and is gone,
// and then another one, so at least one whole round of house-keeping has looked at everything.
func (w *world) outlived(spec, version, upstream string) {
	w.t.Helper()
	for range 2 {
		p := w.sidecar(spec+":"+version, upstream)
		w.ready(spec, version, 1)
		p.kill()
		w.instances(spec, version, 0)
	}
}

// TestAKilledSidecarCostsWhatWasInFlightThere kills one of two sidecars under traffic, later the other one.
func TestAKilledSidecarCostsWhatWasInFlightThere(t *testing.T) {
	const spec = "shop"
	w, f := startPlane(t, shorten), newFlips()
	w.publish(spec, older, completeContract)
	w.publish(spec, newer, completeContract)
	dying, living, spare := startAgent(t, older, f), startAgent(t, older, f), startAgent(t, newer, f)
	address := freeAddress(t)
	first := w.sidecar(spec+":"+older, dying.url)
	second := w.sidecar(spec+":"+older, living.url, "--listen", address)
	w.ready(spec, older, 2)
	w.deploy(spec, older)
	envoy := w.envoy("edge-1")
	tr := newTraffic(t, spec+".agents", envoy.Address, f, func(int, int) []string { return []string{older} })
	tr.warm(t)
	end := tr.begin(50)
	defer end()
	eventually(t, "streams at both sidecars", func() error {
		at := [2]int{}
		there, here := dying.ids(), living.ids()
		for id := range tr.unanswered() {
			if there[id] > 0 {
				at[0]++
			} else if here[id] > 0 {
				at[1]++
			}
		}
		if at[0] < 3 || at[1] < 3 {
			return fmt.Errorf("%v in flight", at)
		}
		return nil
	})
	if lost := tr.failed(); len(lost) > 0 {
		t.Fatalf("before the kill: %v", lost)
	}

	first.kill()
	sent := tr.unanswered()
	for _, fail := range tr.failed() {
		sent[fail.id] = struct{}{}
	}
	f.add()
	w.instances(spec, older, 1)
	eventually(t, "end of the dead endpoint", func() error {
		if got := endpoints(t, envoy, spec, older); !slices.Equal(got, []string{address}) {
			return fmt.Errorf("Envoy holds %v", got)
		}
		return nil
	})
	end()
	begun, others := dying.ids(), living.ids()
	broken := 0
	for _, fail := range tr.failed() {
		_, before := sent[fail.id]
		if !before || others[fail.id] > 0 {
			t.Errorf("%v: sent before the kill: %v, begun at the other sidecar: %d times", fail, before, others[fail.id])
		}
		if begun[fail.id] > 0 {
			broken++
		}
	}
	t.Logf("%d requests, %d were broken by the kill, %d of them at the agent", tr.total(), len(tr.failed()), broken)
	if broken == 0 {
		t.Error("nothing was in flight at the sidecar that was killed")
	}

	second.kill()
	w.outlived(spec, newer, spare.url)
	if p := w.pool(spec, older); p.GetInstances() != 1 || p.GetSilent() != 1 {
		t.Errorf("the last instance of the version that has all the traffic: %v", p)
	}
	if got := endpoints(t, envoy, spec, older); !slices.Equal(got, []string{address}) {
		t.Errorf("Envoy holds %v, want %s", got, address)
	}
	w.sidecar(spec+":"+older, living.url, "--listen", address)
	tr.warm(t)
}

// TestASilentSidecarThatAnswersStays cuts a sidecar off from the control plane for longer than the grace.
func TestASilentSidecarThatAnswersStays(t *testing.T) {
	const spec = "shop"
	w, f := startPlane(t, shorten), newFlips()
	w.publish(spec, older, completeContract)
	w.publish(spec, newer, completeContract)
	agent, spare := startAgent(t, older, f), startAgent(t, newer, f)
	relay := envoytest.NewRelay(t, w.grpc)
	w.sidecar(spec+":"+older, agent.url)
	w.sidecarVia(relay.Address, spec+":"+older, agent.url)
	w.ready(spec, older, 2)
	w.deploy(spec, older)
	envoy := w.envoy("edge-1")
	tr := newTraffic(t, spec+".agents", envoy.Address, f, func(int, int) []string { return []string{older} })
	tr.warm(t)
	held := endpoints(t, envoy, spec, older)
	end := tr.begin(50)
	defer end()

	relay.Cut()
	eventually(t, "silence", func() error {
		if w.pool(spec, older).GetSilent() != 1 {
			return errors.New("the control plane has not noticed")
		}
		return nil
	})
	w.outlived(spec, newer, spare.url)
	if p := w.pool(spec, older); p.GetInstances() != 2 || p.GetSilent() != 1 || p.GetReady() != 2 {
		t.Errorf("%v; want two instances, ready, one of them silent", p)
	}
	if got := endpoints(t, envoy, spec, older); !slices.Equal(got, held) || len(held) != 2 {
		t.Errorf("Envoy holds %v, held %v", got, held)
	}
	end()
	tr.report(t)
}
