package fanout

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/specproxy/specproxy/bench/report"
)

const (
	// Aims: times of the bare broadcast, and of flips in quiet.
	p99Aim, cpuAim, publishingAim = 1.2, 1.1, 1.5
	// alike is how much the bytes of two servers that send the same may differ: each adds its own windows and pings.
	alike = 0.05
)

// Summarise computes the summary of samples in JSON.
func Summarise(raw json.RawMessage) ([]report.Row, error) {
	var s Samples
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("samples of fanout: %w", err)
	}
	var rows []report.Row
	for _, l := range loads {
		of, err := s.compare(l.streams)
		if err != nil {
			return nil, err
		}
		rows = append(rows, of...)
	}
	for _, l := range loads {
		m := map[string]float64{}
		for _, of := range s.Memory {
			if of.Streams == l.streams {
				m[of.Server] = float64(of.FullBytes-of.EmptyBytes) / float64(l.streams)
			}
		}
		name := "bytes_per_stream"
		if l.streams != loads[len(loads)-1].streams {
			name = fmt.Sprintf("%s_%d", name, l.streams)
		}
		rows = append(rows, shown(report.Against(name, m[ours], "B", m[bare])))
	}
	var quiet, published []float64
	for _, f := range s.Publishing {
		if f.Published {
			published = append(published, f.P99Ms)
		} else {
			quiet = append(quiet, f.P99Ms)
		}
	}
	if len(quiet) == 0 || len(published) == 0 {
		return nil, errors.New("samples of fanout: there are no flips while specs are published, or none without")
	}
	during := report.Against("flip_during_publish", report.Percentile(published, 99)/report.Percentile(quiet, 99), "x", 1).AtMost(publishingAim)
	median := report.Against("flip_during_publish_ms", report.Median(published), "ms", report.Median(quiet))
	return append(rows, during, shown(median)), nil
}

func shown(r report.Row) report.Row {
	r.Aim, r.OK = "-", true
	return r
}

// compare makes the rows of one number of streams: medians of the ratios in each pair of turns.
func (s Samples) compare(streams int) ([]report.Row, error) {
	p99, cpu, bytes := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	for _, t := range s.Turns {
		if t.Streams != streams || len(t.Flips) == 0 {
			continue
		}
		var all []float64
		for _, f := range t.Flips {
			all = append(all, f.P99Ms)
		}
		p99[t.Server] = append(p99[t.Server], report.Median(all))
		cpu[t.Server] = append(cpu[t.Server], t.CPUMs/float64(len(t.Flips)))
		bytes[t.Server] = append(bytes[t.Server], float64(t.Bytes)/float64(len(t.Flips)*streams))
	}
	for _, server := range []string{ours, bare, linear} {
		if n := len(p99[server]); n != pairs {
			return nil, fmt.Errorf("samples of fanout: %s has %d turns with %d streams", server, n, streams)
		}
	}
	over := func(of map[string][]float64, peer string) float64 {
		ratios := make([]float64, pairs)
		for i := range ratios {
			ratios[i] = of[ours][i] / of[peer][i]
		}
		return report.Median(ratios)
	}
	name := func(format string) string { return fmt.Sprintf(format, streams) }
	ms := func(of map[string][]float64, what, peer string) report.Row {
		return shown(report.Against(what, report.Median(of[ours]), "ms", report.Median(of[peer])))
	}
	return []report.Row{
		report.Against(name("vs_bare_%d"), over(p99, bare), "x", 1).AtMost(p99Aim),
		report.Against(name("cpu_vs_bare_%d"), over(cpu, bare), "x", 1).AtMost(cpuAim),
		report.Against(name("vs_linear_%d"), over(p99, linear), "x", 1).AtMost(1),
		report.Against(name("cpu_vs_linear_%d"), over(cpu, linear), "x", 1).AtMost(1),
		ms(p99, name("p99_ms_%d"), bare), ms(cpu, name("cpu_ms_%d"), bare),
		report.Against(name("bytes_%d"), report.Median(bytes[ours]), "B", report.Median(bytes[bare])).Within(alike),
	}, nil
}

// Fair refuses a comparison with a broadcast that sent something else.
func Fair(rows []report.Row) error {
	for _, l := range loads {
		for _, r := range rows {
			if r.Name == fmt.Sprintf("bytes_%d", l.streams) && !r.OK {
				return fmt.Errorf("a flip to one of %d streams took %.0f bytes, and the bare broadcast %.0f: they are not the same message", l.streams, r.Value, value(r.Peer))
			}
		}
	}
	return nil
}

func value(f *float64) float64 {
	if f == nil {
		return math.NaN()
	}
	return *f
}
