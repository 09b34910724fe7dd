package archive_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/bench/archive"
	"github.com/specproxy/specproxy/bench/report"
)

func TestSummaryIsTheWorstPage(t *testing.T) {
	raw, err := json.Marshal([]archive.Sample{
		{Op: "versions/first", Size: 1_000, Ms: 2}, {Op: "versions/first", Size: 10_000, Ms: 3}, {Op: "versions/first", Size: 10_000, Ms: 90}, {Op: "versions/first", Size: 10_000, Ms: 1},
		{Op: "fleet/last", Size: 1_000, Ms: 4}, {Op: "fleet/last", Size: 10_000, Ms: 8},
		{Op: "deploy", Size: 1, Ms: 4}, {Op: "deploy", Size: 10_000, Ms: 5},
	})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := archive.Summarise(raw)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]report.Row{}
	for _, r := range rows {
		got[r.Name] = r
	}
	for name, want := range map[string]struct {
		value float64
		ok    bool
	}{"list_10k_vs_1k": {2, false}, "deploy_10k_vs_1": {1.25, true}, "versions/first": {3, true}, "fleet/last": {8, true}, "deploy_ms": {5, true}} {
		if r := got[name]; r.Value != want.value || r.OK != want.ok {
			t.Errorf("%s is %v, %v; want %v", name, r.Value, r.OK, want)
		}
	}
}

func TestSummaryOfTooLittle(t *testing.T) {
	for samples, want := range map[string]string{
		`{}`: "samples of archive",
		`[]`: "no pages",
		`[{"op":"fleet/first","size":1000,"ms":1}]`: "was not read from both",
		`[{"op":"fleet/first","size":1000,"ms":1},{"op":"fleet/first","size":10000,"ms":1},{"op":"deploy","size":1,"ms":1}]`: "no deploys of both",
	} {
		if _, err := archive.Summarise(json.RawMessage(samples)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", samples, err, want)
		}
	}
}
