package session

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
)

var start = time.Date(2026, 11, 24, 14, 0, 0, 0, time.UTC)

func running(n int) *sidecarv1.Execution { return &sidecarv1.Execution{Id: fmt.Sprint("x", n)} }

func ended(n int) *sidecarv1.Execution {
	return &sidecarv1.Execution{Id: fmt.Sprint("x", n), EndedAt: timestamppb.New(start)}
}

// Whatever breaks, an ended execution is sent until it is confirmed, and never after that.
func TestEndedExecutionsAreSentUntilConfirmed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOutbox()
		now := start
		owed, told, connected := map[string]bool{}, map[string]bool{}, false
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"run": func(*rapid.T) { n++; o.offer([]*sidecarv1.Execution{running(n)}) },
			"end": func(t *rapid.T) {
				x := ended(rapid.IntRange(0, n).Draw(t, "x"))
				if told[x.GetId()] || owed[x.GetId()] {
					return // an execution ends once
				}
				o.offer([]*sidecarv1.Execution{x})
				owed[x.GetId()] = true
			},
			"send": func(t *rapid.T) {
				if connected {
					now = now.Add(time.Second)
					o.take(rapid.IntRange(1, 5).Draw(t, "n"), now)
				}
			},
			"confirm": func(t *rapid.T) {
				arrived, _ := o.confirm(now.Add(-time.Duration(rapid.IntRange(0, 5).Draw(t, "age")) * time.Second))
				for _, x := range arrived {
					if !owed[x.GetId()] {
						t.Fatalf("%s is confirmed twice", x.GetId())
					}
					delete(owed, x.GetId())
					told[x.GetId()] = true
				}
			},
			"break":   func(*rapid.T) { o.disconnect(); connected = false },
			"connect": func(*rapid.T) { o.connect(); connected = true },
		})
		// Whatever state that left, a connection that stands tells all.
		o.disconnect()
		o.connect()
		for !o.empty() {
			now = now.Add(time.Second)
			for _, x := range o.take(3, now) {
				if x.GetEndedAt() == nil {
					t.Fatalf("%s, running, was sent after a new connection, which begins with a snapshot", x.GetId())
				}
				if !owed[x.GetId()] {
					t.Fatalf("%s was sent again after it was confirmed", x.GetId())
				}
			}
		}
		arrived, next := o.confirm(now)
		if len(arrived) != len(owed) || !next.IsZero() {
			t.Fatalf("%d confirmed, %d owed", len(arrived), len(owed))
		}
	})
}

func TestOutboxIsBounded(t *testing.T) {
	o := newOutbox()
	for n := range outboxLimit + 10 {
		o.offer([]*sidecarv1.Execution{ended(n)})
	}
	o.connect()
	o.offer([]*sidecarv1.Execution{running(-1)}) // no room; the snapshot or its end will tell
	if n := o.takeDropped(); n != 10 {
		t.Errorf("%d dropped", n)
	}
	taken := o.take(outboxLimit+100, start)
	if len(taken) != outboxLimit || taken[0].GetId() != "x10" {
		t.Errorf("%d waited, first %s", len(taken), taken[0].GetId())
	}
	for n := range 10 {
		o.offer([]*sidecarv1.Execution{ended(1_000_000 + n)})
	}
	o.disconnect()
	if n := o.takeDropped(); n != 10 {
		t.Errorf("after a broken connection %d dropped", n)
	}
}

func TestTheNewestReportOfAnExecutionReplacesTheOlder(t *testing.T) {
	o := newOutbox()
	o.connect()
	o.offer([]*sidecarv1.Execution{running(1), running(2)})
	o.offer([]*sidecarv1.Execution{ended(1)})
	taken := o.take(10, start)
	if len(taken) != 2 || taken[0].GetId() != "x1" || taken[0].GetEndedAt() == nil {
		t.Errorf("got %v", taken)
	}
}
