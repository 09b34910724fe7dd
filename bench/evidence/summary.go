package evidence

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/specproxy/specproxy/bench/report"
)

// alpha that false alarms are held against.
const alpha = 0.05

// median where some values are infinite; -1 if it is itself.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	m := sorted[(len(sorted)-1)/2]
	if math.IsInf(m, 1) {
		return -1
	}
	return m
}

// Summarise computes the report's rows from the samples.
func Summarise(raw json.RawMessage) ([]report.Row, error) {
	var s Samples
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, err
	}
	worst, nulls := 0.0, 0
	for _, c := range s.Cells {
		if c.Rule == ruleEvidence && c.Null && c.Executions >= 3000 {
			worst, nulls = max(worst, c.share(s.Runs)), nulls+1
		}
	}
	if nulls == 0 || s.Runs == 0 {
		return nil, fmt.Errorf("there is no sample for false_abort")
	}
	worked, err := s.cell(ruleEvidence, workedExample)
	if err != nil {
		return nil, err
	}
	harmed := report.Row{Name: "worked_example_harmed", Value: worked.Harmed, Unit: "executions"}.AtMost(10)
	harmed.OK = harmed.OK && worked.Harmed >= 0
	z, err := s.cell(ruleZ, "2 % and 2 %")
	if err != nil {
		return nil, err
	}
	rows := []report.Row{
		report.Against("false_abort", worst, "share", z.share(s.Runs)).AtMost(alpha),
		harmed,
		report.Row{Name: "ns_per_outcome", Value: s.Costs.NsPerFailure, Unit: "ns"}.AtMost(1000),
		report.Row{Name: "state_bytes", Value: float64(max(s.Costs.StateBytes, s.Costs.FullBytes)), Unit: "bytes"}.AtMost(4096),
	}
	// What is known from elsewhere about two of the rules: the simulation is the same one.
	for _, known := range []struct {
		name, rule string
		share      float64
	}{{"false_abort_z", ruleZ, 0.395}, {"false_abort_windows", ruleArgo, 0.93}} {
		c, err := s.cell(known.rule, "2 % and 2 %")
		if err != nil {
			return nil, err
		}
		row := report.Against(known.name, c.share(s.Runs), "share", known.share)
		row.Aim, row.OK = "within 0.03 of peer", math.Abs(c.share(s.Runs)-known.share) <= 0.03
		rows = append(rows, row)
	}
	for _, power := range []struct{ name, world string }{{"power_2_to_4", "2 % to 4 %"}, {"power_2_to_10", "2 % to 10 %"}, {"power_2_to_29", workedExample}} {
		c, err := s.cell(ruleEvidence, power.world)
		if err != nil {
			return nil, err
		}
		rows = append(rows, report.Row{Name: power.name, Value: c.share(s.Runs), Unit: "share", Aim: "shown", OK: true})
	}
	return rows, nil
}

func (s Samples) cell(rule, world string) (Cell, error) {
	for _, c := range s.Cells {
		if c.Rule == rule && c.World == world {
			return c, nil
		}
	}
	return Cell{}, fmt.Errorf("there is no sample of %s in %s", rule, world)
}

func (c Cell) share(runs int) float64 { return float64(c.Stopped) / float64(runs) }
