package hop

import (
	"encoding/json"
	"fmt"

	"github.com/specproxy/specproxy/bench/report"
)

// Aims, as shares of Envoy's figure in the same turns.
const (
	aimHTTP1, aimHTTP2, aimGRPC, aimEvents = 1.0, 0.6, 0.6, 1.0
	aimDelay                               = 1.5
)

// measured are the proxies, ours first.
var measured = []string{"specproxy", "envoy", "httputil", "caddy"}

// figures are the medians over the rounds, by load and proxy.
type figures map[string]map[string]float64

func (f figures) row(name, load, peer, unit string) report.Row {
	return report.Against(name, f[load][measured[0]], unit, f[load][peer])
}

// Summarise computes the summary of samples in JSON.
func Summarise(raw json.RawMessage) ([]report.Row, error) {
	var samples []Sample
	if err := json.Unmarshal(raw, &samples); err != nil {
		return nil, fmt.Errorf("samples of hop: %w", err)
	}
	f := figures{}
	for _, load := range []string{"http1", "http2", "grpc", "sse", "big"} {
		f.median(load, samples, load, func(s Sample) float64 { return float64(s.Count) / max(s.CPUSeconds, 0.01) })
	}
	f.median("delay", samples, "delay", func(s Sample) float64 { return s.P99Us })
	f.median("delay50", samples, "delay", func(s Sample) float64 { return s.P50Us })
	f.median("event99", samples, "sse", func(s Sample) float64 { return s.P99Us })
	f.median("event50", samples, "sse", func(s Sample) float64 { return s.P50Us })
	f.median("idle", samples, "idle", func(s Sample) float64 { return float64(s.ResidentBytes) / float64(max(s.Count, 1)) })
	for _, load := range []string{"http1", "http2", "grpc", "sse", "big", "delay", "idle"} {
		for _, p := range measured {
			if f[load][p] == 0 {
				return nil, fmt.Errorf("samples of hop: none of %s under %s", p, load)
			}
		}
	}
	for _, load := range []string{"delay", "delay50", "event99", "event50"} {
		for _, p := range measured {
			f[load][p] = max(f[load][p]-f[load]["none"], 0)
		}
	}
	rows := []report.Row{
		f.row("http1_rps_per_cpu", "http1", "envoy", "1/s").AtLeastTimes(aimHTTP1),
		f.row("http2_rps_per_cpu", "http2", "envoy", "1/s").AtLeastTimes(aimHTTP2),
		f.row("grpc_rps_per_cpu", "grpc", "envoy", "1/s").AtLeastTimes(aimGRPC),
		f.row("sse_events_per_cpu", "sse", "envoy", "1/s").AtLeastTimes(aimEvents),
		f.row("p99_added", "delay", "envoy", "us").AtMostTimes(aimDelay),
		f.row("p50_added", "delay50", "envoy", "us").AtMostTimes(aimDelay),
		f.row("sse_p99_added", "event99", "envoy", "us").AtMostTimes(aimDelay),
		f.row("sse_p50_added", "event50", "envoy", "us").AtMostTimes(aimDelay),
		f.row("mb_bodies_per_cpu", "big", "envoy", "1/s").AtLeastTimes(aimHTTP1),
		f.row("idle_stream_bytes", "idle", "envoy", "bytes").AtMost(idleLimit),
	}
	for _, peer := range measured[2:] {
		for _, load := range []string{"http1", "http2", "grpc", "sse", "big"} {
			rows = append(rows, f.row(load+"_vs_"+peer, load, peer, "1/s").AtLeastTimes(1))
		}
		rows = append(rows, f.row("p99_added_vs_"+peer, "delay", peer, "us").AtMostTimes(1), f.row("idle_stream_bytes_vs_"+peer, "idle", peer, "bytes").AtMost(idleLimit))
	}
	return rows, nil
}

// idleLimit bounds the memory of one idle stream, both connections included.
const idleLimit = 48 << 10

func (f figures) median(name string, samples []Sample, load string, figure func(Sample) float64) {
	by := map[string][]float64{}
	for _, s := range samples {
		if s.Load == load {
			by[s.Proxy] = append(by[s.Proxy], figure(s))
		}
	}
	f[name] = map[string]float64{}
	for proxy, values := range by {
		f[name][proxy] = report.Median(values)
	}
}
