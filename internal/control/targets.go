package control

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// targetsEvery is how often it is looked for header targets and shadows that have come to their end.
const targetsEvery = time.Second

// Header is a header and its value, as a command names them.
type Header struct{ Name, Value string }

// Target leads new executions that carry one of the headers to a version, whatever the weights. It is admitted as what gets weight is, but that
// nothing brings a quarantined version back.
func (c *Controller) Target(ctx context.Context, actor Actor, ref versions.Ref, headers []Header, lasts time.Duration, how How) (Change, error) {
	how.Override = ""
	if len(headers) == 0 {
		return Change{}, refuse("specctl target "+ref.String()+" --header NAME=VALUE", "no header was named that is to lead to %s", ref)
	}
	return c.retarget(ctx, actor, ref.Spec, how, func(tx *store.Tx, before routing.Route) ([]routing.HeaderTarget, error) {
		if _, err := known(tx, ref.Spec, ref.Version); err != nil {
			return nil, err
		}
		if before.Generation == 0 {
			return nil, refuse("specctl deploy "+ref.String(), "%s has no traffic yet: what carries no header would go nowhere", ref.Spec)
		}
		now := time.Now().UTC()
		more := make([]routing.HeaderTarget, 0, len(headers))
		for _, h := range headers {
			t := routing.HeaderTarget{Header: strings.ToLower(h.Name), Value: h.Value, Version: ref.Version, At: now, By: actor.Name, Reason: how.Reason}
			if lasts > 0 {
				t.Until = now.Add(lasts)
			}
			more = append(more, t)
		}
		targets, err := routing.Retarget(before.HeaderTargets, more)
		if err != nil {
			return nil, refuse("specctl target list "+ref.Spec, "%s: %v", ref, err)
		}
		return targets, nil
	})
}

// Untarget ends header targets: those named, or all of the spec.
func (c *Controller) Untarget(ctx context.Context, actor Actor, spec string, headers []Header, all bool, how How) (Change, error) {
	if len(headers) == 0 && !all {
		return Change{}, refuse("specctl target list "+spec, "no header of %s was named", spec)
	}
	return c.retarget(ctx, actor, spec, how, func(tx *store.Tx, before routing.Route) ([]routing.HeaderTarget, error) {
		if !tx.Known(spec) {
			return nil, unknownSpec(spec)
		}
		return slices.DeleteFunc(slices.Clone(before.HeaderTargets), func(t routing.HeaderTarget) bool {
			return all || slices.Contains(headers, Header{t.Header, t.Value})
		}), nil
	})
}

// retarget makes a generation with other header targets and the same weights.
func (c *Controller) retarget(ctx context.Context, actor Actor, spec string, how How, next func(*store.Tx, routing.Route) ([]routing.HeaderTarget, error)) (Change, error) {
	changes, err := c.change(ctx, actor, []want{{spec: spec, kind: routing.KindTarget, resolve: func(tx *store.Tx, before routing.Route) (goal, error) {
		targets, err := next(tx, before)
		if err != nil {
			return goal{}, err
		}
		if before.Generation == 0 || routing.SameTargets(targets, before.HeaderTargets) {
			return goal{done: &before}, nil
		}
		return goal{splits: before.Splits, targets: targets, retarget: true}, nil
	}}}, how)
	if err != nil {
		return Change{}, err
	}
	return changes[0], nil
}

// followTargets ends header targets and shadows whose time is over.
func (c *Controller) followTargets(ctx context.Context) error {
	tick := time.NewTicker(targetsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now := time.Now().UTC()
		for _, route := range c.store.View().Routes() {
			if s := route.Shadow; s != nil && over(s.Until, now) {
				_, err := c.StopShadow(ctx, Actor{Name: "end of a shadow"}, route.Spec, How{Reason: "its time is over"})
				c.lament(ctx, "end a shadow", route.Spec, err)
			}
			if len(lasting(route.HeaderTargets, now)) == len(route.HeaderTargets) {
				continue
			}
			_, err := c.retarget(ctx, Actor{Name: "end of a header target"}, route.Spec, How{Reason: "its time is over"}, func(_ *store.Tx, before routing.Route) ([]routing.HeaderTarget, error) {
				return lasting(before.HeaderTargets, now), nil
			})
			c.lament(ctx, "end a header target", route.Spec, err)
		}
	}
}

// lasting are the header targets whose time is not over.
func lasting(targets []routing.HeaderTarget, now time.Time) []routing.HeaderTarget {
	return slices.DeleteFunc(slices.Clone(targets), func(t routing.HeaderTarget) bool { return over(t.Until, now) })
}

// over says that a moment has come; the zero one never does.
func over(until, now time.Time) bool { return !until.IsZero() && !now.Before(until) }
