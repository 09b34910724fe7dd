package fleet

import (
	"cmp"
	"context"
	"slices"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/store"
)

// keepRecords is how many records of executions are kept of one version: of those that failed or were cut, as many of those that did not and
// did more than read, and as many of those that an order let complete. The oldest go first, and are counted.
const keepRecords = 20_000

// trim drops the oldest batches of versions that have too many.
func (f *Fleet) trim(ctx context.Context) {
	view := f.store.View()
	if err := f.trimShutdowns(ctx, view); err != nil {
		f.log.Error("drop old records of shutdowns", zap.Error(err))
	}
	for _, ref := range view.Recorded("") {
		err := f.trimBatches(ctx, view.Failures(ref.Spec, ref.Version), (*store.Tx).DropFailures)
		if err == nil {
			err = f.trimBatches(ctx, view.Acts(ref.Spec, ref.Version), (*store.Tx).DropActs)
		}
		if err == nil {
			err = f.trimBatches(ctx, view.Settled(ref.Spec, ref.Version), (*store.Tx).DropSettled)
		}
		if err != nil {
			f.log.Error("drop old records of executions", zap.Stringer("version", ref), zap.Error(err))
			return
		}
	}
}

func (f *Fleet) trimBatches(ctx context.Context, batches []store.FailureBatch, drop func(tx *store.Tx, drop, next store.FailureBatch)) error {
	total := 0
	for _, b := range batches {
		total += len(b.Executions)
	}
	if total <= keepRecords {
		return nil
	}
	slices.SortStableFunc(batches, func(a, b store.FailureBatch) int { return cmp.Compare(a.Seq, b.Seq) })
	for len(batches) > 1 && total > keepRecords {
		_, err := f.store.Update(ctx, func(tx *store.Tx) error { drop(tx, batches[0], batches[1]); return nil })
		if err != nil {
			return err
		}
		total -= len(batches[0].Executions)
		batches[1].Omitted += batches[0].Omitted + uint64(len(batches[0].Executions))
		batches = batches[1:]
	}
	return nil
}
