package drain_test

import (
	"testing"

	"github.com/specproxy/specproxy/internal/drain"
)

// Every state and every event; what the table does not say is refused and changes nothing.
func TestStateNext(t *testing.T) {
	const no = drain.State("")
	order := drain.Events()
	want := map[drain.State][]drain.State{
		//                fenced, running, only-held, emptied, superseded, cancelled
		drain.Ordered:    {drain.Draining, no, no, no, drain.Superseded, drain.Cancelled},
		drain.Draining:   {drain.Draining, drain.Draining, drain.Held, drain.Drained, drain.Superseded, drain.Cancelled},
		drain.Held:       {drain.Held, drain.Draining, drain.Held, drain.Drained, drain.Superseded, drain.Cancelled},
		drain.Drained:    {drain.Drained, drain.Draining, drain.Held, drain.Drained, drain.Superseded, drain.Cancelled},
		drain.Superseded: {no, no, no, no, no, no},
		drain.Cancelled:  {no, no, no, no, no, no},
	}
	if len(want) != len(drain.States()) {
		t.Fatalf("the table has %d states, the machine %d", len(want), len(drain.States()))
	}
	for _, from := range drain.States() {
		if len(want[from]) != len(order) {
			t.Fatalf("%s: the table has %d events, the machine %d", from, len(want[from]), len(order))
		}
		for i, event := range order {
			got, err := from.Next(event)
			switch expected := want[from][i]; {
			case expected == no && (err == nil || got != from):
				t.Errorf("%s, %s: got %s, %v; want a refusal", from, event, got, err)
			case expected != no && (err != nil || got != expected):
				t.Errorf("%s, %s: got %s, %v; want %s", from, event, got, err, expected)
			}
		}
	}
	if got, err := drain.State("gone").Next(drain.EventFenced); err == nil || got != "gone" {
		t.Errorf("an unknown state became %s", got)
	}
}

// A version is fenced until its drain is superseded or cancelled, and only then.
func TestActive(t *testing.T) {
	for _, s := range drain.States() {
		final := true
		for _, event := range drain.Events() {
			if _, err := s.Next(event); err == nil {
				final = false
			}
		}
		if got := (drain.Drain{State: s}).Active(); got == final {
			t.Errorf("%s: active=%v, final=%v", s, got, final)
		}
	}
}
