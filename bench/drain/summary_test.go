package drain_test

import (
	"encoding/json"
	"testing"

	"github.com/specproxy/specproxy/bench/drain"
)

func TestSummaryOfSamples(t *testing.T) {
	raw, err := json.Marshal(drain.Samples{
		Cancels: []drain.Cancel{
			{Exchanges: 10, LastMs: 900, OpenBytes: 1000}, {Exchanges: 10, LastMs: 1100, IdleBytes: 1000, OpenBytes: 3000}, {Exchanges: 10, LastMs: 950, OpenBytes: 1000},
			{Exchanges: 100, Multiplexed: true, LastMs: 6000, OpenBytes: 4_000_000},
		},
		Decides: []drain.Decide{{Executions: 100, Ms: 3}, {Executions: 100, Ms: 600}, {Executions: 100, Ms: 4}},
		Peers:   []drain.Peer{{Exchanges: 100, Multiplexed: true, LastMs: 3000}},
		Ledgers: []drain.Ledger{{Executions: 10, Bytes: 7000}},
	})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := drain.Summarise(raw)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]struct {
		value float64
		ok    bool
	}{
		"cancel_10k_ms": {950, true}, "cancel_100k_ms": {6000, false}, "decide_100k_ms": {4, true}, "ledger_bytes": {700, true}, "open_exchange_bytes": {150, true},
	}
	for _, r := range rows {
		if peered := r.Name == "cancel_100k_ms"; peered != (r.Peer != nil) || peered && *r.Ratio != 2 {
			t.Errorf("%s: peer %v, ratio %v", r.Name, r.Peer, r.Ratio)
		}
		if w, ok := want[r.Name]; !ok || r.Value != w.value || r.OK != w.ok {
			t.Errorf("%s: %v, ok %v", r.Name, r.Value, r.OK)
		}
		delete(want, r.Name)
	}
	if len(want) > 0 {
		t.Errorf("rows missing: %v", want)
	}
	if _, err := drain.Summarise([]byte(`{}`)); err == nil {
		t.Error("a summary of nothing")
	}
}
