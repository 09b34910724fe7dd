package flip

import (
	"encoding/json"
	"fmt"

	"github.com/specproxy/specproxy/bench/report"
)

// What is aimed at. A flip costs the same however many specs there are.
const (
	aimAgainstSingle = 30
	aimPushedBytes   = 1023
	aimAgainstOne    = 2
)

// What the single layout cost when it was first measured, with 10,000 specs on two cores: median time to effect in ms, and bytes. If ours is to
// be compared with it, it must cost that again.
const (
	singleMs, singleBytes = 205, 607_000
	singleOff             = 0.25
)

// Rows that say whether the comparison is fair.
const (
	rowSingleMs, rowSingleBytes = "single_rc_ms", "single_rc_bytes"
)

// Summarise computes the summary of samples in JSON.
func Summarise(raw json.RawMessage) ([]report.Row, error) {
	var samples []Sample
	if err := json.Unmarshal(raw, &samples); err != nil {
		return nil, fmt.Errorf("samples of flip: %w", err)
	}
	type fleet struct {
		layout string
		specs  int
	}
	effect, pushed := map[fleet][]float64{}, map[fleet][]float64{}
	for _, s := range samples {
		f := fleet{s.Layout, s.Specs}
		effect[f] = append(effect[f], s.EffectMs)
		pushed[f] = append(pushed[f], float64(s.PushedBytes))
	}
	for _, layout := range []string{scoped, single} {
		for _, specs := range sizes {
			if len(effect[fleet{layout, specs}]) == 0 {
				return nil, fmt.Errorf("samples of flip: there are none of the %s layout with %d specs", layout, specs)
			}
		}
	}
	ours, one, peer := fleet{scoped, many}, fleet{scoped, 1}, fleet{single, many}
	median, p99 := report.Median, func(f fleet) float64 { return report.Percentile(effect[f], 99) }
	rows := []report.Row{
		report.Against("vs_single_rc", median(effect[peer])/median(effect[ours]), "x", 1).AtLeast(aimAgainstSingle),
		report.Against("pushed_bytes", median(pushed[ours]), "bytes", median(pushed[peer])).AtMost(aimPushedBytes),
		report.Against("vs_one_spec", p99(ours)/p99(one), "x", 1).AtMost(aimAgainstOne),
		report.Against(rowSingleMs, median(effect[peer]), "ms", singleMs).Within(singleOff),
		report.Against(rowSingleBytes, median(pushed[peer]), "bytes", singleBytes).Within(singleOff),
	}
	for _, specs := range sizes {
		rows = append(rows, told(report.Against(fmt.Sprintf("effect_ms_%d", specs), median(effect[fleet{scoped, specs}]), "ms", median(effect[fleet{single, specs}]))))
	}
	return rows, nil
}

// told is a row that is shown and aims at nothing.
func told(r report.Row) report.Row {
	r.Aim, r.OK = "-", true
	return r
}

// Fair says whether what is compared with is as good as it was, which the summary says too.
func Fair(rows []report.Row) error {
	for _, r := range rows {
		if (r.Name == rowSingleMs || r.Name == rowSingleBytes) && !r.OK {
			return fmt.Errorf("the single RouteConfiguration does not come within %g %% of what it cost when it was first measured: %s is %.4g %s, not %.4g",
				100*singleOff, r.Name, r.Value, r.Unit, *r.Peer)
		}
	}
	return nil
}
