package control

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// alertsBefore is how old an alert may be to be part of a record that is opened now.
const alertsBefore = time.Hour

// timelineSteps is how many generations a post-mortem quotes.
const timelineSteps = 50

// write puts everything that the drafts mean into the transaction: generations, standings, and for rollbacks drain orders and one
// post-mortem that covers them all.
func (c *Controller) write(tx *store.Tx, drafts []*draft, actor Actor, how How, now time.Time) error {
	id, opened := "", postmortem.Opened{Reason: how.Reason}
	for _, d := range drafts {
		if d.AlreadyDone {
			if d.begins != nil {
				tx.PutRollout(*d.begins)
			}
			continue
		}
		if d.Route.Kind == routing.KindRollback {
			if id == "" {
				id = tx.NextPostMortemID()
			}
			d.Route.PostMortem = id
			d.Route.Freeze = &routing.Freeze{Since: now, Until: now.Add(c.freezeFor), PostMortem: id}
			opened.Specs = append(opened.Specs, d.Route.Spec)
			policy, _ := tx.Policy(d.Route.Spec)
			opened.Approval = opened.Approval || policy.Approval
		}
		if d.Route.Kind == routing.KindUndo {
			if err := undone(tx, d, actor, how, now); err != nil {
				return err
			}
		}
		if err := c.readmit(tx, d, actor, how, now); err != nil {
			return err
		}
		for _, v := range d.after() {
			if !slices.ContainsFunc(d.records, func(old versions.Record) bool { return same(old, v) }) {
				tx.PutVersion(v)
			}
		}
		tx.PutRoute(d.Route)
		c.count(tx, d)
		canary, err := c.followRoute(tx, d, how, actor, now)
		if err != nil {
			return err
		}
		c.settleReplaced(tx, d, now)
		followShadow(tx, d, actor, now)
		if d.Route.Kind == routing.KindRollback {
			for _, order := range d.Orders {
				order.PostMortem = id
				tx.PutDrain(order)
			}
			rollback := c.evidence(d)
			rollback.Canary = canary
			opened.Rollbacks = append(opened.Rollbacks, rollback)
			opened.Alerts = append(opened.Alerts, tx.Alerts(d.Route.Spec, now.Add(-alertsBefore))...)
		}
	}
	if id != "" {
		slices.Sort(opened.Specs)
		slices.SortFunc(opened.Rollbacks, func(a, b postmortem.Rollback) int { return strings.Compare(a.Spec, b.Spec) })
		tx.AppendPostMortem(id, now, actor.Name, opened)
	}
	return nil
}

// after gives the spec's version records as the change leaves them.
func (d *draft) after() []versions.Record {
	records := withWeights(d.records, d.Route)
	newest, gains := routing.Newest(d.Route.Splits, records), d.gains()
	for i, r := range records {
		had, has := routing.Route{Splits: d.Before}.Weight(r.Version), d.Route.Weight(r.Version)
		event, why := versions.Event(""), ""
		switch {
		case slices.Contains(d.Route.Abandoned, r.Version):
			event, why = versions.EventAbandoned, fmt.Sprintf("abandoned for %s at generation %d", d.Route.Target, d.Route.Generation)
			r.PostMortem = d.Route.PostMortem
		case slices.Contains(gains, r.Version):
			event = versions.EventWeighted
		case had > 0 && has == 0 && r.HeldAll && d.Route.Kind != routing.KindUndo:
			event, why = versions.EventPromotedAway, fmt.Sprintf("held all the traffic until %s replaced it at %s", newest, d.Route.At.Format("2006-01-02 15:04:05Z"))
		}
		if has == routing.Full {
			r.HeldAll = true
			if r.FullSince.IsZero() {
				r.FullSince = d.Route.At
			}
		} else {
			r.FullSince = time.Time{}
		}
		if event != "" {
			if next, err := r.Standing.Next(event); err == nil {
				r.Standing = next
				if why != "" {
					r.StandingReason = why
				}
			}
		}
		records[i] = r
	}
	return records
}

// withWeights sets FirstWeight on versions that the route gives their first weight.
func withWeights(records []versions.Record, route routing.Route) []versions.Record {
	out := slices.Clone(records)
	for i := range out {
		if out[i].FirstWeight == 0 && route.Weight(out[i].Version) > 0 {
			out[i].FirstWeight = route.Generation
		}
	}
	return out
}

func same(a, b versions.Record) bool {
	return a.Version == b.Version && a.Standing == b.Standing && a.StandingReason == b.StandingReason && a.PostMortem == b.PostMortem &&
		a.FirstWeight == b.FirstWeight && a.FullSince.Equal(b.FullSince) && a.HeldAll == b.HeldAll
}

// evidence is what the post-mortem can know at the commit.
func (c *Controller) evidence(d *draft) postmortem.Rollback {
	r := d.Route
	out := postmortem.Rollback{
		Spec: r.Spec, Generation: r.Generation, Command: string(d.command), CommittedAt: r.At, Target: r.Target, TargetWhy: r.TargetWhy, Digest: d.digest,
		Before: d.Before, After: r.Splits,
	}
	for _, t := range d.before.HeaderTargets {
		if slices.Contains(r.Abandoned, t.Version) {
			out.HeaderTargets = append(out.HeaderTargets, t)
		}
	}
	for _, v := range d.records {
		if slices.Contains(r.Abandoned, v.Version) {
			out.Abandoned = append(out.Abandoned, postmortem.Abandoned{Version: v.Version, Digest: v.Digest})
		}
	}
	view := c.store.View()
	seen := append(store.Weighted(d.Before, r.Splits), c.fleet.Seen(view, r.Spec)...)
	versions.Sort(seen)
	for _, version := range slices.Compact(seen) {
		out.Outcomes = append(out.Outcomes, outcomeOf(version, c.fleet.Pool(view, r.Spec, version)))
	}
	history := view.LastGenerations(r.Spec, timelineSteps-1)
	slices.Reverse(history)
	for _, h := range append(history, r) {
		out.Timeline = append(out.Timeline, postmortem.Step{Generation: h.Generation, At: h.At, By: h.By, Kind: h.Kind, Splits: h.Splits})
	}
	for _, p := range d.Plans {
		out.Plans = append(out.Plans, postmortem.Plan{Version: p.Version, Rule: p.Rule, Disposition: p.Disposition, Within: p.Within, Then: p.Then, Executions: p.Executions})
	}
	return out
}

// count keeps what the versions had counted when the generation began, so that what each step saw can be told later.
func (c *Controller) count(tx *store.Tx, d *draft) {
	view := c.store.View()
	out := store.Exposure{Spec: d.Route.Spec, Generation: d.Route.Generation, At: d.Route.At}
	seen := append(store.Weighted(d.Before, d.Route.Splits), c.fleet.Seen(view, d.Route.Spec)...)
	versions.Sort(seen)
	for _, version := range slices.Compact(seen) {
		out.Outcomes = append(out.Outcomes, outcomeOf(version, c.fleet.Pool(view, d.Route.Spec, version)))
	}
	tx.PutExposure(out)
}

// undone marks the record whose rollback this draft takes back.
func undone(tx *store.Tx, d *draft, actor Actor, how How, now time.Time) error {
	pm, ok := tx.PostMortem(how.undo)
	if !ok {
		return refuse("specctl postmortem list", "post-mortem %s does not exist", how.undo)
	}
	d.Route.PostMortem = pm.ID
	tx.AppendPostMortem(pm.ID, now, actor.Name, postmortem.Undone{At: now, Actor: actor.Name, Reason: how.Reason})
	return nil
}
