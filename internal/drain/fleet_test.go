package drain_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

// The fleet simulation: a control plane with one drain, sidecars whose streams break, processes that are killed, clocks that step, agents that ask
// before they act, clients that hold on to what they got. Ledgers, decisions and the drain's state machine are the production ones; everything
// around them is here, on a fake clock, driven by a seed. After each step the invariants of check must hold.

// fleetContracts are drawn from.
var fleetContracts = []string{`
effects: guarded
default: {onRollback: complete, within: 20s, then: cancel}
rules:
- when: {effects: none, olderThan: 10s}
  onRollback: cancel
- when: {effects: none}
  onRollback: handover
  else: cancel
- when: {effects: irreversible}
  onRollback: complete
  within: 30s
  then: hold
`, `
effects: guarded
default: {onRollback: cancel}
`, `
effects: guarded
default: {onRollback: complete}
rules:
- when: {effects: [none, readonly, idempotent]}
  onRollback: handover
  else: complete
  within: 15s
  then: cancel
`}

// fleet is one run.
type fleet struct {
	t        *testing.T
	random   *rand.Rand
	contract drain.Contract
	sidecars []*simulated
	// heir serves the target: what is handed over arrives there.
	heir *simulated

	mu     sync.Mutex // all below, and the fields of works
	works  []*work
	order  drain.Drain // the durable record; generation 0: none yet
	gen    uint64
	rev    int // of order, as sidecars see it
	broken []string
	seen   map[string]int
	log    []string
	again  atomic.Int64  // exchanges whose Cut was called more than once
	hung   chan struct{} // closed when agents that hang may go on
	agents sync.WaitGroup
}

// simulated is one sidecar process after another, on one machine.
type simulated struct {
	f       *fleet
	name    string
	version string

	// Guarded by fleet.mu.
	ledger  *drain.Ledger
	epoch   int           // counts processes
	dead    chan struct{} // closed when this process is killed
	stream  int           // counts streams; 0: none stands
	streams int
	known   drain.Drain // the state it holds, also on disk
	rev     int         // of known
	skew    time.Duration
	journal map[string][]drain.Act // granted, by execution; survives a kill
	// view is what the control plane has been told over the stream that stands; nil after that broke.
	view *told
	redo chan struct{}
}

// told is one report.
type told struct {
	generation uint64
	fenced     bool
	running    uint64
	held       uint64
}

// work is one execution as the world outside knows it.
type work struct {
	id      string
	at      *simulated
	epoch   int
	ledger  *drain.Ledger
	open    int
	arrived bool
	// What its client got: an answer, a retry signal, or the work begun again elsewhere.
	completed, cancelled, handedOver int
	responded                        bool
	// granted is the irreversible act that it was allowed, if any; cut what was decided when Cut was called.
	granted bool
	cut     drain.Disposition
	// first is the decision that stands, and under which generation it was seen.
	first drain.Decision
}

func TestFleetSimulation(t *testing.T) {
	t.Parallel()
	from, runs := uint64(0), uint64(fleetRuns)
	if seed, err := strconv.ParseUint(os.Getenv("FLEET_SEED"), 10, 64); err == nil {
		from, runs = seed, 1 // one run again
	}
	seen := map[string]int{}
	for seed := from; seed < from+runs && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) { simulateFleet(t, seed, seen) })
	}
	t.Logf("%d runs: %v", runs, seen)
	if runs == 1 || t.Failed() {
		return
	}
	// A simulation in which something never happens proves nothing about it.
	for _, what := range []string{
		"completed", "cancelled", "cancelled after a first byte", "handed over", "joined", "cut although it asks", "granted what cannot be undone", "killed with grants",
		"drain drained", "drain held", "drain superseded", "drain ordered again",
	} {
		if seen[what] == 0 {
			t.Errorf("never seen: %s", what)
		}
	}
}

func simulateFleet(t *testing.T, seed uint64, seen map[string]int) {
	random, pauses := rand.New(rand.NewPCG(seed, 7)), rand.New(rand.NewPCG(seed, 11)) // random belongs to fleet.mu
	f := &fleet{
		t: t, random: random, contract: mustContract(t, fleetContracts[random.IntN(len(fleetContracts))]), hung: make(chan struct{}), seen: seen,
	}
	f.mu.Lock()
	for i := range 3 {
		f.sidecars = append(f.sidecars, f.newSidecar(fmt.Sprintf("s%d", i), "2.1.0"))
	}
	f.heir = f.newSidecar("heir", "2.0.3")
	f.mu.Unlock()
	for range 30 {
		<-time.After(time.Duration(pauses.IntN(4000))*time.Millisecond + time.Microsecond)
		f.step()
		synctest.Wait()
		f.check()
		if t.Failed() {
			break
		}
	}
	f.finish()
	if len(f.broken) > 0 {
		for _, line := range f.log[max(0, len(f.log)-40):] {
			t.Log(line)
		}
		for _, line := range f.broken[:min(len(f.broken), 5)] {
			t.Error(line)
		}
		t.Errorf("again with FLEET_SEED=%d", seed)
	}
}

func (f *fleet) did(format string, args ...any) {
	f.log = append(f.log, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

func (f *fleet) breaks(format string, args ...any) {
	f.broken = append(f.broken, fmt.Sprintf(format, args...))
}

func (f *fleet) newSidecar(name, version string) *simulated {
	s := &simulated{f: f, name: name, version: version, journal: map[string][]drain.Act{}, redo: make(chan struct{}, 1)}
	s.start()
	f.connect(s)
	return s
}

// start begins a process. What it held before is on its disk, and in force before the first request.
func (s *simulated) start() {
	s.epoch++
	s.ledger, s.dead = drain.NewLedger(s.f.contract), make(chan struct{})
	if s.known.Generation > 0 {
		s.hold(s.ledger, s.known)
	}
	ledger, dead, redo := s.ledger, s.dead, s.redo
	s.f.agents.Go(func() { // deadlines, as the sidecar applies them
		timer := time.NewTimer(time.Hour)
		defer timer.Stop()
		for {
			select {
			case <-redo:
			case <-timer.C:
			case <-dead:
				return
			}
			s.f.mu.Lock()
			now := s.now()
			s.f.mu.Unlock()
			wait := time.Hour
			if next := ledger.Tick(now); !next.IsZero() {
				wait = max(next.Sub(now), 0)
			}
			timer.Reset(wait)
			s.f.report(s)
		}
	})
}

// now is this machine's clock. fleet.mu is held.
func (s *simulated) now() time.Time { return time.Now().Add(s.skew) }

// hold puts a state in force.
func (s *simulated) hold(ledger *drain.Ledger, order drain.Drain) {
	if order.Active() {
		ledger.Order(drain.Order{Generation: order.Generation, Target: order.Target, RetrySpread: order.RetrySpread, DefaultWithin: order.DefaultWithin}, s.now())
	} else {
		ledger.Lift(order.Generation)
	}
}

func (s *simulated) poke() {
	select {
	case s.redo <- struct{}{}:
	default:
	}
}

// connect opens a stream, which begins with the state. fleet.mu is held, or the run has not begun.
func (f *fleet) connect(s *simulated) {
	if s.stream != 0 {
		return
	}
	s.streams++
	s.stream = s.streams
	f.deliver(s)
}

// deliver sends the state over the stream that stands; it is lost if that breaks before it arrives. fleet.mu is held.
func (f *fleet) deliver(s *simulated) {
	if s.stream == 0 {
		return
	}
	stream, epoch, order, rev := s.stream, s.epoch, f.order, f.rev
	delay := time.Duration(f.random.IntN(300)) * time.Millisecond
	f.agents.Go(func() {
		<-time.After(delay)
		f.mu.Lock()
		if s.stream != stream || s.epoch != epoch {
			f.mu.Unlock()
			return
		}
		if rev >= s.rev && order.Generation > 0 && s.version == order.Version {
			s.known, s.rev = order, rev
			s.hold(s.ledger, order) // again, if it has it already
		}
		f.mu.Unlock()
		s.poke()
		f.report(s)
	})
}

// report tells the control plane how a sidecar stands, fence and totals in one word, and lets the drain move.
func (f *fleet) report(s *simulated) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.stream == 0 || s == f.heir {
		return
	}
	totals := s.ledger.Totals()
	_, fenced := s.ledger.Fenced()
	s.view = &told{generation: s.known.Generation, fenced: fenced, running: totals.InFlight, held: totals.Held}
	f.moveDrain()
}

// moveDrain is what the control plane does with what it was told. fleet.mu is held.
func (f *fleet) moveDrain() {
	if f.order.Generation == 0 || !f.order.Active() {
		return
	}
	acknowledged := 0
	var running, held uint64
	for _, s := range f.sidecars {
		if s.view == nil {
			continue
		}
		if s.view.fenced && s.view.generation >= f.order.Generation {
			acknowledged++
		}
		running += s.view.running
		held += s.view.held
	}
	next := f.order.State.After(drain.Observed(acknowledged, len(f.sidecars), running, held))
	if next != f.order.State {
		f.did("drain %s -> %s (acknowledged %d, running %d, held %d)", f.order.State, next, acknowledged, running, held)
		f.order.State = next
		f.seen["drain "+string(next)]++
		f.checkDrain()
	}
}

// step is one thing that happens.
func (f *fleet) step() {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sidecars[f.random.IntN(len(f.sidecars))]
	switch n := f.random.IntN(100); {
	case n < 45:
		for range 1 + f.random.IntN(3) {
			f.admit(f.sidecars[f.random.IntN(len(f.sidecars))], "")
		}
	case n < 60:
		f.rollBack()
	case n < 65:
		f.did("the order is repeated to all")
		for _, o := range f.sidecars {
			f.deliver(o)
			f.deliver(o)
		}
	case n < 70:
		f.rollForward()
	case n < 78:
		f.did("%s loses its stream", s.name)
		s.stream, s.view = 0, nil
	case n < 86:
		f.did("%s connects", s.name)
		f.connect(s)
	case n < 90:
		f.kill(s)
	case n < 96:
		s.skew += time.Duration(f.random.IntN(7200)-3600) * time.Second
		f.did("the clock of %s is off by %s", s.name, s.skew)
		s.poke()
	default:
		f.did("the control plane starts again")
		for _, o := range f.sidecars {
			o.stream, o.view = 0, nil
			f.connect(o)
		}
	}
}

// rollBack orders the drain, or again with another target where one goes on. fleet.mu is held.
func (f *fleet) rollBack() {
	if f.order.Active() && f.gen > 0 {
		f.seen["drain ordered again"]++
	}
	f.gen++
	target := "2.0.3"
	if f.random.IntN(4) == 0 {
		// A chain: the heir of earlier rollbacks is abandoned as well, and what had been handed over to it runs there.
		target = "2.0.2"
		f.heir.ledger.Order(drain.Order{Generation: f.gen, Target: target, DefaultWithin: time.Minute}, f.heir.now())
		f.heir.poke()
	}
	f.order = drain.Drain{
		Spec: "s", Version: "2.1.0", Generation: f.gen, Target: target, State: drain.Ordered, OrderedAt: time.Now(), RetrySpread: time.Second,
		DefaultWithin: time.Minute, Kind: drain.KindRollback,
	}
	f.rev++
	f.did("generation %d abandons 2.1.0 for %s", f.gen, target)
	for _, s := range f.sidecars {
		f.deliver(s)
	}
}

// rollForward routes the version again. fleet.mu is held.
func (f *fleet) rollForward() {
	if f.order.Generation == 0 || !f.order.Active() {
		return
	}
	next, err := f.order.State.Next(drain.EventSuperseded)
	if err != nil {
		f.breaks("a drain that is %s is not superseded: %v", f.order.State, err)
		return
	}
	f.order.State = next
	f.heir.ledger.Lift(f.gen)
	f.rev++
	f.seen["drain superseded"]++
	f.did("rolled forward: the drain is superseded")
	for _, s := range f.sidecars {
		f.deliver(s)
	}
}

// kill ends a process at once and starts the next one, which finds in the journal what its predecessor's agent was allowed. fleet.mu is held.
func (f *fleet) kill(s *simulated) {
	f.did("%s is killed", s.name)
	close(s.dead)
	s.stream, s.view = 0, nil
	for _, w := range f.works {
		if w.at == s && w.epoch == s.epoch && w.open > 0 && w.granted && len(s.journal[w.id]) == 0 {
			f.breaks("%s was granted an act that the journal does not have", w.id)
		}
		if w.at == s && w.epoch == s.epoch && w.open > 0 && w.granted {
			f.seen["killed with grants"]++
		}
	}
	s.start()
	s.poke()
	f.connect(s)
}

// finish lets the world come to rest: streams stand, agents that do not hang end, and every drain has ended or is shown as held.
func (f *fleet) finish() {
	f.mu.Lock()
	for _, s := range f.sidecars {
		f.connect(s)
	}
	f.mu.Unlock()
	<-time.After(6 * time.Hour)
	synctest.Wait()
	f.check()
	f.mu.Lock()
	f.checkRest()
	f.mu.Unlock()
	close(f.hung)
	<-time.After(time.Hour)
	synctest.Wait()
	f.mu.Lock()
	if f.order.Generation > 0 && f.order.Active() && f.order.State != drain.Drained {
		f.breaks("nothing runs, and the drain is %s", f.order.State)
	}
	for _, s := range slices.Concat(f.sidecars, []*simulated{f.heir}) {
		if n := s.ledger.Totals().InFlight; n > 0 {
			f.breaks("%s: nothing runs, and its ledger has %d", s.name, n)
		}
		close(s.dead)
	}
	f.mu.Unlock()
	f.agents.Wait()
}

// liveIDs are those whose exchanges are open in a sidecar's present process. fleet.mu is held.
func (f *fleet) liveIDs(s *simulated) []string {
	live := map[string]bool{}
	for _, w := range f.works {
		if w.at == s && w.epoch == s.epoch && w.open > 0 {
			live[w.id] = true
		}
	}
	return slices.Sorted(maps.Keys(live))
}
