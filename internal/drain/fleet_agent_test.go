package drain_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

// admit sends new work to a sidecar, or with join another request of running work. fleet.mu is held.
func (f *fleet) admit(s *simulated, from string) {
	var w *work
	if live := f.liveIDs(s); from == "" && len(live) > 0 && f.random.IntN(5) == 0 {
		w = f.byID(live[f.random.IntN(len(live))])
	} else {
		w = &work{id: fmt.Sprintf("x%d", len(f.works)), at: s, epoch: s.epoch, ledger: s.ledger, arrived: from != ""}
	}
	x := &exchangeOf{f: f, w: w, s: s, random: rand.New(rand.NewPCG(f.random.Uint64(), 3)), cut: make(chan drain.Decision, 1), dead: s.dead}
	begin := drain.Begin{ID: w.id, Method: "POST", Path: "/", Started: s.now(), HandedOverFrom: from, Cut: func(d drain.Decision) {
		select {
		case x.cut <- d:
		default:
			f.again.Add(1)
		}
	}}
	known := s.known
	joins := w.open > 0
	execution, refused := s.ledger.Admit(begin)
	if execution == nil {
		f.did("%s refuses %s for %s", s.name, w.id, refused.Target)
		return
	}
	if known.Generation > 0 && known.Active() && s.version == known.Version && !joins {
		f.breaks("%s admitted new work under the fence of generation %d", s.name, known.Generation)
	}
	if !joins {
		f.works = append(f.works, w)
	}
	f.did("%s admits %s (joins: %v, from %q)", s.name, w.id, joins, from)
	if joins {
		f.seen["joined"]++
	}
	w.open++
	execution.RequestEnded(x.random.IntN(3) > 0)
	x.x = execution
	x.hangs = x.random.IntN(10) == 0
	f.agents.Go(x.run)
}

func (f *fleet) byID(id string) *work {
	for _, w := range f.works {
		if w.id == id {
			return w
		}
	}
	return nil
}

// exchangeOf is one request, its agent's work on it and its client.
type exchangeOf struct {
	f      *fleet
	w      *work
	s      *simulated
	x      *drain.Execution
	random *rand.Rand
	cut    chan drain.Decision
	dead   chan struct{}
	hangs  bool
}

// run is the agent's work, step by step.
func (e *exchangeOf) run() {
	for range e.random.IntN(5) {
		if !e.wait(20 * time.Second) {
			return
		}
		e.act()
	}
	if !e.wait(10 * time.Second) {
		return
	}
	if e.hangs {
		select {
		case <-e.f.hung:
		case d := <-e.cut:
			e.isCut(d)
			return
		case <-e.dead:
			e.died()
			return
		}
	}
	e.respond()
}

// wait lets time pass; false if the exchange ended meanwhile.
func (e *exchangeOf) wait(upTo time.Duration) bool {
	timer := time.NewTimer(time.Duration(e.random.Int64N(int64(upTo))) + time.Duration(e.random.IntN(1000)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case d := <-e.cut:
		e.isCut(d)
	case <-e.dead:
		e.died()
	}
	return false
}

// act asks for an act. The journal takes its time, so that orders come in between.
func (e *exchangeOf) act() {
	class := drain.Classes()[e.random.IntN(len(drain.Classes()))]
	disk := time.Duration(e.random.IntN(2000)) * time.Millisecond
	full := e.random.IntN(10) == 0
	a := drain.Act{Tool: "t", Class: class, Key: e.w.id, At: time.Now()}
	err := e.x.Grant(a, func() error {
		<-time.After(disk)
		if full {
			return errors.New("the disk is full")
		}
		e.f.mu.Lock()
		defer e.f.mu.Unlock()
		e.s.journal[e.w.id] = append(e.s.journal[e.w.id], a)
		return nil
	})
	e.f.mu.Lock()
	defer e.f.mu.Unlock()
	select {
	case <-e.dead: // nobody heard the answer
		return
	default:
	}
	if err != nil {
		if e.w.cut != "" {
			e.f.seen["cut although it asks"]++
		}
		return
	}
	e.f.did("%s is granted %s", e.w.id, class)
	if e.w.cut != "" || e.w.cancelled+e.w.handedOver > 0 {
		e.f.breaks("%s was granted an act after it was cut (%s)", e.w.id, e.w.cut)
	}
	if full {
		e.f.breaks("%s was granted an act that could not be journalled", e.w.id)
	}
	if class == drain.EffectsIrreversible {
		e.w.granted = true
		e.f.seen["granted what cannot be undone"]++
	}
}

// respond sends the answer, at once or as a stream that takes a while.
func (e *exchangeOf) respond() {
	if err := e.x.Respond(time.Now()); err != nil {
		select {
		case d := <-e.cut:
			e.isCut(d)
		case <-e.dead:
			e.died()
		}
		return
	}
	e.f.mu.Lock()
	e.w.responded = true
	e.f.mu.Unlock()
	if e.random.IntN(2) == 0 && !e.wait(15*time.Second) {
		return
	}
	e.f.mu.Lock()
	answers := e.w.cut == "" // else another exchange of the execution was told first
	if answers {
		e.w.completed++
		e.f.seen["completed"]++
	}
	e.w.open--
	now := e.s.now()
	e.f.did("%s answers", e.w.id)
	e.f.mu.Unlock()
	e.x.SetOutcome(true, "")
	e.x.End(200, now)
	if d, decided := e.x.Decision(); answers && decided && d.Cuts() {
		e.f.mu.Lock()
		e.f.breaks("%s was answered, and its ledger says %s", e.w.id, d.Why)
		e.f.mu.Unlock()
	}
	e.s.poke()
}

// isCut gives the client what a cut means, and lets an agent that did not hear of it try to act all the same.
func (e *exchangeOf) isCut(d drain.Decision) {
	e.f.mu.Lock()
	e.w.cut = d.Disposition
	e.f.did("%s is cut: %s (%s)", e.w.id, d.Disposition, d.Why)
	if e.w.granted {
		e.f.breaks("%s was cut after its point of no return: %s", e.w.id, d.Why)
	}
	switch d.Disposition {
	case drain.Handover:
		e.w.handedOver++
		e.f.seen["handed over"]++
		if e.w.responded {
			e.f.breaks("%s was handed over after its first byte", e.w.id)
		}
		if e.w.arrived {
			e.f.breaks("%s was handed over a second time", e.w.id)
		}
		e.f.admit(e.f.heir, e.w.id)
	case drain.Cancel:
		e.w.cancelled++
		e.f.seen["cancelled"]++
		if e.w.responded {
			e.f.seen["cancelled after a first byte"]++
		}
	case drain.Complete, drain.Hold:
		e.f.breaks("%s was cut to %s", e.w.id, d.Disposition)
	}
	e.f.mu.Unlock()
	for range e.random.IntN(3) {
		<-time.After(time.Duration(e.random.IntN(5000)) * time.Millisecond)
		e.act()
	}
	if e.random.IntN(3) == 0 {
		if err := e.x.Respond(time.Now()); err == nil {
			e.f.mu.Lock()
			e.f.breaks("%s may answer although it was cut", e.w.id)
			e.f.mu.Unlock()
		}
	}
	e.f.mu.Lock()
	e.w.open--
	now := e.s.now()
	e.f.mu.Unlock()
	e.x.End(503, now)
	e.s.poke()
}

// died: the process is gone, and with it agent and connection. The client knows nothing but that.
func (e *exchangeOf) died() {
	e.f.mu.Lock()
	defer e.f.mu.Unlock()
	e.w.open--
}
