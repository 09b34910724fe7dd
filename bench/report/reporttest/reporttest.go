// Package reporttest holds what the tests of every benchmark's summary have in common.
package reporttest

import (
	"encoding/json"
	"testing"

	"github.com/specproxy/specproxy/bench/report"
)

// Summary is what samples come to, by the rows' names.
func Summary(t *testing.T, summarise report.Summarise, samples any) map[string]report.Row {
	t.Helper()
	raw, err := json.Marshal(samples)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := summarise(raw)
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]report.Row, len(rows))
	for _, r := range rows {
		named[r.Name] = r
	}
	return named
}

// VerifyRecorded computes the summary of the one report in testdata, which a real run has written, again.
func VerifyRecorded(t *testing.T, summarise report.Summarise) {
	t.Helper()
	reports, err := report.ReadAll("testdata")
	if err != nil {
		t.Fatal(err)
	}
	if len(reports) != 1 {
		t.Fatalf("%d reports in testdata", len(reports))
	}
	if err := reports[0].Verify(summarise); err != nil {
		t.Error(err)
	}
}
