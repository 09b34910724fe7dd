package control

import (
	"context"
	"fmt"
	"time"

	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// shadowsEvery is how often pairs are counted.
const shadowsEvery = time.Second

// Shadow sends copies of a share of the requests to a version, whose agents are told so and whose answers nobody sees. It is admitted as what gets
// weight is, and its manifest must say that it is safe.
func (c *Controller) Shadow(ctx context.Context, actor Actor, ref versions.Ref, basisPoints uint32, lasts time.Duration, how How) (Change, error) {
	how.Override = ""
	if basisPoints == 0 || basisPoints > routing.Full {
		return Change{}, refuse("specctl shadow "+ref.String()+" --percent 10", "%s %% of the requests cannot be copied: say more than 0 and at most 100", routing.Percent(basisPoints))
	}
	return c.reshadow(ctx, actor, ref.Spec, how, func(tx *store.Tx, before routing.Route) (*routing.Shadow, error) {
		record, err := known(tx, ref.Spec, ref.Version)
		switch {
		case err != nil:
			return nil, err
		case record.Manifest.Shadow != versions.ShadowSafe:
			return nil, refuse("say shadow: safe in the spec.yaml of a new version, if its agent heeds x-spec-shadow, and publish that",
				"the manifest of %s does not say shadow: safe: its agent may do twice what a request asks for", ref)
		case before.Generation == 0:
			return nil, refuse("specctl deploy "+ref.String(), "%s has no traffic yet: there is no request to copy", ref.Spec)
		case before.Weight(ref.Version) > 0:
			return nil, refuse("specctl get "+ref.Spec, "%s has traffic of its own: copies are for a version without", ref)
		case len(before.Splits) != 1:
			return nil, refuse("specctl get "+ref.Spec, "the traffic of %s is split over several versions (%s): copies are compared with one", ref.Spec, routing.Describe(before.Splits))
		}
		now := time.Now().UTC()
		next := &routing.Shadow{Version: ref.Version, BasisPoints: basisPoints, Since: before.Generation + 1, At: now, By: actor.Name, Reason: how.Reason}
		if lasts > 0 {
			next.Until = now.Add(lasts)
		}
		return next, nil
	})
}

// StopShadow ends the spec's shadow. Copies that run go on, and nobody waits for them.
func (c *Controller) StopShadow(ctx context.Context, actor Actor, spec string, how How) (Change, error) {
	return c.reshadow(ctx, actor, spec, how, func(tx *store.Tx, _ routing.Route) (*routing.Shadow, error) {
		if !tx.Known(spec) {
			return nil, unknownSpec(spec)
		}
		return nil, nil
	})
}

func (c *Controller) reshadow(ctx context.Context, actor Actor, spec string, how How, next func(*store.Tx, routing.Route) (*routing.Shadow, error)) (Change, error) {
	changes, err := c.change(ctx, actor, []want{{spec: spec, kind: routing.KindShadow, resolve: func(tx *store.Tx, before routing.Route) (goal, error) {
		shadow, err := next(tx, before)
		if err != nil {
			return goal{}, err
		}
		if before.Generation == 0 || shadow.Same(before.Shadow) {
			return goal{done: &before}, nil
		}
		return goal{splits: before.Splits, shadow: shadow, reshadow: true}, nil
	}}}, how)
	if err != nil {
		return Change{}, err
	}
	return changes[0], nil
}

// followShadow keeps the record of the spec's shadow in step with its route, in one transaction.
func followShadow(tx *store.Tx, d *draft, actor Actor, now time.Time) {
	before, after := d.before.Shadow, d.Route.Shadow
	if before != nil && (after == nil || after.Since != before.Since) {
		if record, ok := tx.Shadow(d.Route.Spec); ok && record.Ended.IsZero() {
			record.Ended, record.EndedBy = now, fmt.Sprintf("generation %d (%s) by %s", d.Route.Generation, d.Route.Kind, actor.Name)
			tx.PutShadow(record)
		}
	}
	if after != nil && (before == nil || before.Since != after.Since) {
		tx.PutShadow(store.Shadow{Spec: d.Route.Spec, Shadow: *after, Stable: heaviest(d.Route.Splits)})
	}
}

// followShadows counts pairs.
func (c *Controller) followShadows(ctx context.Context) error {
	tick := time.NewTicker(shadowsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		for _, seen := range c.store.View().Shadows() {
			if !seen.Ended.IsZero() && time.Since(seen.Ended) > fleet.ShadowAfter {
				continue
			}
			halves := c.fleet.Mirrored(seen.Spec, seen.Since)
			if _, moved := seen.Tally.Plus(halves); !moved {
				continue
			}
			_, err := c.store.Update(ctx, func(tx *store.Tx) error {
				record, ok := tx.Shadow(seen.Spec)
				if !ok || record.Since != seen.Since {
					return nil
				}
				record.Tally, _ = record.Tally.Plus(halves)
				tx.PutShadow(record)
				return nil
			})
			c.lament(ctx, "count what became of copied requests", seen.Spec, err)
		}
	}
}
