package evidence

import (
	"encoding/json"
	"io"
	"testing"
)

// A small run is whole, the same every time but for its costs, and does not raise too many false alarms.
func TestRun(t *testing.T) {
	const runs = 40
	s, err := Run(t.Context(), Options{Runs: runs, Progress: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := Summarise(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.Name == "false_abort" && r.Value > 0.2 {
			t.Errorf("%d runs a cell: false alarms in %.2f of them", runs, r.Value)
		}
		if r.Name == "worked_example_harmed" && (!r.OK || r.Value < 1) {
			t.Errorf("the worked example harmed %v", r.Value)
		}
		if r.Name == "state_bytes" && !r.OK {
			t.Errorf("state of %v bytes", r.Value)
		}
	}
	cells, _, err := simulate(t.Context(), worlds()[0], runs)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range cells {
		if c != s.Cells[i] {
			t.Errorf("the same seed gave %+v and %+v", c, s.Cells[i])
		}
	}
}

// A run that is never stopped counts as infinite harm.
func TestARunThatNeverStopsIsInfiniteHarm(t *testing.T) {
	s := Samples{Runs: 3, Cells: []Cell{
		{World: "2 % and 2 %", Rule: ruleEvidence, Null: true, Executions: 3000}, {World: workedExample, Rule: ruleEvidence, Stopped: 1, Harmed: -1},
		{World: "2 % and 2 %", Rule: ruleZ}, {World: "2 % and 2 %", Rule: ruleArgo}, {World: "2 % to 4 %", Rule: ruleEvidence}, {World: "2 % to 10 %", Rule: ruleEvidence},
	}}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := Summarise(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.Name == "worked_example_harmed" && r.OK {
			t.Errorf("%+v", r)
		}
	}
}

func TestKayentaSeesAShiftAndNoneInTies(t *testing.T) {
	low, up := []float64{0, 0, 0.02, 0.01, 0.03, 0, 0.02, 0.01}, []float64{0.3, 0.25, 0.4, 0.28, 0.33, 0.31, 0.22, 0.27}
	if !high(up, low) || high(low, up) || high([]float64{0, 0, 0}, []float64{0, 0, 0}) {
		t.Errorf("high: %t %t %t", high(up, low), high(low, up), high([]float64{0, 0, 0}, []float64{0, 0, 0}))
	}
}
