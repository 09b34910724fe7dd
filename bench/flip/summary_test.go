package flip_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/specproxy/specproxy/bench/flip"
	"github.com/specproxy/specproxy/bench/report/reporttest"
)

// fleets has samples of every fleet; those with 10,000 specs are as given, in ms.
func fleets(ours, ourBytes, single, singleBytes float64) []flip.Sample {
	return []flip.Sample{
		{Layout: "scoped", Specs: 1, EffectMs: 4, PushedBytes: 900},
		{Layout: "scoped", Specs: 100, EffectMs: 5, PushedBytes: 900},
		{Layout: "scoped", Specs: 10_000, EffectMs: ours, PushedBytes: int64(ourBytes)},
		{Layout: "single", Specs: 1, EffectMs: 1, PushedBytes: 350},
		{Layout: "single", Specs: 100, EffectMs: 2, PushedBytes: 5000},
		{Layout: "single", Specs: 10_000, EffectMs: single, PushedBytes: int64(singleBytes)},
	}
}

func TestSummaryOfSamples(t *testing.T) {
	rows := reporttest.Summary(t, flip.Summarise, append(fleets(6, 900, 210, 600_000), fleets(7, 950, 180, 600_000)...))
	for _, want := range []struct {
		name        string
		value, peer float64
		ok          bool
	}{
		{"vs_single_rc", 30, 1, true},
		{"pushed_bytes", 925, 600_000, true},
		{"vs_one_spec", 6.99 / 4, 1, true},
		{"single_rc_ms", 195, 205, true},
		{"single_rc_bytes", 600_000, 607_000, true},
		{"effect_ms_10000", 6.5, 195, true},
	} {
		r, ok := rows[want.name]
		if !ok {
			t.Errorf("there is no row %s", want.name)
			continue
		}
		if math.Abs(r.Value-want.value) > 1e-9 || *r.Peer != want.peer || r.OK != want.ok {
			t.Errorf("%s: value %v, peer %v, ok %v; want %+v", want.name, r.Value, *r.Peer, r.OK, want)
		}
	}
}

// What ours is compared with must be as good as it once was; if it is not, that is said.
func TestAComparisonThatIsNotFairFails(t *testing.T) {
	for _, c := range []struct {
		ms, bytes float64
		fair      bool
	}{
		{205, 607_000, true}, {250, 470_000, true}, {300, 607_000, false}, {205, 900_000, false},
	} {
		raw, err := json.Marshal(fleets(6, 900, c.ms, c.bytes))
		if err != nil {
			t.Fatal(err)
		}
		rows, err := flip.Summarise(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := flip.Fair(rows); (err == nil) != c.fair {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestRecordedReport recomputes the summary of a report that a real run has written.
func TestRecordedReport(t *testing.T) { reporttest.VerifyRecorded(t, flip.Summarise) }

func TestMissedAims(t *testing.T) {
	rows := reporttest.Summary(t, flip.Summarise, fleets(20, 1024, 205, 607_000))
	for _, name := range []string{"vs_single_rc", "pushed_bytes", "vs_one_spec"} {
		if r := rows[name]; r.OK || r.Name == "" {
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
