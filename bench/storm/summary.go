package storm

import (
	"encoding/json"
	"fmt"

	"github.com/specproxy/specproxy/bench/report"
)

const (
	// aims: memory does not grow between the second and the last fifth of the rounds, and the API answers.
	growthAim, askAim = 1.1, 1_000
)

// Summarise computes the summary of samples in JSON.
func Summarise(raw json.RawMessage) ([]report.Row, error) {
	var all []Round
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("samples of storm: %w", err)
	}
	fifth := len(all) / 5
	if fifth == 0 {
		return nil, fmt.Errorf("samples of storm: %d rounds are too few", len(all))
	}
	of := func(rounds []Round, fn func(Round) float64) []float64 {
		out := make([]float64, len(rounds))
		for i, r := range rounds {
			out[i] = fn(r)
		}
		return out
	}
	resident := func(r Round) float64 { return float64(r.ResidentBytes) }
	sync := of(all, func(r Round) float64 { return r.SyncMs })
	early, last := report.Median(of(all[fifth:2*fifth], resident)), report.Median(of(all[len(all)-fifth:], resident))
	shown := func(r report.Row) report.Row {
		r.Aim, r.OK = "-", true
		return r
	}
	alone := func(name string, value float64, unit string) report.Row {
		return report.Row{Name: name, Value: value, Unit: unit}
	}
	const mb = 1e6
	return []report.Row{
		shown(alone("sync_ms", report.Median(sync), "ms")),
		shown(alone("sync_worst_ms", report.Percentile(sync, 100), "ms")),
		alone("resources_pushed", report.Percentile(of(all, func(r Round) float64 { return float64(r.Resources) }), 100), "").AtMost(0),
		shown(alone("bytes", report.Median(of(all, func(r Round) float64 { return float64(r.Bytes) })), "B")),
		report.Against("memory_growth", last/early, "x", 1).AtMost(growthAim),
		shown(report.Against("resident", last/mb, "MB", early/mb)),
		shown(alone("cpu_ms", report.Median(of(all, func(r Round) float64 { return r.CPUMs })), "ms")),
		alone("ask_worst_ms", report.Percentile(of(all, func(r Round) float64 { return r.AskMs }), 100), "ms").AtMost(askAim),
	}, nil
}
