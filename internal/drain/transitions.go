package drain

import "fmt"

// Event is what can happen to a drain.
type Event string

const (
	// EventFenced says that every sidecar of the pool has acknowledged the fence, or is known gone.
	EventFenced Event = "fenced"
	// EventRunning says that executions run that are not held; also if some turn up again after all seemed done.
	EventRunning Event = "running"
	// EventOnlyHeld says that nothing runs but held executions.
	EventOnlyHeld Event = "only-held"
	// EventEmptied says that nothing runs.
	EventEmptied Event = "emptied"
	// EventSuperseded says that the version is routed again.
	EventSuperseded Event = "superseded"
	// EventCancelled says that the rollback was undone.
	EventCancelled Event = "cancelled"
)

// transitions is the whole of the state machine: what is not in it is refused. Nothing counts as drained before the fence is proven: until
// then executions may still begin.
var transitions = map[State]map[Event]State{
	Ordered: {
		EventFenced:     Draining,
		EventSuperseded: Superseded,
		EventCancelled:  Cancelled,
	},
	Draining: {
		EventFenced:     Draining,
		EventRunning:    Draining,
		EventOnlyHeld:   Held,
		EventEmptied:    Drained,
		EventSuperseded: Superseded,
		EventCancelled:  Cancelled,
	},
	Held: {
		EventFenced:     Held,
		EventRunning:    Draining,
		EventOnlyHeld:   Held,
		EventEmptied:    Drained,
		EventSuperseded: Superseded,
		EventCancelled:  Cancelled,
	},
	Drained: {
		EventFenced:     Drained,
		EventRunning:    Draining,
		EventOnlyHeld:   Held,
		EventEmptied:    Drained,
		EventSuperseded: Superseded,
		EventCancelled:  Cancelled,
	},
	Superseded: {},
	Cancelled:  {},
}

// Next is the state after event e. An event that the table does not have is an error and changes nothing.
func (s State) Next(e Event) (State, error) {
	if next, ok := transitions[s][e]; ok {
		return next, nil
	}
	return s, fmt.Errorf("a drain that is %s cannot become %s", s, e)
}

// States lists every state, in the order of a drain's life.
func States() []State {
	return []State{Ordered, Draining, Held, Drained, Superseded, Cancelled}
}

// Events lists every event.
func Events() []Event {
	return []Event{EventFenced, EventRunning, EventOnlyHeld, EventEmptied, EventSuperseded, EventCancelled}
}
