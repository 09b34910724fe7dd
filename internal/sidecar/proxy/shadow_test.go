package proxy_test

import (
	"net/http"
	"testing"

	"github.com/specproxy/specproxy/internal/drain"
)

var completing = drain.Contract{Default: drain.Action{OnRollback: drain.Complete}}

// toldShadow is an agent that says whether it was told that a request is a copy, and fails it.
func toldShadow(told chan<- string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told <- r.Header.Get("X-Spec-Shadow") + r.Header.Get("X-Spec-Mirror")
		w.Header().Set("X-Spec-Outcome", "failure")
	})
}

// A request is a copy if it names this version as the one that gets copies, and was not handed over: whatever else it says.
func TestCopiesAreToldAndCountedApart(t *testing.T) {
	for _, c := range []struct {
		name, mirror, hop string
		copied, told      bool
	}{
		{"a copy", "2.1.0 5 p1", "", true, true},
		{"a request that was copied", "2.2.0 5 p1", "", false, true},
		{"a request of a copied one's, handed over here", "2.1.0 5 p1", "1", false, true},
		{"a request like others", "", "", false, false},
		{"what is not understood", "2.1.0 p1", "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			told := make(chan string, 1)
			r := newRig(t, completing, toldShadow(told))
			res := r.do(r.request(http.MethodPost, "/", "{}", "X-Spec-Mirror", c.mirror, "X-Spec-Hop", c.hop, "X-Spec-Route", "3", "X-Spec-Shadow", "true"))
			if res.StatusCode != http.StatusOK {
				t.Fatalf("status %d", res.StatusCode)
			}
			want := ""
			if c.copied {
				want = "true"
			}
			if got := get(t, "the agent's request", told); got != want {
				t.Errorf("the agent was told %q, want %q", got, want)
			}
			if c.told {
				m := get(t, "what was mirrored", r.mirrored)
				if m.isCopy != c.copied || m.Pair != "p1" || m.Since != 5 || m.row.Outcome != drain.Failure {
					t.Errorf("told %+v", m)
				}
			}
			if !c.copied {
				r.endedRow()
			}
			all, copies := r.ledger.Totals(), r.shadows.Totals()
			if c.copied && (all.Started != 0 || copies.Failed != 1 || len(r.ledger.Routed())+len(r.shadows.Routed()) != 0) || !c.copied && (all.Failed != 1 || copies.Started != 0) {
				t.Errorf("counted %+v, and of copies %+v", all, copies)
			}
		})
	}
}

func TestCopiesAreRefusedWhereTheyMustNotRun(t *testing.T) {
	told := make(chan string, 10)
	addr, got := target(t, "a")
	r := newRig(t, completing, toldShadow(told))
	status := func() int {
		return r.do(r.request(http.MethodPost, "/", "{}", "X-Spec-Mirror", "2.1.0 5 p1")).StatusCode
	}
	if s := status(); s != http.StatusOK {
		t.Fatalf("status %d", s)
	}
	<-told
	r.fence(addr)
	if s := status(); s != http.StatusServiceUnavailable || r.proxy.PassedOn() != 0 || len(got) != 0 {
		t.Errorf("fenced: status %d, passed on %d", s, r.proxy.PassedOn())
	}
	r.state(nil)
	r.proxy.Shadows = nil // the manifest does not say that it is safe
	if s := status(); s != http.StatusServiceUnavailable || len(told) != 0 {
		t.Errorf("not declared safe: status %d, the agent got %d requests", s, len(told))
	}
	r.proxy.Shadows = r.shadows
	r.proxy.NoShadows()
	if s := status(); s != http.StatusServiceUnavailable || len(told) != 0 {
		t.Errorf("leaving: status %d, the agent got %d requests", s, len(told))
	}
}

// Whatever the contract says of what the copy did: nobody waits for it.
func TestRunningCopiesAreCutAtOnce(t *testing.T) {
	agent := newHeld()
	r := newRig(t, drain.Contract{Effects: drain.Reported, Default: drain.Action{OnRollback: drain.Complete}}, agent)
	response := r.later(r.request(http.MethodPost, "/", "{}", "X-Spec-Mirror", "2.1.0 5 p1"))
	id := get(t, "the agent's request", agent.reached).Header.Get("X-Execution-Id")
	x, ok := r.shadows.Join(id)
	if !ok {
		t.Fatalf("no copy %s runs", id)
	}
	x.Report(drain.Act{Tool: "refund", Class: drain.EffectsIrreversible})
	r.proxy.EndShadows()
	_ = get(t, "the cut of the agent's request", agent.cut)
	if res := get(t, "the answer", response); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status %d", res.StatusCode)
	}
	if m := get(t, "what was mirrored", r.mirrored); m.row.Outcome != "" || !m.isCopy {
		t.Errorf("told %+v, want an unknown outcome", m)
	}
	if n := r.proxy.Acted(); n != 1 {
		t.Errorf("%d copies acted, want 1", n)
	}
}
