package control

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
)

// followDrains moves drains along as sidecars acknowledge and executions end, and writes their end into the post-mortem.
func (c *Controller) followDrains(ctx context.Context) error {
	for {
		changed := c.fleet.Changes()
		view := c.store.View()
		for _, spec := range view.Specs() {
			for _, order := range view.Drains(spec) {
				if !order.Active() || order.State == drain.Drained {
					continue
				}
				c.moveDrain(ctx, order, c.fleet.Pool(view, order.Spec, order.Version))
			}
		}
		if err := c.wait(ctx, view.Revision(), changed); err != nil {
			return err
		}
	}
}

// progress is the state that a pool's reports justify. A silent instance is never taken for idle: it keeps the drain open until it is back
// or known gone.
func progress(p fleet.Pool) drain.State {
	held := p.Drained.Held
	switch {
	case p.Fence.Acked < p.Fence.Total:
		return drain.Ordered
	case p.InFlight == 0:
		return drain.Drained
	case held > 0 && p.InFlight <= held:
		return drain.Held
	}
	return drain.Draining
}

func (c *Controller) moveDrain(ctx context.Context, order drain.Drain, pool fleet.Pool) {
	state := progress(pool)
	if state == drain.Ordered && order.State != drain.Ordered {
		return // an instance came late or went silent; that does not take back what was reached
	}
	if state == order.State {
		return
	}
	failed := len(Failed(c.store.View().Failures(order.Spec, order.Version)))
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		now, ok := tx.Drain(order.Spec, order.Version)
		if !ok || now.Generation != order.Generation || now.State != order.State {
			return nil // somebody else moved it
		}
		next, err := now.State.Next(state)
		if err != nil {
			return err
		}
		now.State = next
		now.Counts = pool.Drained.Minus(now.Base)
		if state == drain.Drained || state == drain.Held {
			now.EndedAt = time.Now().UTC()
			settle(tx, now, failed)
		}
		tx.PutDrain(now)
		return nil
	})
	if err != nil && ctx.Err() == nil {
		c.log.Error("move a drain", zap.String("spec", order.Spec), zap.String("version", order.Version), zap.String("state", string(state)), zap.Error(err))
		return
	}
	c.log.Info("drain moved", zap.String("spec", order.Spec), zap.String("version", order.Version), zap.String("from", string(order.State)), zap.String("to", string(state)))
}

// settle writes what became of the executions into the record, if it is still open.
func settle(tx *store.Tx, order drain.Drain, failed int) {
	record, ok := tx.PostMortem(order.PostMortem)
	if !ok || record.Closing != nil {
		return
	}
	tx.PutPostMortem(record.WithRollback(order.Spec, func(r *postmortem.Rollback) {
		for i := range r.Abandoned {
			if r.Abandoned[i].Version == order.Version {
				r.Abandoned[i].Settled = &postmortem.Settled{At: order.EndedAt, State: order.State, Counts: order.Counts, Failed: failed}
			}
		}
	}))
}
