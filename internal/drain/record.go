package drain

import "time"

// Drain is the control plane's durable record of one abandoned version's draining.
type Drain struct {
	Spec    string `json:"spec"`
	Version string `json:"version"`
	// Generation is the route generation that abandoned the version.
	Generation uint64    `json:"generation"`
	Target     string    `json:"target"`
	State      State     `json:"state"`
	OrderedAt  time.Time `json:"orderedAt"`
	EndedAt    time.Time `json:"endedAt,omitzero"`
	PostMortem string    `json:"postMortem"`
	// RetrySpread is the span over which retry signals are spread where the contract names none.
	RetrySpread time.Duration `json:"retrySpread"`
	// Base is what the pool's sidecars had counted when the order came; Counts is what came on top of it.
	Base   Counts `json:"base"`
	Counts Counts `json:"counts"`
}

// Active says that the version is fenced: every state but superseded and cancelled.
func (d Drain) Active() bool { return d.State != Superseded && d.State != Cancelled }

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
