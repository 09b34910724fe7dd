package fleet

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/store"
)

// last is what was known of an instance when it was last heard of.
type last struct {
	counts   drain.Counts
	arrived  map[string]uint64
	inFlight uint64
}

func lastOf(t *sidecarv1.Totals) last {
	return last{counts: countsOf(t), arrived: t.GetArrivedFrom(), inFlight: t.GetInFlight()}
}

// lastOf an instance, from memory if this replica has heard of it, else as it was stored.
func (f *Fleet) lastOf(r store.Reader, spec, version, id string) last {
	f.mu.Lock()
	m := f.members[id]
	f.mu.Unlock()
	if m != nil && m.totals != nil {
		return lastOf(m.totals)
	}
	stored, _ := r.Counted(spec, version, id)
	return last{counts: stored.Counts, arrived: stored.ArrivedFrom}
}

// bury deletes an instance with all that waits for it. What it had counted stays with the records of the drains that it counted for.
func (f *Fleet) bury(tx *store.Tx, id string) {
	in, ok := tx.Instance(id)
	if !ok {
		return
	}
	was := f.lastOf(tx, in.Spec, in.Version, id)
	tx.DeleteInstance(id)
	bequeath(tx, in.Spec, in.Version, was)
	if d, ok := tx.Shutdown(in.Spec, in.Version, id); ok && d.Unfinished() {
		d.Counts = d.CountsWith(was.counts)
		d.Counts.Held = 0 // what was held has ended with it
		d.State, d.EndedAt, d.Lost, d.Arrived = drain.Drained, time.Now().UTC(), was.inFlight, d.ArrivedWith(f.Arrived(f.store.View(), d.Spec, d.Origin()))
		tx.PutShutdown(d)
	}
	for _, i := range tx.PendingInterventions(in.Spec, in.Version, id) {
		settleOverride(tx, i, "its instance is gone")
	}
}

// bequeath adds what a process had counted to the drains that it counted for.
func bequeath(tx *store.Tx, spec, version string, was last) {
	was.counts.Held = 0 // what was held has ended with it
	if order, ok := tx.Drain(spec, version); ok && order.Unfinished() {
		order.Left = order.Left.Plus(was.counts)
		tx.PutDrain(order)
	}
	for origin, n := range was.arrived {
		if order, ok := tx.Drain(spec, origin); ok && order.Active() { // also of one that has ended: late arrivals are still counted
			order.ArrivedLeft += n
			tx.PutDrain(order)
		}
		if id, of := strings.CutPrefix(origin, drain.OriginInstance("")); of {
			if d, ok := tx.Shutdown(spec, version, id); ok {
				d.ArrivedLeft += n
				tx.PutShutdown(d)
			}
		}
	}
}

// Arrived counts what all instances of a spec say was handed over to them from an origin: see drain.Drain.Origin.
func (f *Fleet) Arrived(view *store.View, spec, origin string) (n uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, in := range view.Instances(spec) {
		if m := f.members[in.ID]; m != nil && m.totals != nil {
			n += m.totals.GetArrivedFrom()[origin]
		} else if stored, ok := view.Counted(spec, in.Version, in.ID); ok {
			n += stored.ArrivedFrom[origin]
		}
	}
	return n
}

// storeCounts stores what instances have counted, where a drain of their spec goes on and it is not stored yet.
func (f *Fleet) storeCounts(ctx context.Context) {
	view := f.store.View()
	drained := map[string]bool{}
	for _, d := range slices.Concat(view.UnfinishedDrains(""), view.UnfinishedShutdowns("")) {
		drained[d.Spec] = true
	}
	if len(drained) == 0 {
		return
	}
	var changed []store.Counted
	f.mu.Lock()
	for id, m := range f.members {
		if !drained[m.key.spec] || m.totals == nil {
			continue
		}
		now := countedOf(id, m.key, m.totals)
		if before, stored := view.Counted(m.key.spec, m.key.version, id); !stored || before.Counts != now.Counts || !maps.Equal(before.ArrivedFrom, now.ArrivedFrom) {
			changed = append(changed, now)
		}
	}
	f.mu.Unlock()
	for part := range slices.Chunk(changed, actsPerBatch) {
		if _, err := f.store.Update(ctx, func(tx *store.Tx) error { putCounted(tx, part...); return nil }); err != nil {
			if ctx.Err() == nil {
				f.log.Error("store what instances have counted; it is tried again", zap.Error(err))
			}
			return
		}
	}
}

// putCounted leaves out instances that are gone meanwhile.
func putCounted(tx *store.Tx, all ...store.Counted) {
	for _, c := range all {
		if _, here := tx.Instance(c.Instance); here {
			tx.PutCounted(c)
		}
	}
}

func countedOf(id string, key poolKey, t *sidecarv1.Totals) store.Counted {
	return store.Counted{Spec: key.spec, Version: key.version, Instance: id, Counts: countsOf(t), ArrivedFrom: t.GetArrivedFrom()}
}

// keepShutdowns is how many ended shutdowns of one version are kept.
const keepShutdowns = 20

// trimShutdowns drops the oldest records of shutdowns that have ended.
func (f *Fleet) trimShutdowns(ctx context.Context, view *store.View) error {
	ended := map[poolKey][]drain.Drain{}
	for _, d := range view.Shutdowns("") {
		if !d.Unfinished() {
			key := poolKey{d.Spec, d.Version}
			ended[key] = append(ended[key], d)
		}
	}
	for _, all := range ended {
		if len(all) <= keepShutdowns {
			continue
		}
		slices.SortFunc(all, func(a, b drain.Drain) int {
			return cmp.Or(b.EndedAt.Compare(a.EndedAt), cmp.Compare(a.Instance, b.Instance))
		})
		_, err := f.store.Update(ctx, func(tx *store.Tx) error {
			for _, d := range all[keepShutdowns:] {
				tx.DropShutdown(d)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
