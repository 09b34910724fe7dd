package storm_test

import (
	"encoding/json"
	"testing"

	"github.com/specproxy/specproxy/bench/report/reporttest"
	"github.com/specproxy/specproxy/bench/storm"
)

// rounds are twenty, each as the function says.
func rounds(fn func(i int) storm.Round) []storm.Round {
	out := make([]storm.Round, 20)
	for i := range out {
		out[i] = fn(i)
	}
	return out
}

func TestSummaryOfSamples(t *testing.T) {
	rows := reporttest.Summary(t, storm.Summarise, rounds(func(i int) storm.Round {
		return storm.Round{Round: i, SyncMs: float64(1000 + i), Bytes: 8_000, ResidentBytes: 500e6, CPUMs: 900, AskMs: 40}
	}))
	for name, want := range map[string]float64{
		"sync_ms": 1009.5, "sync_worst_ms": 1019, "resources_pushed": 0, "bytes": 8_000, "memory_growth": 1, "resident": 500, "cpu_ms": 900, "ask_worst_ms": 40,
	} {
		if r, ok := rows[name]; !ok || r.Value != want || !r.OK {
			t.Errorf("%s: %+v, want %v", name, r, want)
		}
	}
}

// One resource in one round, memory that grows with every round, one call that waits.
func TestMissedAims(t *testing.T) {
	rows := reporttest.Summary(t, storm.Summarise, rounds(func(i int) storm.Round {
		r := storm.Round{Round: i, SyncMs: 1, ResidentBytes: int64(100e6 + 2e6*i)}
		if i == 7 {
			r.Resources, r.AskMs = 1, 1_001
		}
		return r
	}))
	for _, name := range []string{"resources_pushed", "memory_growth", "ask_worst_ms"} {
		if r := rows[name]; r.OK || r.Name == "" {
			t.Errorf("%s: %v passes for %s", name, r.Value, r.Aim)
		}
	}
}

func TestSamplesThatSayNothing(t *testing.T) {
	for _, raw := range []string{`[]`, `[{"syncMs":1}]`, `{}`, ``} {
		if rows, err := storm.Summarise(json.RawMessage(raw)); err == nil {
			t.Errorf("samples %s gave %v", raw, rows)
		}
	}
}
