package edge

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/specproxy/specproxy/bench/report"
)

// aim of both ratios: an Envoy must not notice how many specs there are that it does not use.
const aim = 1.3

// Summarise computes the summary of samples in JSON.
func Summarise(raw json.RawMessage) ([]report.Row, error) {
	var samples []Sample
	if err := json.Unmarshal(raw, &samples); err != nil {
		return nil, fmt.Errorf("samples of edge: %w", err)
	}
	resident, ready := map[int][]float64{}, map[int][]float64{}
	for _, s := range samples {
		resident[s.Specs] = append(resident[s.Specs], float64(s.ResidentBytes))
		ready[s.Specs] = append(ready[s.Specs], s.ReadyMs)
	}
	if len(ready[few]) == 0 || len(ready[many]) == 0 {
		return nil, errors.New("samples of edge: one of the two control planes has none")
	}
	ratio := func(name string, of map[int][]float64) report.Row {
		return report.Against(name, report.Median(of[many])/report.Median(of[few]), "x", 1).AtMost(aim)
	}
	const mb = 1e6
	shown := []report.Row{
		report.Against("rss", report.Median(resident[many])/mb, "MB", report.Median(resident[few])/mb),
		report.Against("ready_ms", report.Median(ready[many]), "ms", report.Median(ready[few])),
	}
	for i := range shown {
		shown[i].Aim, shown[i].OK = "-", true
	}
	return append([]report.Row{ratio("rss_10k_vs_10", resident), ratio("ready_10k_vs_10", ready)}, shown...), nil
}
