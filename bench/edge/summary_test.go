package edge_test

import (
	"encoding/json"
	"testing"

	"github.com/specproxy/specproxy/bench/edge"
	"github.com/specproxy/specproxy/bench/report/reporttest"
)

func TestSummaryOfSamples(t *testing.T) {
	rows := reporttest.Summary(t, edge.Summarise, []edge.Sample{
		{Specs: 10, ReadyMs: 100, ResidentBytes: 60e6},
		{Specs: 10, ReadyMs: 300, ResidentBytes: 62e6},
		{Specs: 10, ReadyMs: 80, ResidentBytes: 60e6},
		{Specs: 10_000, ReadyMs: 125, ResidentBytes: 75e6},
		{Specs: 10_000, ReadyMs: 500, ResidentBytes: 90e6},
		{Specs: 10_000, ReadyMs: 110, ResidentBytes: 75e6},
	})
	for name, want := range map[string]float64{"rss_10k_vs_10": 1.25, "ready_10k_vs_10": 1.25, "rss": 75, "ready_ms": 125} {
		if r, ok := rows[name]; !ok || r.Value != want || !r.OK {
			t.Errorf("%s: %+v, want %v", name, r, want)
		}
	}
}

// TestRecordedReport recomputes the summary of a report that a real run has written.
func TestRecordedReport(t *testing.T) { reporttest.VerifyRecorded(t, edge.Summarise) }

func TestMissedAims(t *testing.T) {
	rows := reporttest.Summary(t, edge.Summarise, []edge.Sample{{Specs: 10, ReadyMs: 100, ResidentBytes: 60e6}, {Specs: 10_000, ReadyMs: 131, ResidentBytes: 79e6}})
	for _, name := range []string{"rss_10k_vs_10", "ready_10k_vs_10"} {
		if r := rows[name]; r.OK {
			t.Errorf("%s: %v passes for %s", name, r.Value, r.Aim)
		}
	}
}

func TestSamplesThatSayNothing(t *testing.T) {
	for _, raw := range []string{`[]`, `[{"specs":10,"readyMs":1}]`, `[{"specs":10000,"readyMs":1}]`, `{}`, ``} {
		if rows, err := edge.Summarise(json.RawMessage(raw)); err == nil {
			t.Errorf("samples %s gave %v", raw, rows)
		}
	}
}
