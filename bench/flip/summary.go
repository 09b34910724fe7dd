package flip

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/specproxy/specproxy/bench/report"
)

// What is aimed at. The first is the claim of the layout: a flip costs the same however many specs there are.
const (
	aimRatio       = 1.5
	aimPushedBytes = 4096
	aimEffectMs    = 25
)

// Summarise computes the summary of samples in JSON.
func Summarise(raw json.RawMessage) ([]report.Row, error) {
	var samples []Sample
	if err := json.Unmarshal(raw, &samples); err != nil {
		return nil, fmt.Errorf("samples of flip: %w", err)
	}
	effect, pushed := map[int][]float64{}, map[int][]float64{}
	for _, s := range samples {
		effect[s.Specs] = append(effect[s.Specs], s.EffectMs)
		pushed[s.Specs] = append(pushed[s.Specs], float64(s.PushedBytes))
	}
	if len(effect[1]) == 0 || len(effect[many]) == 0 {
		return nil, errors.New("samples of flip: one of the two fleets has none")
	}
	one, all := report.Median(effect[1]), report.Median(effect[many])
	return []report.Row{
		report.Against("vs_one_spec", all/one, "x", 1).AtMost(aimRatio),
		report.Against("pushed_bytes", report.Median(pushed[many]), "bytes", report.Median(pushed[1])).AtMost(aimPushedBytes),
		report.Against("effect_ms", all, "ms", one).AtMost(aimEffectMs),
	}, nil
}
