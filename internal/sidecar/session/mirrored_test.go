package session

import (
	"testing"
	"time"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
)

// Numbers only grow, also where the clock stands or goes back; a reader gets all that is kept, once, in parts.
func TestMirroredAreToldInOrderFromTheOldestThatIsKept(t *testing.T) {
	var m mirrors
	const n = 2 * keepMirrored
	for i := range n {
		m.add(&sidecarv1.Mirrored{Pair: "p"}, start.Add(-time.Duration(i%3)*time.Second))
	}
	var told uint64
	count := 0
	for more := true; more; {
		var next []*sidecarv1.Mirrored
		if next, more = m.after(told, batchSize); len(next) == 0 {
			t.Fatal("nothing, though there is said to be more")
		}
		for _, x := range next {
			if x.GetSeq() <= told {
				t.Fatalf("%d after %d", x.GetSeq(), told)
			}
			told = x.GetSeq()
			count++
		}
	}
	if count < keepMirrored || count > keepMirrored+keepMirrored/8 {
		t.Errorf("%d are kept, want about %d", count, keepMirrored)
	}
	if next, more := m.after(told, batchSize); len(next) != 0 || more {
		t.Errorf("%d told again", len(next))
	}
}
