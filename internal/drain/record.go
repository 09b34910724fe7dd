package drain

import "time"

// Drain is the control plane's durable record of how what runs on a version, or on one instance of it, is settled.
type Drain struct {
	Spec    string `json:"spec"`
	Version string `json:"version"`
	// Kind is rollback (also where it is empty), promote or shutdown.
	Kind Kind `json:"kind,omitempty"`
	// Instance that shuts down; else empty.
	Instance string `json:"instance,omitempty"`
	// Generation is the route generation that took the version's weight; of a shutdown the one in force when it began.
	Generation uint64    `json:"generation"`
	Target     string    `json:"target"`
	State      State     `json:"state"`
	OrderedAt  time.Time `json:"orderedAt"`
	EndedAt    time.Time `json:"endedAt,omitzero"`
	PostMortem string    `json:"postMortem"`
	// Lowered is since when a command holds the fence down that is about to route the version again; zero: none does. If the command does
	// not come to its end, the fence rises again and the drain goes on.
	Lowered time.Time `json:"lowered,omitzero"`
	// RetrySpread is the span over which retry signals are spread where the contract names none.
	RetrySpread time.Duration `json:"retrySpread"`
	// Base is what the pool's sidecars had counted when the order came; Counts is what came on top of it.
	Base   Counts `json:"base"`
	Counts Counts `json:"counts"`
	// Left is what instances had counted that are gone since.
	Left Counts `json:"left,omitzero"`
	// ArrivedBase is what all instances of the spec had counted, when the order came, of executions that were handed over to them from here;
	// ArrivedLeft what those had that are gone since.
	ArrivedBase uint64 `json:"arrivedBase,omitempty"`
	ArrivedLeft uint64 `json:"arrivedLeft,omitempty"`
	// Arrived is what came on top of it, as far as the drain has come.
	Arrived uint64 `json:"arrived,omitempty"`
	// Lost counts the executions of a shutdown that still ran when the process ended, as it had last told.
	Lost uint64 `json:"lost,omitempty"`
	// DefaultWithin is the deadline of a complete for which the contract gives none; 0: none.
	DefaultWithin time.Duration `json:"defaultWithin,omitempty"`
}

// Active says that the order stands: every state but superseded and cancelled.
func (d Drain) Active() bool { return d.State != Superseded && d.State != Cancelled }

// Fences says that the version is fenced: it was abandoned, the order stands, and no command holds the fence down.
func (d Drain) Fences() bool {
	return d.Active() && (d.Kind == KindRollback || d.Kind == "") && d.Lowered.IsZero()
}

// Settles says that sidecars are to decide over what runs though the version goes on admitting. Once nothing of it runs there is nothing to say.
func (d Drain) Settles() bool { return d.Kind == KindPromote && d.Unfinished() }

// Unfinished says that executions may still run under the order.
func (d Drain) Unfinished() bool {
	return d.State == Ordered || d.State == Draining || d.State == Held
}

// Origin is how instances to which this drain hands over name where it came from: the version, or of a shutdown "@" and the instance.
func (d Drain) Origin() string {
	if d.Kind == KindShutdown {
		return OriginInstance(d.Instance)
	}
	return d.Version
}

// OriginInstance is the origin of what another instance of the same version handed over.
func OriginInstance(instance string) string { return "@" + instance }

// ArrivedWith is what has arrived since the order, if the instances that are here have counted this.
func (d Drain) ArrivedWith(here uint64) uint64 {
	return max(here+d.ArrivedLeft, d.ArrivedBase) - d.ArrivedBase
}

// CountsWith is what the order has done so far, if the instances that are here have counted this.
func (d Drain) CountsWith(here Counts) Counts { return here.Plus(d.Left).Minus(d.Base) }

// Counts are executions by what the order did to them.
type Counts struct {
	Completed  uint64 `json:"completed"`
	HandedOver uint64 `json:"handedOver"`
	Cancelled  uint64 `json:"cancelled"`
	Held       uint64 `json:"held"`
}

// State of a drain.
type State string

const (
	// Ordered is committed; not every sidecar has acknowledged the fence.
	Ordered State = "ordered"
	// Draining is fenced while executions still run.
	Draining State = "draining"
	// Drained means that nothing runs any more.
	Drained State = "drained"
	// Held means that nothing runs but what a person must look at.
	Held State = "held"
	// Superseded means that the version is routed again and its fence lifted.
	Superseded State = "superseded"
	// Cancelled means that the rollback was undone.
	Cancelled State = "cancelled"
)

// Plus is the sum of two.
func (c Counts) Plus(o Counts) Counts {
	return Counts{Completed: c.Completed + o.Completed, HandedOver: c.HandedOver + o.HandedOver, Cancelled: c.Cancelled + o.Cancelled, Held: c.Held + o.Held}
}

// Minus is the difference of two cumulative counts; it never goes below zero, since a sidecar that restarts counts from zero.
func (c Counts) Minus(base Counts) Counts {
	sub := func(a, b uint64) uint64 {
		if a < b {
			return 0
		}
		return a - b
	}
	return Counts{
		Completed:  sub(c.Completed, base.Completed),
		HandedOver: sub(c.HandedOver, base.HandedOver),
		Cancelled:  sub(c.Cancelled, base.Cancelled),
		Held:       sub(c.Held, base.Held),
	}
}
