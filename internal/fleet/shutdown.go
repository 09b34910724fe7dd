package fleet

import (
	"time"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
)

// shutdown is the drain of an instance that has just said that it leaves.
func (f *Fleet) shutdown(tx *store.Tx, in routing.Instance) drain.Drain {
	route, _ := tx.Route(in.Spec)
	d := drain.Drain{
		Spec: in.Spec, Version: in.Version, Kind: drain.KindShutdown, Instance: in.ID, Generation: route.Generation, Target: in.Version,
		State: drain.Ordered, OrderedAt: time.Now().UTC(), Base: f.lastOf(tx, in.Spec, in.Version, in.ID).counts,
	}
	if order, ok := tx.Drain(in.Spec, in.Version); ok && order.Fences() {
		d.Target = FinalTarget(tx, order) // the fence has decided over everything, and says where
	}
	d.ArrivedBase = f.Arrived(f.store.View(), d.Spec, d.Origin())
	return d
}

// Member is one instance as its drain sees it.
type Member struct {
	Connected, Settled bool
	InFlight           uint64
	Here               drain.Counts
}

// Member returns what is known of one instance.
func (f *Fleet) Member(r store.Reader, spec, version, id string) Member {
	was := f.lastOf(r, spec, version, id)
	out := Member{Here: was.counts, InFlight: was.inFlight}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[id]; m != nil {
		out.Connected, out.Settled = m.connected, m.status.GetSettled()
	}
	return out
}
