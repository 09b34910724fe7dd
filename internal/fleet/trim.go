package fleet

import (
	"cmp"
	"context"
	"slices"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/store"
)

// keepFailures is how many records of failed executions are kept of one version. The oldest go first, and are counted.
const keepFailures = 20_000

// trim drops the oldest failure batches of versions that have too many.
func (f *Fleet) trim(ctx context.Context) {
	view := f.store.View()
	for _, spec := range view.Specs() {
		for _, record := range view.Versions(spec) {
			batches := view.Failures(spec, record.Version)
			total := 0
			for _, b := range batches {
				total += len(b.Executions)
			}
			if total <= keepFailures {
				continue
			}
			slices.SortStableFunc(batches, func(a, b store.FailureBatch) int { return cmp.Compare(a.Seq, b.Seq) })
			for len(batches) > 1 && total > keepFailures {
				_, err := f.store.Update(ctx, func(tx *store.Tx) error { tx.DropFailures(batches[0], batches[1]); return nil })
				if err != nil {
					f.log.Error("drop old failure records", zap.String("version", record.Ref().String()), zap.Error(err))
					return
				}
				total -= len(batches[0].Executions)
				batches[1].Omitted += batches[0].Omitted + uint64(len(batches[0].Executions))
				batches = batches[1:]
			}
		}
	}
}
