// Package report is the one shape of all benchmark results, and the table they are shown in.
//
// Invariants: a report holds every sample it was computed from; its summary is a pure function of them; the package measures nothing.
package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
)

// Report is one run of one benchmark.
type Report struct {
	Bench string `json:"bench"`
	// Commit of the tree that was measured, with "-dirty" if it had changes.
	Commit string `json:"commit"`
	// Machine in words: system, processors, toolchain.
	Machine string          `json:"machine"`
	Summary []Row           `json:"summary"`
	Samples json.RawMessage `json:"samples"`
}

// Row is one figure of a summary.
type Row struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Peer is the figure that Value is compared with, in the same unit; null where there is none.
	Peer *float64 `json:"peer"`
	// Ratio is Value / Peer.
	Ratio *float64 `json:"ratio"`
	// Aim in words, such as "<= 1.5".
	Aim string `json:"aim"`
	OK  bool   `json:"ok"`
}

// Against makes a row that compares value with peer.
func Against(name string, value float64, unit string, peer float64) Row {
	r := Row{Name: name, Value: value, Unit: unit, Peer: &peer}
	if peer != 0 {
		ratio := value / peer
		r.Ratio = &ratio
	}
	return r
}

// AtMost sets the aim that Value must not pass.
func (r Row) AtMost(limit float64) Row {
	r.Aim, r.OK = "<= "+strconv.FormatFloat(limit, 'g', -1, 64), r.Value <= limit
	return r
}

// AtLeastTimes sets the aim that Value reaches so many times Peer; without a peer it is missed.
func (r Row) AtLeastTimes(times float64) Row {
	r.Aim, r.OK = ">= "+strconv.FormatFloat(times, 'g', -1, 64)+" x peer", r.Ratio != nil && *r.Ratio >= times
	return r
}

// AtMostTimes sets the aim that Value is not more than so many times Peer.
func (r Row) AtMostTimes(times float64) Row {
	r.Aim, r.OK = "<= "+strconv.FormatFloat(times, 'g', -1, 64)+" x peer", r.Peer != nil && r.Value <= times**r.Peer
	return r
}

// AtLeast sets the aim that Value must reach.
func (r Row) AtLeast(limit float64) Row {
	r.Aim, r.OK = ">= "+strconv.FormatFloat(limit, 'g', -1, 64), r.Value >= limit
	return r
}

// Within sets the aim that Ratio must be off 1 by no more than share.
func (r Row) Within(share float64) Row {
	r.Aim = "ratio 1 +- " + strconv.FormatFloat(share, 'g', -1, 64)
	r.OK = r.Ratio != nil && math.Abs(*r.Ratio-1) <= share
	return r
}

// Summarise computes a summary from samples in JSON.
type Summarise func(samples json.RawMessage) ([]Row, error)

// Verify recomputes the summary, and refuses a report whose own differs.
func (r Report) Verify(summarise Summarise) error {
	rows, err := summarise(r.Samples)
	if err != nil {
		return fmt.Errorf("report %s: its samples: %w", r.Bench, err)
	}
	want, err := json.Marshal(rows)
	if err != nil {
		return fmt.Errorf("report %s: %w", r.Bench, err)
	}
	got, err := json.Marshal(r.Summary)
	if err != nil {
		return fmt.Errorf("report %s: %w", r.Bench, err)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("report %s: its summary is not what its samples say: run the benchmark again\nsummary %s\nsamples %s", r.Bench, got, want)
	}
	return nil
}

// Write puts the report into dir as NAME.json; a reader sees the old one or the new one, whole.
func (r Report) Write(dir string) (path string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("report directory: %w", err)
	}
	var data bytes.Buffer
	enc := json.NewEncoder(&data)
	enc.SetEscapeHTML(false) // Aims are to be read.
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return "", fmt.Errorf("report %s: %w", r.Bench, err)
	}
	path = filepath.Join(dir, r.Bench+".json")
	unfinished := path + ".new"
	if err := os.WriteFile(unfinished, data.Bytes(), 0o644); err != nil {
		return "", fmt.Errorf("report %s: %w", r.Bench, err)
	}
	if err := os.Rename(unfinished, path); err != nil {
		return "", fmt.Errorf("report %s: %w", r.Bench, err)
	}
	return path, nil
}

// ReadAll returns the reports in dir, by name; none if there is no such directory.
func ReadAll(dir string) ([]Report, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("report directory: %w", err)
	}
	slices.Sort(paths)
	var all []Report
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("report: %w", err)
		}
		var r Report
		if err := json.Unmarshal(data, &r); err != nil {
			return nil, fmt.Errorf("report %s: %w: delete it and run the benchmark again", path, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// Table prints the summaries.
func Table(w io.Writer, reports []Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BENCH\tFIGURE\tVALUE\tUNIT\tPEER\tRATIO\tAIM\tOK\tCOMMIT")
	for _, r := range reports {
		for _, row := range r.Summary {
			ok := "no"
			if row.OK {
				ok = "yes"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
				r.Bench, row.Name, figure(&row.Value), row.Unit, figure(row.Peer), figure(row.Ratio), row.Aim, ok, r.Commit)
		}
	}
	return t.Flush()
}

func figure(f *float64) string {
	if f == nil {
		return "-"
	}
	return strconv.FormatFloat(*f, 'g', 4, 64)
}
