package fanout_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/specproxy/specproxy/bench/fanout"
	"github.com/specproxy/specproxy/bench/report/reporttest"
)

// samples has five turns of every server at both sizes; ours takes so many times the bare broadcast's time and processor time.
func samples(p99, cpu, during float64, bytes int64) fanout.Samples {
	var s fanout.Samples
	for _, streams := range []int{1_000, 8_000} {
		for server, times := range map[string][2]float64{"specproxy": {p99, cpu}, "bare": {1, 1}, "linear": {2, 2}} {
			for pair := range 5 {
				slow := float64(1 + pair) // a pair is slow or quick as a whole
				size := int64(streams) * 1_000
				if server == "specproxy" {
					size = int64(streams) * bytes
				}
				s.Turns = append(s.Turns, fanout.Turn{
					Server: server, Streams: streams, Pair: pair, CPUMs: 20 * slow * times[1], Bytes: size, Flips: []fanout.Flip{{P99Ms: 30 * slow * times[0]}},
				})
			}
			s.Memory = append(s.Memory, fanout.Memory{Server: server, Streams: streams, EmptyBytes: 1e6, FullBytes: 1e6 + int64(streams)*50_000})
		}
	}
	s.Publishing = []fanout.Publishing{{Flip: fanout.Flip{P99Ms: 10}}, {Published: true, Flip: fanout.Flip{P99Ms: 10 * during}}}
	return s
}

func TestSummaryOfSamples(t *testing.T) {
	rows := reporttest.Summary(t, fanout.Summarise, samples(1.2, 1.1, 1.5, 1_000))
	for name, want := range map[string]float64{
		"vs_bare_1000": 1.2, "cpu_vs_bare_1000": 1.1, "vs_linear_1000": 0.6, "cpu_vs_linear_1000": 0.55, "p99_ms_1000": 108, "bytes_8000": 1_000,
		"vs_bare_8000": 1.2, "cpu_vs_bare_8000": 1.1, "bytes_per_stream": 50_000, "bytes_per_stream_1000": 50_000, "flip_during_publish": 1.5,
	} {
		if r, ok := rows[name]; !ok || math.Abs(r.Value-want) > 1e-6 || !r.OK {
			t.Errorf("%s: %+v, want %v", name, r, want)
		}
	}
}

func TestMissedAims(t *testing.T) {
	rows := reporttest.Summary(t, fanout.Summarise, samples(2.1, 2.1, 1.6, 1_000))
	for _, name := range []string{
		"vs_bare_1000", "cpu_vs_bare_1000", "vs_linear_1000", "cpu_vs_linear_1000", "vs_bare_8000", "cpu_vs_bare_8000", "vs_linear_8000",
		"cpu_vs_linear_8000", "flip_during_publish",
	} {
		if r := rows[name]; r.OK || r.Name == "" {
			t.Errorf("%s: %v passes for %s", name, r.Value, r.Aim)
		}
	}
}

// A broadcast of something else is no comparison.
func TestAComparisonThatIsNotFairFails(t *testing.T) {
	for bytes, fair := range map[int64]bool{1_000: true, 960: true, 900: false, 1_100: false} {
		raw, err := json.Marshal(samples(1, 1, 1, bytes))
		if err != nil {
			t.Fatal(err)
		}
		rows, err := fanout.Summarise(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := fanout.Fair(rows); (err == nil) != fair {
			t.Errorf("%d bytes: %v", bytes, err)
		}
	}
}

func TestSamplesThatSayNothing(t *testing.T) {
	short := samples(1, 1, 1, 1_000)
	short.Turns = short.Turns[1:]
	quiet := samples(1, 1, 1, 1_000)
	quiet.Publishing = quiet.Publishing[:1]
	for _, s := range []any{short, quiet, fanout.Samples{}, []int{}, "x"} {
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if rows, err := fanout.Summarise(raw); err == nil {
			t.Errorf("samples %.60s gave %v", raw, rows)
		}
	}
}

// TestRecordedReport recomputes the summary of a report that a real run has written.
func TestRecordedReport(t *testing.T) { reporttest.VerifyRecorded(t, fanout.Summarise) }
