package fleet_test

import (
	"fmt"
	"testing"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
)

func (s *sidecar) mirrored(list ...*sidecarv1.Mirrored) {
	s.reports <- &sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Mirrored{Mirrored: &sidecarv1.MirroredBatch{Executions: list}}}
	// As in executions.
	s.reports <- &sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Mirrored{Mirrored: &sidecarv1.MirroredBatch{}}}
}

func told(since, seq uint64, version string, isCopy bool) *sidecarv1.Mirrored {
	return &sidecarv1.Mirrored{Pair: fmt.Sprint("p", seq), Since: since, Seq: seq, Version: version, Copy: isCopy, Outcome: "success"}
}

// A session begins with what the ones before have told, too; it is kept once. Of shadows only the newest is kept, and of what sidecars say only what
// fits their version.
func TestHalvesAreKeptOnceAndOfTheNewestShadow(t *testing.T) {
	f, _ := newFleet(t)
	stable, candidate := join(t, f, "1.0.0"), join(t, f, "1.1.0")
	stable.mirrored(told(5, 1, "1.1.0", false), told(5, 2, "1.1.0", false))
	candidate.mirrored(told(5, 1, "1.1.0", true), told(5, 3, "1.1.0", false)) // it cannot have served the request
	stable.mirrored(told(5, 1, "1.1.0", false), told(5, 2, "1.1.0", false), told(5, 3, "1.1.0", false))
	count := func(since uint64, requests, copies int) {
		t.Helper()
		var gotRequests, gotCopies int
		for _, h := range f.Mirrored("s", since) {
			if h.Copy {
				gotCopies++
			} else {
				gotRequests++
			}
		}
		if gotRequests != requests || gotCopies != copies {
			t.Errorf("of the shadow since %d: %d requests and %d copies, want %d and %d", since, gotRequests, gotCopies, requests, copies)
		}
	}
	count(5, 3, 1)
	stable.mirrored(told(9, 4, "1.1.0", false), told(5, 5, "1.1.0", false))
	count(5, 0, 0)
	count(9, 1, 0)
	if p := f.Mirrored("other", 9); p != nil {
		t.Errorf("of another spec: %v", p)
	}
}

// Copies are counted apart from all else, also across restarts of a sidecar.
func TestCopiesAreCountedApart(t *testing.T) {
	f, records := newFleet(t)
	s := join(t, f, "1.1.0")
	s.totals(&sidecarv1.Totals{Started: 2, Succeeded: 1, Shadow: &sidecarv1.Shadow{Started: 9, Succeeded: 5, Failed: 2, Unknown: 1, InFlight: 1, Acted: 1}})
	s.executions(true)
	p := f.Pool(records.View(), "s", "1.1.0")
	if p.Started != 2 || p.Succeeded != 1 || p.Failed != 0 || p.InFlight != 0 {
		t.Errorf("copies are among the others: %+v", p)
	}
	if c := p.Shadow; c.Started != 9 || c.Succeeded != 5 || c.Failed != 2 || c.Unknown != 1 || c.InFlight != 1 || c.Acted != 1 {
		t.Errorf("copies are counted as %+v", c)
	}
}
