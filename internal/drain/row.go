package drain

import (
	"slices"
	"time"
)

// Source says where the knowledge of an execution's effects comes from.
type Source string

// Silent: nothing was said. Declared: by the manifest. Observed: a declared tool was called through the sidecar. Reported: told after the act.
// Guarded: asked for beforehand, or silence of an agent that asks. Unread: a request may name a tool or skill where nobody can look.
const (
	SourceSilent   Source = "silent"
	SourceDeclared Source = "declared"
	SourceObserved Source = "observed"
	SourceReported Source = "reported"
	SourceGuarded  Source = "guarded"
	SourceUnread   Source = "unread"
)

// Outcome is the business outcome; empty while unknown.
type Outcome string

// What an agent states; 2xx alone states nothing.
const (
	Success Outcome = "success"
	Failure Outcome = "failure"
)

// Row is a copy of all that a ledger knows of one execution.
type Row struct {
	ID string
	// Key is the client's own id or idempotency key, if it sent one.
	Key          string
	Method, Path string
	// GRPC, Headers, Tools and Skill are as in View.
	GRPC      bool
	Headers   map[string]string
	Tools     []string
	Skill     string
	StartedAt time.Time
	// EndedAt is zero while it runs.
	EndedAt time.Time
	// RouteGeneration assigned it; 0 if a header led it here, it was pinned, handed over or came past the proxy.
	RouteGeneration uint64
	// Effects is the effective class, never empty.
	Effects       Effects
	EffectsSource Source
	Acts          []Act
	// ActsOmitted counts further acts that touched the world: of each execution 64 acts are kept.
	ActsOmitted   uint64
	Responded     bool
	Replayable    bool
	Outcome       Outcome
	OutcomeReason string
	// Status is the HTTP status sent to the client, 0 before.
	Status int
	// Disposition is empty until an order decided over it; then complete, handover, cancel or hold.
	Disposition Disposition
	Why         string
	// HandedOverFrom is the execution id under which another instance had begun this work.
	HandedOverFrom string
	// Deadline is the request's own, zero if it has none.
	Deadline time.Time
	// SettleBy is when the standing order ends or holds it; zero: it does not.
	SettleBy time.Time
	// Holds: then it is held, and goes on.
	Holds bool
	// Conversation: several exchanges belong to it.
	Conversation bool
	// Slow: it took longer than SlowAfter said.
	Slow bool
}

// View is the row as Decide sees it.
func (r Row) View() View {
	return View{
		Method: r.Method, Path: r.Path, GRPC: r.GRPC, Headers: r.Headers, Tools: r.Tools, Skill: r.Skill, Started: r.StartedAt, Deadline: r.Deadline, Effects: r.Effects,
		Responded: r.Responded, Replayable: r.Replayable, HandedOver: r.HandedOverFrom != "", Conversation: r.Conversation,
	}
}

// Cut says that a hand-over or cancel was decided.
func (r Row) Cut() bool { return r.Disposition == Cancel || r.Disposition == Handover }

// Touched says that it is known to have done more than read: some act of it is of a class worse than readonly.
func (r Row) Touched() bool { return slices.ContainsFunc(r.Acts, Act.Touches) }

// Told says that the control plane is told of the execution's end: it failed, an order decided over it, or it did more than read.
func (r Row) Told() bool { return r.Outcome == Failure || r.Disposition != "" || r.Touched() }

// Totals count since the ledger was made. All but InFlight and Held only grow, but for late outcomes, which move an execution from Succeeded or
// Unknown to another; Started = Succeeded + Failed + Unknown + InFlight.
type Totals struct {
	Started, Succeeded, Failed uint64
	// Unknown ended without any statement about the outcome.
	Unknown  uint64
	InFlight uint64
	// Completed, HandedOver and Cancelled count executions that have ended, by what an order did to them.
	Completed, HandedOver, Cancelled uint64
	// Held run past a deadline after which they are never cut.
	Held uint64
	// Arrived came by a hand-over.
	Arrived uint64
}

func (t *Totals) add(o Totals) {
	t.Started += o.Started
	t.Succeeded += o.Succeeded
	t.Failed += o.Failed
	t.Unknown += o.Unknown
	t.InFlight += o.InFlight
	t.Completed += o.Completed
	t.HandedOver += o.HandedOver
	t.Cancelled += o.Cancelled
	t.Held += o.Held
	t.Arrived += o.Arrived
}
