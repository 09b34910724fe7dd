package flip_test

import (
	"encoding/json"
	"testing"

	"github.com/specproxy/specproxy/bench/flip"
	"github.com/specproxy/specproxy/bench/report"
)

func summarise(t *testing.T, samples []flip.Sample) map[string]report.Row {
	t.Helper()
	raw, err := json.Marshal(samples)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := flip.Summarise(raw)
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]report.Row, len(rows))
	for _, r := range rows {
		named[r.Name] = r
	}
	return named
}

func TestSummaryOfSamples(t *testing.T) {
	rows := summarise(t, []flip.Sample{
		{Specs: 1, EffectMs: 2, PushedBytes: 200},
		{Specs: 1, EffectMs: 4, PushedBytes: 200},
		{Specs: 1, EffectMs: 90, PushedBytes: 210},
		{Specs: 1000, EffectMs: 5, PushedBytes: 300},
		{Specs: 1000, EffectMs: 6, PushedBytes: 300},
		{Specs: 1000, EffectMs: 80, PushedBytes: 900_000},
	})
	for _, want := range []struct {
		name               string
		value, peer, ratio float64
		ok                 bool
	}{
		{"vs_one_spec", 1.5, 1, 1.5, true},
		{"pushed_bytes", 300, 200, 1.5, true},
		{"effect_ms", 6, 4, 1.5, true},
	} {
		r, ok := rows[want.name]
		if !ok {
			t.Errorf("there is no row %s", want.name)
			continue
		}
		if r.Value != want.value || *r.Peer != want.peer || *r.Ratio != want.ratio || r.OK != want.ok {
			t.Errorf("%s: value %v, peer %v, ratio %v, ok %v; want %+v", want.name, r.Value, *r.Peer, *r.Ratio, r.OK, want)
		}
	}
}

// TestRecordedReport recomputes the summary of a report that a real run has written.
func TestRecordedReport(t *testing.T) {
	reports, err := report.ReadAll("testdata")
	if err != nil {
		t.Fatal(err)
	}
	if len(reports) != 1 {
		t.Fatalf("%d reports in testdata", len(reports))
	}
	if err := reports[0].Verify(flip.Summarise); err != nil {
		t.Error(err)
	}
}

func TestMissedAims(t *testing.T) {
	for name, r := range summarise(t, []flip.Sample{
		{Specs: 1, EffectMs: 10, PushedBytes: 200},
		{Specs: 1000, EffectMs: 100, PushedBytes: 607_000},
	}) {
		if r.OK {
			t.Errorf("%s: %v passes for %s", name, r.Value, r.Aim)
		}
	}
}

func TestSamplesThatSayNothing(t *testing.T) {
	for _, raw := range []string{`[]`, `[{"specs":1,"effectMs":1}]`, `[{"specs":1000,"effectMs":1}]`, `{}`, ``} {
		if rows, err := flip.Summarise(json.RawMessage(raw)); err == nil {
			t.Errorf("samples %s gave %v", raw, rows)
		}
	}
}
