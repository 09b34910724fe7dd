package control

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
)

// followDrains moves drains along as sidecars acknowledge and executions end, and writes their end into the post-mortem.
func (c *Controller) followDrains(ctx context.Context) error {
	for {
		changed := c.fleet.Changes()
		view := c.store.View()
		for _, order := range view.UnfinishedDrains("") {
			c.moveDrain(ctx, order, Measure(view, c.fleet, order))
		}
		if err := c.wait(ctx, view.Revision(), changed); err != nil {
			return err
		}
	}
}

func (c *Controller) moveDrain(ctx context.Context, order drain.Drain, p Progress) {
	state := order.State.After(drain.Observed(p.Acked.Acked, p.Acked.Total, p.Running, p.Held))
	if state == order.State {
		return
	}
	moved := false
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		moved = false
		now, ok := tx.Drain(order.Spec, order.Version)
		if !ok || now.Generation != order.Generation || now.State != order.State {
			return nil // somebody else moved it
		}
		now.State, now.Counts, now.Arrived = state, p.Counts, p.Arrived
		if state == drain.Drained || state == drain.Held {
			now.EndedAt = time.Now().UTC()
			settle(tx, now)
		}
		tx.PutDrain(now)
		moved = true
		return nil
	})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		c.log.Error("move a drain", zap.String("spec", order.Spec), zap.String("version", order.Version), zap.String("state", string(state)), zap.Error(err))
	case moved:
		c.log.Info("drain moved", zap.String("spec", order.Spec), zap.String("version", order.Version), zap.String("from", string(order.State)), zap.String("to", string(state)))
	}
}

// settle writes what became of the executions into the record, if it is still open. Counted adds what failed.
func settle(tx *store.Tx, order drain.Drain) {
	if order.PostMortem == "" {
		return // a promotion
	}
	record, ok := tx.PostMortem(order.PostMortem)
	if !ok || record.Closing != nil {
		return
	}
	tx.AppendPostMortem(record.ID, order.EndedAt, postmortem.System, postmortem.Drained{
		Spec: order.Spec, Version: order.Version,
		Settled: postmortem.Settled{At: order.EndedAt, State: order.State, Counts: order.Counts, Arrived: order.Arrived},
	})
}
