package control

import (
	"slices"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/store"
)

// Progress is how far a drain has come, as the sidecars report it. It is a function of the record and of what they say, so that any replica can
// tell it and go on with it at any time, also after a restart.
type Progress struct {
	drain.Drain
	Pool  fleet.Pool
	Acked fleet.Fences
	// InFlight is everything that runs on the version; Running what the drain waits for: all of it, or (a promotion) what the order decided over.
	InFlight, Running uint64
	// Held is the part of Running that waits for a person.
	Held uint64
	// Oldest began first of those that are known one by one; nil if none is.
	Oldest *fleet.Running
	// Holding counts those that are held at their deadlines rather than ended.
	Holding uint64
	// Final is where hand-overs go by now, if the target has been abandoned since; else empty.
	Final string
	// ETA is when half of the chances are that nothing runs any more; Unknown says why there is none.
	ETA     time.Duration
	Unknown string
}

// Measure tells how far a drain has come. The counts of one that has ended are the record's.
func Measure(view *store.View, f *fleet.Fleet, order drain.Drain) Progress {
	pool := f.Pool(view, order.Spec, order.Version)
	p := Progress{Drain: order, Pool: pool, Acked: pool.Acked(order), InFlight: pool.InFlight, Running: pool.InFlight, Held: pool.Here.Held}
	here := pool.Here
	switch order.Kind {
	case drain.KindPromote:
		p.Running = pool.Settling
	case drain.KindShutdown:
		m := f.Member(view, order.Spec, order.Version, order.Instance)
		p.Acked, here = acked(order, m), m.Here
		p.InFlight, p.Running, p.Held = m.InFlight, m.InFlight, m.Here.Held
	case drain.KindRollback, "":
	}
	if order.Unfinished() {
		if final := fleet.FinalTarget(view, order); final != order.Target {
			p.Final = final
		}
		p.Counts = order.CountsWith(here)
		p.Arrived = order.ArrivedWith(f.Arrived(view, order.Spec, order.Origin()))
	}
	return p
}

// acked says that an instance that shuts down has decided over what runs there.
func acked(order drain.Drain, m fleet.Member) fleet.Fences {
	switch {
	case m.Connected && m.Settled:
		return fleet.Fences{Acked: 1, Total: 1}
	case m.Connected:
		return fleet.Fences{Total: 1, Laggards: []string{"instance " + order.Instance + ": waits until proxies have let go of it"}}
	}
	return fleet.Fences{Total: 1, Laggards: []string{"instance " + order.Instance + ": no control stream"}}
}

// Forecast adds the oldest execution and an estimate from the pool's own durations.
func (p Progress) Forecast(f *fleet.Fleet, now time.Time) Progress {
	running := f.Running(p.Spec, p.Version)
	if p.Kind == drain.KindShutdown {
		running = slices.DeleteFunc(running, func(r fleet.Running) bool { return r.Instance != p.Instance })
	}
	remaining := make([]drain.Remaining, 0, len(running))
	held := 0
	for i, r := range running {
		x := r.Execution
		if p.Kind == drain.KindPromote && x.GetDisposition() == "" {
			continue // it began after the order, or the order has not reached it
		}
		if p.Oldest == nil || x.GetStartedAt().AsTime().Before(p.Oldest.Execution.GetStartedAt().AsTime()) {
			p.Oldest = &running[i]
		}
		switch drain.Disposition(x.GetDisposition()) {
		case drain.Hold:
			held++
		case drain.Cancel, drain.Handover: // ends now
		default:
			left := drain.Remaining{Started: x.GetStartedAt().AsTime()}
			if x.GetSettleBy() != nil {
				left.Until = x.GetSettleBy().AsTime()
			}
			if x.GetHolds() {
				p.Holding++
			}
			remaining = append(remaining, left)
		}
	}
	for n := uint64(len(remaining) + held); n < p.Running && len(remaining) < 100_000; n++ {
		remaining = append(remaining, drain.Remaining{Started: now}) // too young to have been reported
	}
	switch eta, known := drain.Estimate(p.Pool.Durations, remaining, now); {
	case !p.Unfinished():
	case len(p.Acked.Laggards) > 0:
		p.Unknown = "not every instance has acknowledged"
	case held > 0:
		p.Unknown = "what is held waits for a person"
	case !known && p.Pool.Durations.Count() == 0:
		p.Unknown = "no execution of this pool has ended by itself yet"
	case !known:
		p.Unknown = "one has run longer than any that ended here, and has no deadline"
	default:
		p.ETA = eta
	}
	return p
}
