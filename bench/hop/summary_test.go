package hop_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/bench/hop"
	"github.com/specproxy/specproxy/bench/report"
)

// samples of every load on every proxy: ours does half as much as Envoy in the same time, and adds 300 us where Envoy adds 100.
func samples() []hop.Sample {
	var all []hop.Sample
	for _, load := range []string{"http1", "http2", "grpc", "sse", "big", "delay", "idle"} {
		for proxy, count := range map[string]int{"specproxy": 500, "envoy": 1000, "httputil": 250, "caddy": 200, "none": 5000} {
			p99 := map[string]float64{"specproxy": 400, "envoy": 200, "httputil": 500, "caddy": 600, "none": 100}[proxy]
			s := hop.Sample{Proxy: proxy, Load: load, Count: count, Seconds: 1, CPUSeconds: 1, P50Us: p99 / 2, P99Us: p99, ResidentBytes: 1000 * int64(count)}
			for round := range 3 {
				s.Round = round
				all = append(all, s)
			}
		}
	}
	return all
}

func TestSummary(t *testing.T) {
	raw, err := json.Marshal(samples())
	if err != nil {
		t.Fatal(err)
	}
	rows, err := hop.Summarise(raw)
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]report.Row{}
	for _, r := range rows {
		named[r.Name] = r
	}
	for _, want := range []struct {
		name        string
		value, peer float64
		ok          bool
	}{
		{"http1_rps_per_cpu", 500, 1000, false},
		{"http2_rps_per_cpu", 500, 1000, false}, // 0.5 is not 0.6
		{"grpc_rps_per_cpu", 500, 1000, false},
		{"sse_events_per_cpu", 500, 1000, false},
		{"p99_added", 300, 100, false}, // what the agent takes itself is not added
		{"idle_stream_bytes", 1000, 1000, true},
		{"http1_vs_httputil", 500, 250, true},
		{"p99_added_vs_caddy", 300, 500, true},
	} {
		r, ok := named[want.name]
		if !ok || r.Value != want.value || r.Peer == nil || *r.Peer != want.peer || r.OK != want.ok {
			t.Errorf("%s: %+v, want %+v", want.name, r, want)
		}
	}
}

func TestSummaryWantsEveryProxyUnderEveryLoad(t *testing.T) {
	var some []hop.Sample
	for _, s := range samples() {
		if s.Proxy != "envoy" || s.Load != "grpc" {
			some = append(some, s)
		}
	}
	raw, err := json.Marshal(some)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hop.Summarise(raw); err == nil || !strings.Contains(err.Error(), "envoy under grpc") {
		t.Errorf("a proxy without a sample: %v", err)
	}
}

func TestChildRefusesWhatItIsNot(t *testing.T) {
	if err := hop.Child(t.Context(), []string{"other"}, os.Stdout, os.Stderr); err == nil {
		t.Error("no error")
	}
}
