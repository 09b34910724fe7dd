package control

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// bakeEvery is how often bakes are looked at.
const bakeEvery = 5 * time.Second

// followBakes makes a candidate good once it has held all the weight for its bake time with a ready instance.
func (c *Controller) followBakes(ctx context.Context) error {
	tick := time.NewTicker(bakeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		view, now := c.store.View(), time.Now().UTC()
		for _, route := range view.Routes() {
			for _, s := range route.Splits {
				record, _ := view.Version(route.Spec, s.Version)
				if baked(record, now) && c.fleet.Pool(view, route.Spec, s.Version).Ready > 0 {
					c.endBake(ctx, record, now)
				}
			}
		}
	}
}

func baked(r versions.Record, now time.Time) bool {
	return r.Standing == versions.Candidate && !r.FullSince.IsZero() && now.Sub(r.FullSince) >= time.Duration(r.Manifest.Bake)
}

func (c *Controller) endBake(ctx context.Context, seen versions.Record, now time.Time) {
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		record, ok := tx.Version(seen.Spec, seen.Version)
		if !ok || !baked(record, now) {
			return nil
		}
		next, err := record.Standing.Next(versions.EventBaked)
		if err != nil {
			return err
		}
		record.Standing, record.StandingReason = next, fmt.Sprintf("held all the traffic for %s", time.Duration(record.Manifest.Bake))
		tx.PutVersion(record)
		return nil
	})
	if err != nil && ctx.Err() == nil {
		c.log.Error("end a bake", zap.Stringer("version", seen.Ref()), zap.Error(err))
	}
}
