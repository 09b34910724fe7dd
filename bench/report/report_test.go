package report_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/bench/report"
)

func TestPercentile(t *testing.T) {
	for _, c := range []struct {
		values []float64
		p      float64
		want   float64
	}{
		{nil, 50, 0},
		{[]float64{7}, 99, 7},
		{[]float64{3, 1, 2}, 50, 2},
		{[]float64{4, 1, 3, 2}, 50, 2.5},
		{[]float64{1, 2, 3, 4, 5}, 0, 1},
		{[]float64{1, 2, 3, 4, 5}, 100, 5},
		{[]float64{0, 10}, 99, 9.9},
	} {
		if got := report.Percentile(c.values, c.p); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("percentile %v of %v = %v, want %v", c.p, c.values, got, c.want)
		}
	}
}

func TestMedianHasHalfOnEachSide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 50).Draw(t, "values")
		median := report.Median(values)
		var below, above int
		for _, v := range values {
			if v < median {
				below++
			}
			if v > median {
				above++
			}
		}
		if 2*below > len(values) || 2*above > len(values) {
			t.Fatalf("median %v has %d below and %d above of %d", median, below, above, len(values))
		}
	})
}

// double summarises samples that are numbers: their median against 2.
func double(raw json.RawMessage) ([]report.Row, error) {
	var values []float64
	if err := json.Unmarshal(raw, &values); err != nil {
		return nil, err
	}
	return []report.Row{report.Against("median", report.Median(values), "ms", 2).AtMost(4)}, nil
}

func TestWrittenReportVerifies(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out", "bench")
	samples := json.RawMessage(`[0.1,0.2,0.7]`)
	rows, err := double(samples)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (report.Report{Bench: "b", Commit: "c", Machine: "m", Summary: rows, Samples: samples}).Write(dir); err != nil {
		t.Fatal(err)
	}
	all, err := report.ReadAll(dir)
	if err != nil || len(all) != 1 {
		t.Fatalf("%d reports, %v", len(all), err)
	}
	if err := all[0].Verify(double); err != nil {
		t.Error(err)
	}
	all[0].Samples = json.RawMessage(`[0.1,0.3,0.7]`)
	if err := all[0].Verify(double); err == nil || !strings.Contains(err.Error(), "not what its samples say") {
		t.Errorf("a summary of other samples: err = %v", err)
	}
	all[0].Samples = json.RawMessage(`{}`)
	if err := all[0].Verify(double); err == nil {
		t.Error("samples of another shape were accepted")
	}
}

// TestShape holds the names that readers of the files rely on.
func TestShape(t *testing.T) {
	data, err := json.Marshal(report.Report{Samples: json.RawMessage(`[]`), Summary: []report.Row{{Name: "n"}}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"bench":"","commit":"","machine":"","summary":[{"name":"n","value":0,"unit":"","peer":null,"ratio":null,"aim":"","ok":false}],"samples":[]}`
	if string(data) != want {
		t.Errorf("shape is\n%s\nwant\n%s", data, want)
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	err := report.Table(&out, []report.Report{{Bench: "b", Commit: "c0ffee", Summary: []report.Row{
		report.Against("fast", 3, "ms", 2).AtMost(4),
		report.Against("slow", 5, "ms", 0).AtMost(4),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	want := "" +
		"BENCH  FIGURE  VALUE  UNIT  PEER  RATIO  AIM   OK   COMMIT\n" +
		"b      fast    3      ms    2     1.5    <= 4  yes  c0ffee\n" +
		"b      slow    5      ms    0     -      <= 4  no   c0ffee\n"
	if out.String() != want {
		t.Errorf("table is\n%s\nwant\n%s", out.String(), want)
	}
}

func TestReadAll(t *testing.T) {
	dir := t.TempDir()
	if all, err := report.ReadAll(filepath.Join(dir, "absent")); err != nil || len(all) != 0 {
		t.Errorf("no directory: %v, %v", all, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cut.json"), []byte(`{"bench":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := report.ReadAll(dir); err == nil || !strings.Contains(err.Error(), "cut.json") {
		t.Errorf("a damaged report: err = %v", err)
	}
}
