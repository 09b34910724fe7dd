package control

import (
	"cmp"
	"slices"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
)

// Failed lists the executions to redo: those whose outcome was a failure, and those that a rollback cancelled. An execution may have been
// reported more than once (failed while still open, then cancelled); its last report counts. Oldest first.
func Failed(batches []store.FailureBatch) []store.Failure {
	return chosen(batches, func(x store.Failure) bool { return x.Outcome == "failure" || x.Disposition == drain.Cancel })
}

// Decided lists the executions that have ended and that an order decided over, with why. Oldest first.
func Decided(view *store.View, f *fleet.Fleet, spec, version string) (all []store.Failure, omitted uint64) {
	batches := slices.Concat(view.Failures(spec, version), f.Acts(view, spec, version), f.Settled(view, spec, version))
	for _, b := range batches {
		omitted += b.Omitted
	}
	return chosen(batches, func(x store.Failure) bool { return x.Disposition != "" && !x.EndedAt.IsZero() }), omitted
}

func chosen(batches []store.FailureBatch, want func(store.Failure) bool) []store.Failure {
	batches = slices.Clone(batches)
	slices.SortStableFunc(batches, func(a, b store.FailureBatch) int { return cmp.Compare(a.Seq, b.Seq) })
	last := map[string]store.Failure{}
	for _, b := range batches {
		for _, x := range b.Executions {
			last[x.ID] = x
		}
	}
	var out []store.Failure
	for _, x := range last {
		if want(x) {
			out = append(out, x)
		}
	}
	slices.SortFunc(out, func(a, b store.Failure) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// Counted returns the record with the number of executions to do again, as far as they are known: sidecars tell of an execution's failure
// after they have counted its end. A closed record keeps the number that was known then.
func Counted(r store.Reader, record postmortem.Record) postmortem.Record {
	if record.Closing != nil {
		return record
	}
	for _, rb := range record.Rollbacks {
		record = record.WithRollback(rb.Spec, func(b *postmortem.Rollback) {
			for i, a := range b.Abandoned {
				if a.Settled == nil {
					continue
				}
				batches := r.Failures(b.Spec, a.Version)
				settled := *a.Settled
				settled.Failed = len(Failed(batches))
				for _, batch := range batches {
					settled.Failed += int(batch.Omitted)
				}
				b.Abandoned[i].Settled = &settled
			}
		})
	}
	return record
}
