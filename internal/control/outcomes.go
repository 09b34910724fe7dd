package control

import (
	"maps"
	"slices"
	"strings"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/rollout"
	judge "github.com/specproxy/specproxy/internal/rollout/evidence"
	"github.com/specproxy/specproxy/internal/store"
)

// maxCursors is how many instances are remembered one by one; what more of them counted goes into one sum, once they are gone.
const maxCursors = 200

// read takes what the sidecars have reported since the rollout was last looked at into its evidence, and says whether there was anything. It is a
// function of the record and of the reports, so it does not matter which replica reads, how often, or what it has forgotten in between.
func read(r store.Reader, f *fleet.Fleet, ro store.Rollout) (store.Rollout, bool, error) {
	ro.Evidence, ro.Cursors = ro.Evidence.Clone(), maps.Clone(ro.Cursors)
	if ro.Cursors == nil {
		ro.Cursors = map[string]store.Cursor{}
	}
	moved := false
	for _, arm := range []judge.Arm{judge.Stable, judge.Canary} { // in this order everywhere
		version := ro.Stable
		if arm == judge.Canary {
			version = ro.Canary
		}
		failed, err := readFailures(r, ro, arm, version)
		if err != nil {
			return ro, false, err
		}
		routed := f.Routed(ro.Spec, version)
		moved = readCounts(ro, arm, routed) || failed || moved
		forget(ro, arm, routed)
	}
	if !moved {
		return ro, false, nil
	}
	return ro, true, recount(ro)
}

// readFailures enters the failures of batches that have not been read.
func readFailures(r store.Reader, ro store.Rollout, arm judge.Arm, version string) (moved bool, err error) {
	rules := ro.Plan.Rules()
	for _, batch := range r.Failures(ro.Spec, version) {
		cursor := ro.Cursors[batch.Instance]
		if batch.Seq <= cursor.Seq {
			continue
		}
		cursor.Seq, cursor.Arm = batch.Seq, arm
		ro.Cursors[batch.Instance] = cursor
		for _, x := range batch.Executions {
			weight, ok := ro.WeightAt(x.RouteGeneration)
			failed := x.Outcome == string(drain.Failure)
			slow := ro.Plan.SlowerThan() > 0 && !x.EndedAt.IsZero() && x.EndedAt.Sub(x.StartedAt) > ro.Plan.SlowerThan()
			if !failed && !slow || x.RouteGeneration == 0 || !ok || (drain.Decision{Disposition: x.Disposition}).Cuts() {
				continue
			}
			moved = true
			f := judge.Failure{Unit: x.ID, Execution: x.ID, Arm: arm, Weight: weight, At: x.EndedAt}
			if x.Key != "" {
				f.Unit = x.Key // assigned as a whole: its hash decides
			}
			if f.At.IsZero() {
				f.At = x.StartedAt
			}
			for i, rule := range rules.Metrics {
				if !counts(ro.Plan, i, x, failed, slow) {
					continue
				}
				if _, err := ro.Evidence.Fail(i, f, rule); err != nil {
					return moved, err
				}
			}
		}
	}
	return moved, nil
}

// counts says that a metric, by its place in the rules, counts the execution as bad.
func counts(plan rollout.Plan, metric int, x store.Failure, failed, slow bool) bool {
	if metric == 0 {
		return failed
	}
	m := plan.Metrics[metric-1]
	if m.SlowerThan > 0 {
		return slow
	}
	return failed && strings.HasPrefix(x.Reason, m.Reason)
}

// readCounts keeps the newest counts of each instance, of the generations that belong to the rollout.
func readCounts(ro store.Rollout, arm judge.Arm, routed map[string][]drain.Routed) (moved bool) {
	for id, counts := range routed {
		counts = slices.DeleteFunc(counts, func(c drain.Routed) bool { _, ok := ro.WeightAt(c.Generation); return !ok })
		cursor, known := ro.Cursors[id]
		if known && slices.Equal(cursor.Routed, counts) || !known && len(counts) == 0 {
			continue
		}
		cursor.Arm = arm
		for _, old := range cursor.Routed { // a sidecar counts the newest generations only; what it said of older ones stands
			if !slices.ContainsFunc(counts, func(c drain.Routed) bool { return c.Generation == old.Generation }) {
				counts = append(counts, old)
			}
		}
		if slices.Equal(cursor.Routed, counts) {
			continue
		}
		cursor.Routed, moved = counts, true
		ro.Cursors[id] = cursor
	}
	return moved
}

// recount enters what all instances have counted, in place of what was entered before.
func recount(ro store.Rollout) error {
	ro.Evidence.Recount()
	for _, cursor := range ro.Cursors {
		for _, c := range cursor.Routed {
			weight, ok := ro.WeightAt(c.Generation)
			if !ok {
				continue
			}
			// What a client's key assigns together says little about the shares, however many executions it is.
			if err := ro.Evidence.Assign(cursor.Arm, weight, c.Started-c.Keyed); err != nil {
				return err
			}
			ro.Evidence.Metrics[0].Counts.Failed[cursor.Arm] += c.Failed
			known, unknown := c.Succeeded+c.Failed, c.Unknown
			if ro.Plan.ByStatus() {
				known, unknown = known+c.Plain, unknown-c.Plain
			}
			for i := range ro.Evidence.Metrics {
				if i > 0 && ro.Plan.Metrics[i-1].SlowerThan > 0 { // how long it took is known of all that ended
					ro.Evidence.Metrics[i].Counts.Failed[cursor.Arm] += c.Slow
					ro.Evidence.End(i, cursor.Arm, c.Succeeded+c.Failed+c.Unknown, 0)
					continue
				}
				ro.Evidence.End(i, cursor.Arm, known, unknown)
			}
		}
	}
	return nil
}

// forget adds the counts of an arm's instances that are no more to one sum, once there are many.
func forget(ro store.Rollout, arm judge.Arm, here map[string][]drain.Routed) {
	if len(ro.Cursors) <= maxCursors {
		return
	}
	sum := store.Cursor{Arm: arm}
	rest := "(gone) " + arm.String()
	for id, c := range ro.Cursors {
		if _, ok := here[id]; ok || c.Arm != arm {
			continue
		}
		for _, r := range c.Routed {
			i := slices.IndexFunc(sum.Routed, func(s drain.Routed) bool { return s.Generation == r.Generation })
			if i < 0 {
				sum.Routed = append(sum.Routed, r)
				continue
			}
			s := &sum.Routed[i]
			s.Started, s.Succeeded, s.Failed, s.Unknown, s.Plain = s.Started+r.Started, s.Succeeded+r.Succeeded, s.Failed+r.Failed, s.Unknown+r.Unknown, s.Plain+r.Plain
			s.Keyed, s.Slow = s.Keyed+r.Keyed, s.Slow+r.Slow
		}
		delete(ro.Cursors, id)
	}
	ro.Cursors[rest] = sum
}
