package fleet

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
)

// takeOverrides stores what became of what operators decided; the State then names it no longer.
func (s *session) takeOverrides(ctx context.Context, results []*sidecarv1.OverrideResult) error {
	if len(results) == 0 || len(s.fleet.store.View().PendingInterventions(s.key.spec, s.key.version, s.stored.ID)) == 0 {
		return nil
	}
	_, err := s.fleet.store.Update(ctx, func(tx *store.Tx) error {
		for _, r := range results {
			i, ok := tx.Intervention(s.key.spec, s.key.version, r.GetId())
			if !ok || !i.Pending() {
				continue
			}
			settleOverride(tx, i, r.GetRefusal())
		}
		return nil
	})
	if err != nil {
		return status.Errorf(codes.Unavailable, "store what became of overrides on instance %s: %v", s.stored.ID, err)
	}
	return nil
}

// bury deletes an instance with all that waits for it. What it had counted under an order stays with that order's record.
func bury(tx *store.Tx, id string, last drain.Counts) {
	in, ok := tx.Instance(id)
	if !ok {
		return
	}
	tx.DeleteInstance(id)
	last.Held = 0 // what was held has ended with it
	if order, ok := tx.Drain(in.Spec, in.Version); ok && order.Unfinished() {
		order.Left = order.Left.Plus(last)
		tx.PutDrain(order)
	}
	for _, i := range tx.PendingInterventions(in.Spec, in.Version, id) {
		settleOverride(tx, i, "its instance is gone")
	}
}

// settleOverride writes what became of an override into its record and, if it was refused, into the post-mortem that names it.
func settleOverride(tx *store.Tx, i store.Intervention, refusal string) {
	i.SettledAt, i.Refusal = time.Now().UTC(), refusal
	tx.PutIntervention(i)
	if refusal == "" || i.PostMortem == "" {
		return
	}
	if pm, ok := tx.PostMortem(i.PostMortem); ok && pm.Open() {
		tx.AppendPostMortem(pm.ID, i.SettledAt, postmortem.System, postmortem.Refusal{Intervention: i.ID, Why: refusal})
	}
}

// lastCounts is what an instance had counted under orders when it was last heard of.
func (f *Fleet) lastCounts(id string) drain.Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[id]; m != nil {
		return countsOf(m.totals)
	}
	return drain.Counts{}
}

// Find a running execution by its id.
func (f *Fleet) Find(id string) (spec, version string, found Running, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for instance, m := range f.members {
		if x, ok := m.running[id]; ok {
			return m.key.spec, m.key.version, Running{Instance: instance, Execution: x}, true
		}
	}
	return "", "", Running{}, false
}

// InFlightOn counts what runs on one instance, as it last told.
func (f *Fleet) InFlightOn(id string) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[id]; m != nil {
		return m.totals.GetInFlight()
	}
	return 0
}
