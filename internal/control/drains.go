package control

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
)

// arrivalWait is how long a drain in which nothing runs any more waits for the arrival of what was handed over: both ends tell of it on their own.
const arrivalWait = 3 * time.Second

// followDrains moves drains along as sidecars acknowledge and executions end, and writes their end into the post-mortem.
func (c *Controller) followDrains(ctx context.Context) error {
	emptied := map[drainKey]time.Time{}
	for {
		changed := c.fleet.Changes()
		view := c.store.View()
		var again <-chan time.Time
		for _, order := range slices.Concat(view.UnfinishedDrains(""), view.UnfinishedShutdowns("")) {
			if c.moveDrain(ctx, order, Measure(view, c.fleet, order), emptied) {
				again = time.After(arrivalWait)
			}
		}
		if err := c.waitUntil(ctx, view.Revision(), again, changed); err != nil {
			return err
		}
	}
}

// drainKey names one order.
type drainKey struct {
	spec, version, instance string
	generation              uint64
}

// moveDrain writes the drain's next state, if there is one. waits: it would have ended, but for what has been handed over and has not arrived;
// emptied says since when.
func (c *Controller) moveDrain(ctx context.Context, order drain.Drain, p Progress, emptied map[drainKey]time.Time) (waits bool) {
	state := order.State.After(drain.Observed(p.Acked.Acked, p.Acked.Total, p.Running, p.Held))
	if state == order.State {
		return false
	}
	key := drainKey{order.Spec, order.Version, order.Instance, order.Generation}
	if state == drain.Drained && p.Arrived < p.Counts.HandedOver {
		since, known := emptied[key]
		if !known {
			since = time.Now()
			emptied[key] = since
		}
		if time.Since(since) < arrivalWait {
			return true
		}
	}
	delete(emptied, key)
	moved := false
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		moved = false
		now, ok := newest(tx, order)
		if !ok || now.Generation != order.Generation || now.State != order.State {
			return nil // somebody else moved it
		}
		now.State, now.Counts, now.Arrived = state, p.Counts, p.Arrived
		if state == drain.Drained || state == drain.Held {
			now.EndedAt = time.Now().UTC()
			settle(tx, now)
		}
		if now.Kind == drain.KindShutdown {
			tx.PutShutdown(now)
		} else {
			tx.PutDrain(now)
		}
		moved = true
		return nil
	})
	fields := []zap.Field{zap.String("spec", order.Spec), zap.String("version", order.Version), zap.String("instance", order.Instance), zap.String("from", string(order.State)), zap.String("to", string(state))}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		c.log.Error("move a drain", append(fields, zap.Error(err))...)
	case moved:
		c.log.Info("drain moved", fields...)
	}
	return false
}

// newest is the record as it is now.
func newest(tx *store.Tx, order drain.Drain) (drain.Drain, bool) {
	if order.Kind == drain.KindShutdown {
		return tx.Shutdown(order.Spec, order.Version, order.Instance)
	}
	return tx.Drain(order.Spec, order.Version)
}

// settle writes what became of the executions into the record, if it is still open. Counted adds what failed.
func settle(tx *store.Tx, order drain.Drain) {
	if order.PostMortem == "" {
		return // a promotion or a shutdown
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
