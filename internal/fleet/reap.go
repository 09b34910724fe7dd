package fleet

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/specproxy/specproxy/internal/routing"
)

const (
	reapEvery    = 2 * time.Second
	probeTimeout = time.Second
)

// Run stores what the executions of this replica's sidecars did, and samples what they have counted, until ctx ends.
func (f *Fleet) Run(ctx context.Context) error {
	var keeping sync.WaitGroup
	keeping.Go(func() { f.keepActs(ctx) })
	keeping.Go(func() { f.followTraces(ctx) })
	keeping.Wait()
	return ctx.Err()
}

// Tend keeps house until ctx ends, on one replica at a time: it drops records beyond their bound, and removes instances that are dead: silent
// for longer than the grace, and their health fails too. The last instance of a version with weight is never removed: silence must not empty
// a pool.
func (f *Fleet) Tend(ctx context.Context) error {
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			f.reap(ctx)
			f.trim(ctx)
		}
	}
}

func (f *Fleet) reap(ctx context.Context) {
	view := f.store.View()
	for _, in := range view.AllInstances() {
		if f.silentFor(in) < f.grace || answers(ctx, in.Address) {
			continue
		}
		if f.lastOfRouted(in) {
			f.mournOnly(ctx, in.ID)
			continue
		}
		f.remove(in.ID, "silent, and "+in.Address+" does not answer")
	}
}

// silentFor is how long no session of the instance has been seen, by this replica.
func (f *Fleet) silentFor(in routing.Instance) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	since := f.started
	if m := f.members[in.ID]; m != nil {
		if m.connected {
			return 0
		}
		since = m.silentAt
	}
	return time.Since(since)
}

// lastOfRouted looks at the newest view, since an earlier removal of the same round may have left this one alone.
func (f *Fleet) lastOfRouted(in routing.Instance) bool {
	view := f.store.View()
	route, ok := view.Route(in.Spec)
	return ok && route.Carries(in.Version) && len(view.InstancesOf(in.Spec, in.Version)) == 1
}

// answers says whether something accepts connections at the address.
func answers(ctx context.Context, address string) bool {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
