package fleet_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/store"
)

// A sidecar may send what it likes: what the manifest allows is kept, of the first and the last, and what was erased does not come back.
func TestExcerptsAreBoundedByTheManifest(t *testing.T) {
	f, records := newFleet(t)
	update := func(change func(tx *store.Tx)) {
		t.Helper()
		if _, err := records.Update(t.Context(), func(tx *store.Tx) error { change(tx); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	update(func(tx *store.Tx) {
		v, _ := tx.Version("s", "1.0.0")
		v.Manifest.Capture = capture.Rules{Request: 10}
		tx.PutVersion(v)
	})
	began := time.Now()
	tell := func(s *sidecar, n int) {
		x := ended(fmt.Sprint("x", n), "failure")
		x.StartedAt = timestamppb.New(began.Add(time.Duration(n) * time.Second))
		s.reports <- &sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Executions{Executions: &sidecarv1.ExecutionBatch{
			Executions: []*sidecarv1.Execution{x},
			Excerpts: []*sidecarv1.Excerpt{
				{Execution: x.GetId(), Request: &sidecarv1.ExcerptPart{Text: fmt.Sprint("asked ", n)}, Response: &sidecarv1.ExcerptPart{Text: strings.Repeat("x", 11)}},
				{Execution: "of nothing that is told", Request: &sidecarv1.ExcerptPart{Text: "x"}},
			},
		}}}
		s.executions(false)
	}
	kept := func(version string) (texts []string) {
		for _, e := range records.View().Excerpts("s", version) {
			if e.Response.Text != "" || e.Response.Missing == "" {
				t.Errorf("more was kept than the manifest allows: %+v", e)
			}
			texts = append(texts, e.Request.Text)
		}
		slices.Sort(texts)
		return texts
	}
	s := join(t, f, "1.0.0")
	for _, n := range []int{5, 4, 0, 1, 9, 2, 3, 6, 8, 7} {
		tell(s, n)
	}
	if got, want := kept("1.0.0"), []string{"asked 0", "asked 1", "asked 2", "asked 7", "asked 8", "asked 9"}; !slices.Equal(got, want) {
		t.Errorf("kept %q, want %q", got, want)
	}
	update(func(tx *store.Tx) {
		for _, e := range tx.Excerpts("s", "1.0.0") {
			e.Request, e.Erased = capture.Part{Missing: "it was erased"}, true
			tx.PutExcerpt(e)
		}
	})
	tell(s, 9)
	if got := strings.Join(kept("1.0.0"), ""); got != "" {
		t.Errorf("what was erased is back: %q", got)
	}
	tell(join(t, f, "1.1.0"), 1) // whose manifest captures nothing
	if got := kept("1.1.0"); len(got) > 0 {
		t.Errorf("kept %q", got)
	}
}
