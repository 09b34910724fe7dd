package drain_test

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

// A thousand executions ask for what cannot be undone while the order that cancels everything comes. Each of them is granted or cut, never
// both and never neither, and nothing is granted once it was cut.
func TestRacingGrantsAndOrder(t *testing.T) {
	const executions = 1000
	for round := range 5 {
		l := drain.NewLedger(mustContract(t, `{effects: guarded, default: {onRollback: cancel}}`))
		var granted, cut [executions]atomic.Int64
		running := make([]*drain.Execution, executions)
		for i := range running {
			running[i], _ = l.Admit(drain.Begin{ID: fmt.Sprint(i), Started: noon, Cut: func(drain.Decision) { cut[i].Add(1) }})
		}
		// The order comes in the middle of the crowd, while grants are being journalled.
		var journals atomic.Int64
		middle := make(chan struct{})
		journal := func() error {
			if journals.Add(1) == executions/2 {
				close(middle)
			}
			runtime.Gosched()
			return nil
		}
		var wg sync.WaitGroup
		for i, x := range running {
			wg.Go(func() {
				err := x.Grant(act(drain.EffectsIrreversible), journal)
				switch {
				case err == nil:
					granted[i].Add(1)
				case !errors.As(err, new(drain.ErrRefused)):
					t.Errorf("%d: %v", i, err)
				}
				if again := x.Grant(act(drain.EffectsIrreversible), nil); (again == nil) != (err == nil) {
					t.Errorf("%d: first %v, then %v", i, err, again)
				}
			})
		}
		wg.Go(func() { <-middle; l.Order(order(9), noon) })
		wg.Wait()
		var both, neither, cuts int
		for i := range running {
			g, c := granted[i].Load(), cut[i].Load()
			switch {
			case g > 0 && c > 0:
				both++
			case g == 0 && c == 0:
				neither++
			}
			cuts += int(c)
			if g > 1 || c > 1 {
				t.Errorf("%d: granted %d times, cut %d times", i, g, c)
			}
		}
		if both+neither > 0 {
			t.Errorf("round %d: %d granted and cut, %d neither", round, both, neither)
		}
		t.Logf("round %d: %d cut, %d granted", round, cuts, executions-cuts)
	}
}

// Traffic, orders, lifts, deadlines and readers all at once; afterwards the books balance.
func TestEverythingAtOnce(t *testing.T) {
	const workers, each = 16, 300
	l := drain.NewLedger(mustContract(t, guardedContract))
	var admitted, refused, cutCalls atomic.Int64
	var clock atomic.Int64
	now := func() time.Time { return noon.Add(time.Duration(clock.Add(int64(time.Millisecond)))) }
	stop := make(chan struct{})
	var traffic, others sync.WaitGroup
	for w := range workers {
		traffic.Go(func() {
			for i := range each {
				var once atomic.Int64
				// Two workers share every id, so that exchanges join, end and begin anew under one id.
				x, o := l.Admit(drain.Begin{ID: fmt.Sprintf("%d-%d", w/2, i), Started: now(), Cut: func(drain.Decision) {
					cutCalls.Add(1)
					if once.Add(1) > 1 {
						t.Error("one exchange was cut twice")
					}
				}})
				if o != nil {
					refused.Add(1)
					continue
				}
				admitted.Add(1)
				x.RequestEnded(i%3 == 0)
				if i%4 == 0 {
					runtime.Gosched()
					class := drain.Classes()[i%len(drain.Classes())]
					err := x.Grant(act(class), func() error { runtime.Gosched(); return nil })
					d, decided := x.Decision()
					if err == nil && class == drain.EffectsIrreversible && decided && d.Cuts() {
						t.Error("an execution was cut after it was granted an irreversible act")
					}
				}
				if err := x.Respond(now()); err == nil {
					x.SetOutcome(i%5 != 0, "every fifth fails")
				}
				x.End(200, now())
			}
		})
	}
	others.Go(func() {
		for generation := uint64(1); ; generation++ {
			select {
			case <-stop:
				return
			default:
			}
			l.Order(drain.Order{Generation: generation, Target: "2.0.3"}, now())
			l.Tick(now())
			l.Lift(generation)
			runtime.Gosched()
		}
	})
	others.Go(func() {
		for seq := uint64(0); ; {
			select {
			case <-stop:
				return
			default:
			}
			_, seq = l.Changed(seq)
			if got := l.Totals(); got.Started != got.Succeeded+got.Failed+got.Unknown+got.InFlight {
				t.Errorf("the books do not balance: %+v", got)
			}
			l.Running()
			l.LastAdmission()
		}
	})
	traffic.Wait()
	close(stop)
	others.Wait()
	got := l.Totals()
	if got.InFlight != 0 || got.Held != 0 || got.Started != got.Succeeded+got.Failed+got.Unknown || got.Started > uint64(admitted.Load()) {
		t.Errorf("%d admitted: totals %+v", admitted.Load(), got)
	}
	if rows := l.Running(); len(rows) != 0 {
		t.Errorf("still running: %v", ids(rows))
	}
	t.Logf("%d exchanges admitted, %d refused, %d cut; %+v", admitted.Load(), refused.Load(), cutCalls.Load(), got)
}
