package control

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

const (
	// lowerTimeout bounds how long a roll-forward waits for the fences of its own version to come down.
	lowerTimeout = 5 * time.Second
	// lowerLimit is how long a fence stays down for a command; one that has not ended by then never will.
	lowerLimit = 2 * lowerTimeout
	// raiseTimeout bounds the write that lets fences rise again.
	raiseTimeout = 2 * time.Second
)

// lowerFences holds down the fences of versions that are to get weight again, and waits until their sidecars confirm it (also where a closed
// post-mortem had lifted it a moment ago), so that no request is routed to a version that would still pass it on. It is a step of its own
// because routes may only move after it, and nothing but the fence moves in it: quarantine, drain and record stay as they are until the
// route's own transaction, so a command that ends in between has changed nothing. A rollback never waits here.
func (c *Controller) lowerFences(ctx context.Context, drafts []*draft, now time.Time) error {
	var gaining []versions.Ref
	for _, d := range drafts {
		if d.AlreadyDone || d.Route.Kind == routing.KindRollback {
			continue
		}
		for _, version := range d.gains() {
			gaining = append(gaining, versions.Ref{Spec: d.Route.Spec, Version: version})
		}
	}
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		for _, ref := range gaining {
			if order, ok := tx.Drain(ref.Spec, ref.Version); ok && order.Fences() {
				order.Lowered = now
				tx.PutDrain(order)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	waitCtx, cancel := context.WithTimeout(ctx, lowerTimeout)
	defer cancel()
	for _, ref := range gaining {
		if err := c.fleet.Unfenced(waitCtx, ref.Spec, ref.Version); err != nil {
			c.log.Warn("routes move before every sidecar lowered its fence; those pass new work on", zap.Stringer("version", ref), zap.Error(err))
		}
	}
	return nil
}

// raiseFences lets the fences rise again that have been down since a time that match accepts. It goes on if ctx has ended, as the command's
// may have.
func (c *Controller) raiseFences(ctx context.Context, match func(since time.Time) bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), raiseTimeout)
	defer cancel()
	for _, seen := range c.store.View().AllDrains() {
		if seen.Lowered.IsZero() || !match(seen.Lowered) {
			continue
		}
		_, err := c.store.Update(ctx, func(tx *store.Tx) error {
			order, ok := tx.Drain(seen.Spec, seen.Version)
			if !ok || !order.Lowered.Equal(seen.Lowered) {
				return nil
			}
			order.Lowered = time.Time{}
			tx.PutDrain(order)
			return nil
		})
		if err != nil {
			c.log.Error("a fence stays down for a while though its version gets no weight", zap.String("spec", seen.Spec), zap.String("version", seen.Version), zap.Error(err))
		}
	}
}

// followFences raises the fences that a command lowered whose process ended before the command did.
func (c *Controller) followFences(ctx context.Context) error {
	if c.alone {
		c.raiseFences(ctx, c.started.After)
	}
	tick := time.NewTicker(lowerTimeout)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			c.raiseFences(ctx, func(since time.Time) bool { return time.Since(since) > lowerLimit })
		}
	}
}

// gains are the versions that the draft gives more new executions.
func (d *draft) gains() []string { return d.Route.Gains(d.before) }

// shadows is the version that copies of requests go to by this draft and did not by the route before; empty: there is none.
func (d *draft) shadows() string {
	if s := d.Route.Shadow; s != nil && (d.before.Shadow == nil || d.before.Shadow.Version != s.Version) {
		return s.Version
	}
	return ""
}

// readmit ends the drains and the quarantine of versions that are wanted again: by an undo, or over an open post-mortem by a named override.
func (c *Controller) readmit(tx *store.Tx, d *draft, actor Actor, how How, now time.Time) error {
	event, state, why := versions.EventOverridden, drain.Superseded, "overridden by "+actor.Name
	if d.Route.Kind == routing.KindUndo {
		event, state, why = versions.EventCleared, drain.Cancelled, "its rollback was undone by "+actor.Name
	}
	d.records = slices.Clone(d.records)
	policy, _ := tx.Policy(d.Route.Spec)
	for _, version := range d.gains() {
		i := slices.IndexFunc(d.records, func(r versions.Record) bool { return r.Version == version })
		if i < 0 {
			continue // what Normalize let pass is there
		}
		for _, pm := range overdue(tx, policy, d.records[i], now) { // only what an override names gets here
			tx.AppendPostMortem(pm.ID, now, actor.Name, postmortem.Override{At: now, Actor: actor.Name, Version: version, Reason: how.OverrideReason})
		}
		if record := &d.records[i]; record.Standing == versions.Quarantined {
			if event == versions.EventOverridden {
				if err := override(tx, *record, actor, how, now); err != nil {
					return err
				}
			}
			next, err := record.Standing.Next(event)
			if err != nil {
				return err
			}
			record.Standing, record.StandingReason = next, why
			tx.PutVersion(*record)
		}
		if order, ok := tx.Drain(d.Route.Spec, version); ok && order.Active() {
			tx.PutDrain(c.ended(order, state, now))
		}
	}
	return nil
}

// ended is the drain as it ends before everything has, with what it has done by now.
func (c *Controller) ended(order drain.Drain, state drain.State, now time.Time) drain.Drain {
	p := Measure(c.store.View(), c.fleet, order)
	order.Counts, order.Arrived = p.Counts, p.Arrived
	order.State, order.EndedAt, order.Lowered = state, now, time.Time{}
	return order
}

// override checks that the command names the open post-mortem of a quarantined version, and writes into it that it was overridden.
func override(tx *store.Tx, record versions.Record, actor Actor, how How, now time.Time) error {
	if err := overridden(record, actor, how); err != nil {
		return err
	}
	pm, ok := tx.PostMortem(record.PostMortem)
	if !ok {
		return refuse("specctl postmortem list", "post-mortem %s does not exist", record.PostMortem)
	}
	tx.AppendPostMortem(pm.ID, now, actor.Name, postmortem.Override{At: now, Actor: actor.Name, Version: record.Version, Reason: how.OverrideReason})
	return nil
}
