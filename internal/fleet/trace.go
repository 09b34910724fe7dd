package fleet

import (
	"context"
	"time"

	"github.com/specproxy/specproxy/internal/postmortem"
)

const (
	// traceEvery is how often pools are sampled while they change.
	traceEvery = time.Second
	// tracePoints bounds a trace: when it is full, every second point goes and the rest are taken half as often.
	tracePoints = 256
)

// trace is what a pool had counted, over time: as far back as this replica has listened, in ever coarser steps.
type trace struct {
	points []postmortem.Point
	every  time.Duration
	// moved says that the pool has reported since the last sample.
	moved bool
}

func (t *trace) add(p postmortem.Point) {
	if t.every == 0 {
		t.every = traceEvery
	}
	if n := len(t.points); n > 1 && p.At.Sub(t.points[n-2].At) < t.every {
		t.points[n-1] = p // the newest is always there, whatever the step
		return
	}
	if len(t.points) == tracePoints {
		kept := t.points[:0]
		for i, old := range t.points {
			if i%2 == 0 {
				kept = append(kept, old)
			}
		}
		t.points, t.every = kept, 2*t.every
	}
	t.points = append(t.points, p)
}

// followTraces samples the pools that change.
func (f *Fleet) followTraces(ctx context.Context) {
	tick := time.NewTicker(traceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			f.mu.Lock()
			for _, h := range f.pools {
				if h.trace.moved {
					h.trace.moved = false
					h.trace.add(h.point(now.UTC()))
				}
			}
			f.mu.Unlock()
		}
	}
}

// point is what the pool has counted by now. Fleet.mu is held.
func (h *history) point(now time.Time) postmortem.Point {
	p := postmortem.Point{At: now, Started: h.gone.started, Succeeded: h.gone.succeeded, Failed: h.gone.failed, Unknown: h.gone.unknown}
	for _, m := range h.members {
		p.Started += m.totals.GetStarted()
		p.Succeeded += m.totals.GetSucceeded() + m.told.succeeded
		p.Failed += m.totals.GetFailed() + m.told.failed
		p.Unknown += m.totals.GetUnknown()
		p.InFlight += m.totals.GetInFlight()
	}
	return p
}

// Trace is what a version's pool had counted over time, oldest first, up to now; nil if nothing was ever heard of it here.
func (f *Fleet) Trace(spec, version string) []postmortem.Point {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.pools[poolKey{spec, version}]
	if h == nil {
		return nil
	}
	out := make([]postmortem.Point, 0, len(h.trace.points)+1)
	out = append(out, h.trace.points...)
	return append(out, h.point(time.Now().UTC()))
}

// Listening is since when this replica has been told what happens.
func (f *Fleet) Listening() time.Time { return f.started }
