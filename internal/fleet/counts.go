package fleet

import (
	"time"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
)

// recentSpan is the window of rates and recent outcomes.
const recentSpan = 30 * time.Second

// history is what a pool has counted beyond the sidecars that are here now.
type history struct {
	gone   counts
	recent window
	trace  trace
	// members are those of Fleet.members that belong to the pool, by instance id.
	members map[string]*member
}

// counts are cumulative, as sidecars report them.
type counts struct {
	started, succeeded, failed, unknown, passedOn uint64
	drained                                       drain.Counts
	durations                                     drain.Durations
	segments                                      []drain.Segment
	shadow                                        Shadow
}

func (c counts) clone() *counts { return &c }

func (c *counts) add(t *sidecarv1.Totals) {
	c.started += t.GetStarted()
	c.succeeded += t.GetSucceeded()
	c.failed += t.GetFailed()
	c.unknown += t.GetUnknown()
	c.passedOn += t.GetPassedOn()
	c.shadow = c.shadow.plus(t.GetShadow())
	c.drained = c.drained.Plus(countsOf(t))
	if d := t.GetDurations(); len(d) > 0 {
		c.durations = c.durations.Plus(d)
	}
	c.segments = drain.PlusSegments(c.segments, segmentsOf(t))
}

func countsOf(t *sidecarv1.Totals) drain.Counts {
	return drain.Counts{Completed: t.GetCompleted(), HandedOver: t.GetHandedOver(), Cancelled: t.GetCancelled(), Held: t.GetHeld()}
}

// window counts by second over the last recentSpan. The zero value is empty.
type window struct {
	seconds [int(recentSpan / time.Second)]second
	newest  time.Time
}

type second struct {
	unix                       int64
	started, succeeded, failed uint64
}

// add puts a difference into the second of now.
func (w *window) add(now time.Time, started, succeeded, failed uint64) {
	s := &w.seconds[now.Unix()%int64(len(w.seconds))]
	if s.unix != now.Unix() {
		*s = second{unix: now.Unix()}
	}
	w.newest = now
	s.started += started
	s.succeeded += succeeded
	s.failed += failed
}

func (w *window) sum(now time.Time) (total second) {
	for _, s := range w.seconds {
		if s.unix > now.Unix()-int64(len(w.seconds)) {
			total.started += s.started
			total.succeeded += s.succeeded
			total.failed += s.failed
		}
	}
	return total
}

// rate is starts a second, over the window or over what has passed since this replica began to listen if that is shorter (one second at
// least). The span is the same for every pool, so that the rates of a spec's versions sum to the spec's own.
func (w *window) rate(now, began time.Time) float64 {
	span := min(recentSpan, now.Sub(began))
	return float64(w.sum(now).started) / max(span, time.Second).Seconds()
}

func (w *window) outcomes(now time.Time) (succeeded, failed uint64) {
	s := w.sum(now)
	return s.succeeded, s.failed
}
