package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/envoytest"
)

// stale is a control plane with three proxies, one of which can be cut off from it.
type stale struct {
	*world
	spec      string
	flips     *flips
	relay     *envoytest.Relay
	cut       *envoytest.Envoy
	fresh     []*envoytest.Envoy
	good, bad []*agent
	sidecars  []*process // of the good version
}

// TestAProxyThatIsCutOffStartsNothingOnAnAbandonedVersion rolls back while one of three proxies cannot hear of it. It routes to the abandoned
// version for ever; the fence at that version's sidecars is what stops it.
func TestAProxyThatIsCutOffStartsNothingOnAnAbandonedVersion(t *testing.T) {
	t.Parallel() // it mostly waits
	t.Run("it has served both versions", func(t *testing.T) { cutOff(t, true, false) })
	t.Run("it has served the abandoned version alone", func(t *testing.T) { cutOff(t, false, false) })
	t.Run("the target moves meanwhile", func(t *testing.T) { cutOff(t, false, true) })
}

func cutOff(t *testing.T, both, moves bool) {
	s := startStale(t, both)
	var asked atomic.Bool // for the rollback
	load := s.load("", func() []string {
		if asked.Load() {
			return []string{older, newer}
		}
		return []string{newer}
	})
	for _, tr := range load {
		tr.warm(t)
	}
	s.acked(s.spec, 3)
	// Whatever the cut proxy has served, it has the way out and where that listens.
	if got := endpoints(t, s.cut, s.spec, older); len(got) != 2 {
		t.Errorf("the cut proxy knows %q of %s, want both its instances", got, older)
	}
	end := begin(load, 35)
	defer end()
	s.relay.Cut()
	s.alone()
	asked.Store(true)
	change := s.rollback(s.spec)
	effect := s.effective(s.spec, change.GetGeneration())
	if effect.GetBy() != "fence" || effect.GetFencesAcked() != 2 || effect.GetFencesTotal() != 2 || effect.GetProxiesTotal() != 3 || effect.GetProxiesAcked() > 2 {
		t.Errorf("effect %v; want 2 of 2 fences, and that the fence alone is the proof", effect)
	}
	if all := effect.GetLaggards(); len(all) != 1 || !strings.HasPrefix(all[0], "proxy "+s.cut.Node+":") {
		t.Errorf("laggards %q; want %s alone", all, s.cut.Node)
	}

	// Whatever is sent from here on was sent after the proof.
	late := s.load("late-", func() []string { return []string{older} })
	endLate := begin(late, 35)
	defer endLate()
	answered(t, late, 50)
	end()
	if moves {
		s.move()
		answered(t, late, 50)
	}
	endLate()
	for _, tr := range slices.Concat(load, late) {
		tr.report(t)
	}
	s.checkBegun(late)
	if e := s.effective(s.spec, change.GetGeneration()); e.GetBy() != "fence" {
		t.Errorf("the cut proxy has acknowledged: %v", e)
	}
	s.relay.Mend(s.grpc)
	s.acked(s.spec, 3)
}

// startStale deploys the good version and then the bad one, with two instances each. The proxy to be cut is there from the start, and has served
// both, or comes when the bad version has all the traffic.
func startStale(t *testing.T, both bool) *stale {
	s := &stale{world: startXDS(t), spec: "shop", flips: newFlips()}
	s.relay = envoytest.NewRelay(t, s.grpc)
	s.fresh = []*envoytest.Envoy{s.envoy("fresh-1"), s.envoy("fresh-2")}
	if both {
		s.cut = s.envoyVia(s.relay.Address, "cut")
	}
	for _, version := range []string{older, newer} {
		s.publish(s.spec, version, completeContract)
		for range 2 {
			a := startAgent(t, version, s.flips)
			p := s.sidecar(s.spec+":"+version, a.url)
			if version == older {
				s.good, s.sidecars = append(s.good, a), append(s.sidecars, p)
			} else {
				s.bad = append(s.bad, a)
			}
		}
		s.ready(s.spec, version, 2)
		s.deploy(s.spec, version)
		if version == older && both {
			newTraffic(t, s.spec+".agents", s.cut.Address, s.flips, nil).warm(t)
		}
	}
	if !both {
		s.cut = s.envoyVia(s.relay.Address, "cut")
	}
	return s
}

// move replaces the good version's sidecars by others, at other addresses.
func (s *stale) move() {
	s.t.Helper()
	for _, a := range s.good {
		s.sidecar(s.spec+":"+older, a.url)
	}
	s.ready(s.spec, older, 4)
	for _, p := range s.sidecars {
		p.terminate()
		eventually(s.t, "end of a sidecar", func() error {
			s.flips.add() // its streams wait for one
			select {
			case <-p.done:
				return nil
			default:
				return errors.New("it runs")
			}
		})
	}
	s.ready(s.spec, older, 2)
}

// answered waits until each load has got n more answers.
func answered(t *testing.T, load []*traffic, n int) {
	t.Helper()
	for _, tr := range load {
		before := tr.total()
		eventually(t, fmt.Sprintf("%d more answers to %s*", n, tr.prefix), func() error {
			if got := tr.total() - before; got < n {
				return fmt.Errorf("%d answers", got)
			}
			return nil
		})
	}
}

// load makes traffic for every proxy; ids say through which one it went.
func (s *stale) load(prefix string, answers func() []string) []*traffic {
	s.t.Helper()
	var out []*traffic
	for _, e := range append([]*envoytest.Envoy{s.cut}, s.fresh...) {
		tr := newTraffic(s.t, s.spec+".agents", e.Address, s.flips, func(int, int) []string { return answers() })
		tr.prefix = prefix + e.Node + "-"
		out = append(out, tr)
	}
	return out
}

func begin(all []*traffic, rate int) (end func()) {
	ends := make([]func(), 0, len(all))
	for _, tr := range all {
		ends = append(ends, tr.begin(rate))
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// alone waits until the control plane knows that the cut proxy is not connected.
func (s *stale) alone() {
	s.t.Helper()
	eventually(s.t, "end of the cut proxy's stream", func() error {
		res, err := s.client.ListProxies(s.t.Context(), connect.NewRequest(&operatorv1.ListProxiesRequest{}))
		if err != nil {
			return err
		}
		for _, p := range res.Msg.GetProxies() {
			if p.GetNode() == s.cut.Node && p.GetConnected() {
				return errors.New("it is connected")
			}
		}
		return nil
	})
}

// checkBegun counts at the agents themselves: what was sent after the proof began at the good ones, once each.
func (s *stale) checkBegun(late []*traffic) {
	s.t.Helper()
	for _, a := range s.bad {
		for id := range a.ids() {
			if strings.HasPrefix(id, "late-") {
				s.t.Errorf("%s, sent after the proof, began on the abandoned version", id)
			}
		}
	}
	for _, tr := range late {
		began := 0
		for _, a := range s.good {
			for id, times := range a.ids() {
				if strings.HasPrefix(id, tr.prefix) {
					began += times
				}
			}
		}
		if began != tr.total() {
			s.t.Errorf("%d executions of %s* began on the good version; %d requests were sent", began, tr.prefix, tr.total())
		}
	}
}
