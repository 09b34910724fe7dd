package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/specproxy/specproxy/bench/report"
)

// aimRatio is that of a list of ten thousand to one of a thousand, and of a deploy among ten thousand to one among none.
const aimRatio = 1.5

// Summarise computes the summary of samples in JSON: the worst of the pages, the deploys, and each page by itself.
func Summarise(raw json.RawMessage) ([]report.Row, error) {
	var samples []Sample
	if err := json.Unmarshal(raw, &samples); err != nil {
		return nil, fmt.Errorf("samples of archive: %w", err)
	}
	took := map[string]map[int][]float64{}
	for _, s := range samples {
		if took[s.Op] == nil {
			took[s.Op] = map[int][]float64{}
		}
		took[s.Op][s.Size] = append(took[s.Op][s.Size], s.Ms)
	}
	var pages []report.Row
	worst := 0.0
	for _, op := range slices.Sorted(maps.Keys(took)) {
		if op == deployOp {
			continue
		}
		if len(took[op][few]) == 0 || len(took[op][many]) == 0 {
			return nil, fmt.Errorf("samples of archive: %s was not read from both lists", op)
		}
		row := report.Against(op, report.Median(took[op][many]), "ms", report.Median(took[op][few]))
		row.Aim, row.OK = "-", true
		pages = append(pages, row)
		worst = max(worst, *row.Ratio)
	}
	deploys := took[deployOp]
	if len(pages) == 0 || len(deploys[one]) == 0 || len(deploys[many]) == 0 {
		return nil, errors.New("samples of archive: there are no pages, or no deploys of both sizes")
	}
	ratio := report.Median(deploys[many]) / report.Median(deploys[one])
	deployed := report.Against("deploy_ms", report.Median(deploys[many]), "ms", report.Median(deploys[one]))
	deployed.Aim, deployed.OK = "-", true
	return append([]report.Row{
		report.Against("list_10k_vs_1k", worst, "x", 1).AtMost(aimRatio),
		report.Against("deploy_10k_vs_1", ratio, "x", 1).AtMost(aimRatio),
		deployed,
	}, pages...), nil
}

const deployOp = "deploy"
