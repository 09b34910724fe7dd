package postmortem_test

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/specproxy/specproxy/internal/postmortem"
)

// TestFiguresAreComputedOnceForWhatTheRecordSays: however many ask, and anew as soon as the record says anything else of its rollbacks.
func TestFiguresAreComputedOnceForWhatTheRecordSays(t *testing.T) {
	var figures postmortem.Figures
	record, _ := canaried(t, 4)
	want := postmortem.Derive(record)
	got := make([][]postmortem.Found, 8)
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() { got[i] = figures.Of(record) })
	}
	all.Wait()
	for i := range got {
		if &got[i][0] != &got[0][0] {
			t.Fatal("they are computed more than once")
		}
	}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("they are not what is derived: -want +got\n%s", diff)
	}
	altered, _ := canaried(t, 4)
	altered.Rollbacks[0].Evidence.Totals[1].Failed++
	if other := figures.Of(altered)[0].Analysis; other.Bad.Failed != want[0].Analysis.Bad.Failed+1 {
		t.Errorf("of another state they are %+v, those of %+v", other.Bad, want[0].Analysis.Bad)
	}
}
