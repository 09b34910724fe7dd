package drain

import (
	"encoding/json"
	"fmt"

	"github.com/specproxy/specproxy/bench/report"
)

// Summarise computes the report's rows from the samples: medians.
func Summarise(raw json.RawMessage) ([]report.Row, error) {
	var s Samples
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, err
	}
	var rows []report.Row
	var open []float64
	for _, row := range []struct {
		name        string
		multiplexed bool
		aim         float64
	}{{"cancel_10k_ms", false, 1000}, {"cancel_100k_ms", true, 5000}} {
		var last []float64
		for _, c := range s.Cancels {
			if c.Multiplexed == row.multiplexed {
				last = append(last, c.LastMs)
				open = append(open, float64(c.OpenBytes-c.IdleBytes)/float64(c.Exchanges))
			}
		}
		value, err := median(row.name, last)
		if err != nil {
			return nil, err
		}
		r := report.Row{Name: row.name, Value: value, Unit: "ms"}
		for _, p := range s.Peers {
			if p.Multiplexed == row.multiplexed {
				r = report.Against(row.name, value, "ms", p.LastMs)
			}
		}
		rows = append(rows, r.AtMost(row.aim))
	}
	var decide, ledger []float64
	for _, d := range s.Decides {
		decide = append(decide, d.Ms)
	}
	for _, l := range s.Ledgers {
		ledger = append(ledger, float64(l.Bytes)/float64(l.Executions))
	}
	for _, row := range []struct {
		name, unit string
		values     []float64
		aim        float64
	}{{"decide_100k_ms", "ms", decide, 500}, {"ledger_bytes", "bytes", ledger, 1024}, {"open_exchange_bytes", "bytes", open, 32768}} {
		value, err := median(row.name, row.values)
		if err != nil {
			return nil, err
		}
		rows = append(rows, report.Row{Name: row.name, Value: value, Unit: row.unit}.AtMost(row.aim))
	}
	return rows, nil
}

func median(name string, values []float64) (float64, error) {
	if len(values) == 0 {
		return 0, fmt.Errorf("there is no sample for %s", name)
	}
	return report.Median(values), nil
}
