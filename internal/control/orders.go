package control

import (
	"slices"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
)

// order is the drain of one abandoned version, but for its post-mortem.
func (c *Controller) order(d *draft, version string, now time.Time) drain.Drain {
	order := c.settling(d, version, now)
	order.Kind, order.Target = drain.KindRollback, d.Route.Target
	order.DefaultWithin = versionOf(version, d.records).Manifest.InFlight.DefaultDeadline(c.fleet.Pool(c.store.View(), d.Route.Spec, version).Durations)
	return order
}

// settling is what orders of every kind have in common. Retry signals are spread so that every ready instance of the target gets about ten a
// second.
func (c *Controller) settling(d *draft, version string, now time.Time) drain.Drain {
	pool := c.fleet.Pool(c.store.View(), d.Route.Spec, version)
	spread := time.Duration(float64(pool.InFlight) / float64(max(d.Capacity.Ready, 1)) / 10 * float64(time.Second))
	return drain.Drain{
		Spec: d.Route.Spec, Version: version, Generation: d.Route.Generation, State: drain.Ordered, OrderedAt: now,
		RetrySpread: min(max(spread, time.Second), 30*time.Second), Base: pool.Here,
		ArrivedBase: c.fleet.Arrived(c.store.View(), d.Route.Spec, version),
	}
}

// settleReplaced orders what runs on versions that get no new work any more without being abandoned, by their onPromote. They are not fenced and
// not quarantined: what is pinned to them goes on, and a rollback finds them open.
func (c *Controller) settleReplaced(tx *store.Tx, d *draft, now time.Time) {
	for _, version := range d.before.Carried() {
		if d.Route.Carries(version) || slices.Contains(d.Route.Abandoned, version) {
			continue
		}
		order := c.settling(d, version, now)
		order.Kind, order.Target = drain.KindPromote, heaviest(d.Route.Splits)
		tx.PutDrain(order)
	}
}

// heaviest is the version with most weight.
func heaviest(splits []routing.Split) string {
	if len(splits) == 0 {
		return ""
	}
	return slices.MaxFunc(splits, func(a, b routing.Split) int { return int(a.BasisPoints) - int(b.BasisPoints) }).Version
}

// underOrder is the record as a sidecar decides under it.
func underOrder(d drain.Drain) drain.Order {
	return drain.Order{Generation: d.Generation, Target: d.Target, At: d.OrderedAt, RetrySpread: d.RetrySpread, Kind: d.Kind, DefaultWithin: d.DefaultWithin}
}
