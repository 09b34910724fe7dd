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

// After applies events in order; what the state does not take does not move it.
func (s State) After(events []Event) State {
	for _, e := range events {
		if next, err := s.Next(e); err == nil {
			s = next
		}
	}
	return s
}

// Observed is what a pool's reports say happened to its drain, in order: of all its instances so many have acknowledged the order, and so many
// executions run that it waits for, of which so many are held. An instance that is silent has not acknowledged and is never taken for idle: it
// keeps the drain where it is until it is back or known gone.
func Observed(acknowledged, instances int, running, held uint64) []Event {
	switch {
	case acknowledged < instances:
		return nil
	case running == 0:
		return []Event{EventFenced, EventEmptied}
	case running <= held:
		return []Event{EventFenced, EventOnlyHeld}
	}
	return []Event{EventFenced, EventRunning}
}

// States lists every state, in the order of a drain's life.
func States() []State {
	return []State{Ordered, Draining, Held, Drained, Superseded, Cancelled}
}

// Events lists every event.
func Events() []Event {
	return []Event{EventFenced, EventRunning, EventOnlyHeld, EventEmptied, EventSuperseded, EventCancelled}
}
