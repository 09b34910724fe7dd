package session

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/drain"
)

// A replica that takes every report believes in exactly the executions that run, but for those younger than the interval; and it has heard of
// every failure.
func TestReplicasBelieveWhatIsTrue(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := start
		ledger := drain.NewLedger(drain.Contract{Default: drain.Action{OnRollback: drain.Complete}})
		c := newCollector(ledger, 100*time.Millisecond, func() time.Time { return now })
		live := map[string]*drain.Execution{}
		began := map[string]time.Time{}
		failed := map[string]bool{}
		believed, heard := map[string]bool{}, map[string]bool{}
		gather := func() bool {
			changed, again := c.gather()
			for _, x := range changed {
				if x.GetEndedAt() == nil {
					believed[x.GetId()] = true
				} else {
					delete(believed, x.GetId())
					heard[x.GetId()] = true
				}
			}
			return again
		}
		n := 0
		pick := func(t *rapid.T) (string, bool) {
			if len(live) == 0 {
				return "", false
			}
			var ids []string
			for i := range n + 1 {
				if id := fmt.Sprint("x", i); live[id] != nil {
					ids = append(ids, id)
				}
			}
			return rapid.SampledFrom(ids).Draw(t, "x"), true
		}
		rt.Repeat(map[string]func(*rapid.T){
			"begin": func(*rapid.T) {
				n++
				id := fmt.Sprint("x", n)
				live[id], _ = ledger.Admit(drain.Begin{ID: id, Started: now})
				began[id] = now
			},
			"end": func(t *rapid.T) {
				id, ok := pick(t)
				if !ok {
					return
				}
				if rapid.Bool().Draw(t, "fails") {
					live[id].SetOutcome(false, "no")
					failed[id] = true
				}
				live[id].End(200, now)
				c.end(live[id].Row())
				delete(live, id)
			},
			"respond": func(t *rapid.T) {
				if id, ok := pick(t); ok {
					_ = live[id].Respond(now)
				}
			},
			"state": func(t *rapid.T) {
				if id, ok := pick(t); ok {
					live[id].SetOutcome(true, "")
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 150).Draw(t, "ms")) * time.Millisecond)
			},
			"gather": func(*rapid.T) { gather() },
			"connect": func(*rapid.T) {
				clear(believed)
				for _, x := range c.snapshot() {
					believed[x.GetId()] = true
				}
			},
		})
		for gather() {
			now = now.Add(100 * time.Millisecond)
		}
		gather()
		for id := range believed {
			if live[id] == nil {
				rt.Fatalf("%s is believed to run", id)
			}
		}
		for id := range live {
			if !believed[id] && now.Sub(began[id]) >= 100*time.Millisecond {
				rt.Fatalf("nobody knows of %s", id)
			}
		}
		for id := range failed {
			if !heard[id] {
				rt.Fatalf("the failure of %s is not known", id)
			}
		}
	})
}

// An execution that states its success and ends a moment later, with a look in between, is nowhere believed to run for ever.
func TestASuccessThatEndsAtOnceIsNotBelievedToRun(t *testing.T) {
	now := start
	ledger := drain.NewLedger(drain.Contract{Default: drain.Action{OnRollback: drain.Complete}})
	c := newCollector(ledger, 100*time.Millisecond, func() time.Time { return now })
	x, _ := ledger.Admit(drain.Begin{ID: "x", Started: now})
	x.SetOutcome(true, "")
	now = now.Add(time.Millisecond)
	told, _ := c.gather()
	x.End(200, now)
	c.end(x.Row())
	now = now.Add(time.Second)
	after, _ := c.gather()
	told = append(told, after...)
	if n := len(told); n > 0 && told[n-1].GetEndedAt() == nil {
		t.Errorf("the last that is told of it is that it runs: %v", told)
	}
}

func TestReportsComeAtMostOncePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := drain.NewLedger(drain.Contract{Default: drain.Action{OnRollback: drain.Complete}})
		g := New(Config{Ledger: ledger, Interval: 100 * time.Millisecond, Now: time.Now})
		p := &peer{group: g, outbox: newOutbox(), news: make(chan struct{}, 1), urgent: make(chan struct{}, 1)}
		g.peers = append(g.peers, p)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			g.collect(ctx)
		}()
		first := time.Now()
		var at []time.Duration
		for i := range 4 {
			x, _ := ledger.Admit(drain.Begin{ID: fmt.Sprint(i), Started: time.Now()})
			x.SetOutcome(false, "no")
			x.End(200, time.Now())
			g.Changed()
			<-p.news
			at = append(at, time.Since(first))
		}
		if fmt.Sprint(at) != "[0s 100ms 200ms 300ms]" {
			t.Errorf("news at %v", at)
		}
		cancel()
		<-ended
	})
}
