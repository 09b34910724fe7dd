package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/specproxy/specproxy/internal/routing"
)

// letGo waits until nobody sends new work to an instance that is leaving as of a revision: neither a proxy, nor, if it was ready, a sidecar of
// another version that passes work on to it. An error names those that were waited for in vain.
func (f *Fleet) letGo(ctx context.Context, key poolKey, address string, was routing.Health, revision int64) error {
	err := f.proxies.EndpointGone(ctx, key.spec, key.version, address)
	if was != routing.Ready {
		return err
	}
	return errors.Join(err, f.passesElsewhere(ctx, key, revision))
}

// passesElsewhere waits until every connected sidecar whose order has this version as its target holds the target's addresses as of the
// revision, which are not those of before.
func (f *Fleet) passesElsewhere(ctx context.Context, key poolKey, revision int64) error {
	view := f.store.View()
	from := map[string]bool{}
	for _, order := range view.Drains(key.spec) {
		from[order.Version] = (order.Fences() || order.Settles()) && FinalTarget(view, order) == key.version
	}
	for {
		changed := f.Changes()
		var late []string
		f.mu.Lock()
		for id, m := range f.members {
			if m.key.spec == key.spec && from[m.key.version] && m.connected && m.status.GetAppliedGeneration() < uint64(revision) {
				late = append(late, id)
			}
		}
		f.mu.Unlock()
		if len(late) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			slices.Sort(late)
			return fmt.Errorf("instances that pass work on to %s:%s still hold it: %s: %w", key.spec, key.version, strings.Join(late, ", "), context.Cause(ctx))
		}
	}
}
