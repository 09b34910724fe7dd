package control

import (
	"cmp"
	"slices"
	"strings"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
)

// Act is one act on the world, with the execution that did it.
type Act struct {
	store.Act
	// Execution without its acts.
	Execution store.Failure
	Running   bool
}

// Acts is the compensation worklist of one version: every known act worse than reading, worst class first, then oldest first. omitted counts
// acts and executions that are no longer kept. An execution may have been reported more than once; its last report counts.
func Acts(view store.Reader, fleet *fleet.Fleet, spec, version string) (acts []Act, omitted uint64) {
	kept := fleet.Acts(view, spec, version)
	for _, b := range kept {
		omitted += b.Omitted // omitted failures need not have done anything
	}
	batches := slices.Concat(kept, view.Failures(spec, version))
	slices.SortStableFunc(batches, func(a, b store.FailureBatch) int { return cmp.Compare(a.Seq, b.Seq) })
	last := map[string]store.Failure{}
	for _, b := range batches {
		for _, x := range b.Executions {
			last[x.ID] = x
		}
	}
	take := func(x store.Failure, running bool) {
		omitted += x.ActsOmitted
		all := x.Acts
		x.Acts = nil
		for _, a := range all {
			if (drain.Act{Class: a.Class}).Touches() {
				acts = append(acts, Act{Act: a, Execution: x, Running: running})
			}
		}
	}
	for _, r := range fleet.Running(spec, version) {
		delete(last, r.Execution.GetId())
		take(r.Record(version), true)
	}
	for _, x := range last {
		take(x, false)
	}
	slices.SortFunc(acts, func(a, b Act) int {
		return cmp.Or(-cmp.Compare(rank(a.Class), rank(b.Class)), a.At.Compare(b.At), strings.Compare(a.Execution.ID, b.Execution.ID), strings.Compare(a.Key, b.Key))
	})
	return acts, omitted
}

func rank(class drain.Effects) int { return slices.Index(drain.Classes(), class) }

// CountActs sums acts by class, worst first.
func CountActs(acts []Act) []postmortem.Touched {
	var out []postmortem.Touched
	executions := map[drain.Effects]map[string]bool{}
	for _, a := range acts { // they come by class
		if len(out) == 0 || out[len(out)-1].Class != a.Class {
			out = append(out, postmortem.Touched{Class: a.Class})
			executions[a.Class] = map[string]bool{}
		}
		count := &out[len(out)-1]
		count.Acts++
		executions[a.Class][a.Execution.ID] = true
		count.Executions = len(executions[a.Class])
	}
	return out
}

// WithActs fills an open record with what the versions it abandons are known to have done by now. A closed one says what was known then.
func WithActs(view store.Reader, fleet *fleet.Fleet, record postmortem.Record) postmortem.Record {
	if record.Closing != nil {
		return record
	}
	for _, r := range record.Rollbacks {
		record = record.WithRollback(r.Spec, func(b *postmortem.Rollback) {
			for i := range b.Abandoned {
				acts, omitted := Acts(view, fleet, r.Spec, b.Abandoned[i].Version)
				b.Abandoned[i].Touched, b.Abandoned[i].TouchedOmitted = CountActs(acts), omitted
			}
		})
	}
	return record
}
