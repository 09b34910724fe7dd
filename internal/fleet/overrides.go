package fleet

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
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
