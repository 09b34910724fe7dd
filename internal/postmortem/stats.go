package postmortem

import (
	"fmt"
	"slices"
	"time"

	"github.com/specproxy/specproxy/internal/routing"
)

// Stats say how well deploys of a spec, or of several, have gone.
type Stats struct {
	Spec string
	// Deploys are generations that gave a version its first weight; Failed those whose version was rolled back later.
	Deploys, Failed, Rollbacks int
	Open, Overrides            int
	FalseAlarms                int
	// CanaryCatches are rollbacks of versions that never held all the weight, ProductionCatches the others.
	CanaryCatches, ProductionCatches int
	// Detect is the time from a version's first weight to its rollback, Restore that from the commit to the effect, Close that from the opening of
	// a record to its closing.
	Detect, Restore, Close []time.Duration
	Causes                 map[Cause]int
	// Aborted says that a canary was rolled back at least once, however long ago.
	Aborted bool
	// Since is the beginning of what was looked at; First that of the history, zero without one.
	Since, First time.Time
}

// Median of some durations; false if there are none.
func Median(all []time.Duration) (time.Duration, bool) {
	if len(all) == 0 {
		return 0, false
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)-1)/2], true
}

// Count makes the stats of one spec from its whole history of routes, oldest first, and from all records.
func Count(spec string, history []routing.Route, records []Record, since time.Time) Stats {
	s := Stats{Spec: spec, Causes: map[Cause]int{}, Since: since}
	first, full := map[string]time.Time{}, map[string]bool{}
	for _, r := range history {
		if s.First.IsZero() {
			s.First = r.At
		}
		for _, v := range r.Abandoned {
			s.Aborted = s.Aborted || !full[v]
			if r.At.Before(since) {
				continue
			}
			s.Failed++
			s.Detect = append(s.Detect, r.At.Sub(first[v]))
			if full[v] {
				s.ProductionCatches++
			} else {
				s.CanaryCatches++
			}
		}
		for _, x := range r.Splits {
			if x.BasisPoints == 0 {
				continue
			}
			full[x.Version] = full[x.Version] || x.BasisPoints == routing.Full
			if _, known := first[x.Version]; !known {
				first[x.Version] = r.At
				if !r.At.Before(since) {
					s.Deploys++
				}
			}
		}
	}
	for _, record := range records {
		r, ok := record.Rollback(spec)
		if !ok || record.OpenedAt.Before(since) {
			continue
		}
		s.Rollbacks++
		s.Overrides += len(record.Overrides)
		if r.Effect != nil {
			s.Restore = append(s.Restore, r.Effect.At.Sub(r.CommittedAt))
		}
		if record.Closing == nil {
			s.Open++
			continue
		}
		s.Close = append(s.Close, record.Closing.At.Sub(record.OpenedAt))
		s.Causes[record.Closing.Cause]++
		if record.Closing.Cause == FalseAlarm {
			s.FalseAlarms++
		}
	}
	return s
}

// Plus is the stats of both together.
func (s Stats) Plus(o Stats) Stats {
	s.Deploys, s.Failed, s.Rollbacks = s.Deploys+o.Deploys, s.Failed+o.Failed, s.Rollbacks+o.Rollbacks
	s.Open, s.Overrides, s.FalseAlarms = s.Open+o.Open, s.Overrides+o.Overrides, s.FalseAlarms+o.FalseAlarms
	s.CanaryCatches, s.ProductionCatches = s.CanaryCatches+o.CanaryCatches, s.ProductionCatches+o.ProductionCatches
	s.Detect, s.Restore, s.Close = slices.Concat(s.Detect, o.Detect), slices.Concat(s.Restore, o.Restore), slices.Concat(s.Close, o.Close)
	causes := map[Cause]int{}
	for _, m := range []map[Cause]int{s.Causes, o.Causes} {
		for c, n := range m {
			causes[c] += n
		}
	}
	s.Causes = causes
	s.Aborted = s.Aborted || o.Aborted
	if s.First.IsZero() || !o.First.IsZero() && o.First.Before(s.First) {
		s.First = o.First
	}
	return s
}

const (
	// quietFor is after how long without a rollback one asks whether anybody looks.
	quietFor = 90 * 24 * time.Hour
	// oftenFailing and fewDeploys say from when on a change failure rate is worth a warning.
	oftenFailing = 0.15
	fewDeploys   = 5
)

// Warnings say what the figures warn of, both ways: of too many failures, and of too few to be believed.
func (s Stats) Warnings(now time.Time) []string {
	var out []string
	if s.Deploys > 0 && s.Rollbacks == 0 && !s.Aborted && !s.First.IsZero() && now.Sub(s.First) >= quietFor && now.Sub(s.Since) >= quietFor {
		out = append(out, fmt.Sprintf("no rollback in %d days and no canary was ever aborted, in %d deploys: is the canary looking?", int(now.Sub(s.Since).Hours()/24), s.Deploys))
	}
	if s.Deploys >= fewDeploys && float64(s.Failed) > oftenFailing*float64(s.Deploys) {
		out = append(out, fmt.Sprintf("%d of %d deploys were rolled back: what would have told before?", s.Failed, s.Deploys))
	}
	if s.ProductionCatches > s.CanaryCatches && s.ProductionCatches > 1 {
		out = append(out, fmt.Sprintf("%d versions were found bad with all the traffic, %d as canaries: start with less", s.ProductionCatches, s.CanaryCatches))
	}
	if closed := len(s.Close); closed >= fewDeploys && 2*s.FalseAlarms > closed {
		out = append(out, fmt.Sprintf("%d of %d closed records were false alarms: what rang?", s.FalseAlarms, closed))
	}
	return out
}
