package drain_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

// The simulation drives a ledger and a model side by side with random steps and compares all that can be seen after each. The model is one
// map, one clock and Decide.

// modelled is one execution as the model has it.
type modelled struct {
	x       *drain.Execution
	view    drain.View
	outcome drain.Outcome
	ended   bool
	// decided is the disposition that stands; deadline and then belong to it. lifted: the fence went down since.
	decided  drain.Disposition
	deadline time.Time
	then     drain.Disposition
	held     bool
	lifted   bool
	cuts     int
}

func (m *modelled) cut() bool { return m.decided == drain.Handover || m.decided == drain.Cancel }

type simulation struct {
	t        *testing.T
	random   *rand.Rand
	contract drain.Contract
	ledger   *drain.Ledger
	now      time.Time
	all      map[string]*modelled
	// fence is the standing order's generation, 0 for none; newest that of the last order taken.
	fence, newest uint64
	// called counts the calls of Cut since the last step.
	called map[string]int
	// reader follows Changed as a control plane does.
	reader map[string]drain.Row
	seq    uint64
	log    []string
}

const simulatedContract = `
effects: guarded
default: {onRollback: complete, within: 20s, then: cancel}
rules:
- when: {effects: none, olderThan: 10s}
  onRollback: cancel
- when: {effects: none}
  onRollback: handover
  else: cancel
- when: {effects: readonly}
  onRollback: handover
  else: complete
- when: {effects: idempotent}
  onRollback: cancel
- when: {effects: irreversible, method: GET}
  onRollback: complete
  within: 30s
  then: hold
`

var simulatedAttributes = []drain.Attribute{{Name: "kind", Header: "x-kind", Values: []string{"a", "b*"}}, {Name: "path", Values: []string{"/"}}}

func TestSimulation(t *testing.T) {
	t.Parallel()
	for seed := range uint64(ledgerRuns) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			c := mustContract(t, simulatedContract)
			s := &simulation{
				t: t, random: rand.New(rand.NewPCG(seed, 1)), contract: c, ledger: drain.NewLedger(c, simulatedAttributes...), now: noon,
				all: map[string]*modelled{}, called: map[string]int{}, reader: map[string]drain.Row{},
			}
			for range 250 {
				s.step()
				s.check()
				if t.Failed() {
					t.Fatalf("seed %d, last steps:\n%v", seed, s.log[max(0, len(s.log)-15):])
				}
			}
			s.endAll()
			s.check()
		})
	}
}

func (s *simulation) did(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...)+"\n")
}

func (s *simulation) step() {
	s.now = s.now.Add(time.Duration(s.random.IntN(3000)) * time.Millisecond)
	id, m := s.pick()
	switch n := s.random.IntN(100); {
	case n < 25 || m == nil:
		s.admit()
	case n < 45:
		s.grant(id, m)
	case n < 52:
		class := s.class()
		s.did("%s reports %s", id, class)
		m.x.Report(act(class))
		m.view.Effects = m.view.Effects.Worse(class)
	case n < 60:
		s.did("%s responds", id)
		if err := m.x.Respond(s.now); (err != nil) != m.cut() {
			s.t.Errorf("respond: %v, cut=%v", err, m.cut())
		}
		m.view.Responded = m.view.Responded || !m.cut()
	case n < 66:
		success := s.random.IntN(2) == 0
		s.did("%s succeeds=%v", id, success)
		m.x.SetOutcome(success, "said so")
		m.outcome = drain.Failure
		if success {
			m.outcome = drain.Success
		}
	case n < 82:
		s.end(id, m)
	case n < 90:
		s.tick()
	case n < 96:
		s.order()
	default:
		s.lift()
	}
}

// pick is a random live execution, nil if none is.
func (s *simulation) pick() (string, *modelled) {
	live := s.live()
	if len(live) == 0 {
		return "", nil
	}
	id := live[s.random.IntN(len(live))]
	return id, s.all[id]
}

func (s *simulation) live() []string {
	var live []string
	for _, id := range slices.Sorted(maps.Keys(s.all)) {
		if !s.all[id].ended {
			live = append(live, id)
		}
	}
	return live
}

func (s *simulation) class() drain.Effects {
	return drain.Classes()[s.random.IntN(len(drain.Classes()))]
}

func (s *simulation) admit() {
	id := fmt.Sprintf("x%d", len(s.all))
	m := &modelled{view: drain.View{
		Method: []string{"GET", "POST"}[s.random.IntN(2)], Path: "/", Started: s.now,
		Replayable: s.random.IntN(2) == 0, HandedOver: s.random.IntN(4) == 0,
	}}
	b := drain.Begin{ID: id, Method: m.view.Method, Path: "/", Started: s.now, Cut: func(drain.Decision) { s.called[id]++ }}
	b.Place = drain.PlaceOf(simulatedAttributes, "/", func(int) []string { return [][]string{{"a"}, {"bc"}, {"c"}, nil}[s.random.IntN(4)] })
	if m.view.HandedOver {
		b.HandedOverFrom = "elsewhere"
	}
	if s.random.IntN(3) == 0 {
		m.view.Deadline = s.now.Add(time.Duration(s.random.IntN(60)) * time.Second)
		b.Deadline = m.view.Deadline
	}
	x, refused := s.ledger.Admit(b)
	s.did("%s admitted=%v %+v", id, x != nil, m.view)
	if (x == nil) != (s.fence != 0) || (refused == nil) != (s.fence == 0) {
		s.t.Errorf("admitted=%v under fence %d", x != nil, s.fence)
	}
	if x == nil {
		return
	}
	x.RequestEnded(m.view.Replayable)
	m.x = x
	s.all[id] = m
}

func (s *simulation) grant(id string, m *modelled) {
	class := s.class()
	var journal error
	if s.random.IntN(5) == 0 {
		journal = errors.New("disk full")
	}
	s.did("%s asks for %s, journal: %v", id, class, journal)
	err := m.x.Grant(act(class), func() error { return journal })
	if (err == nil) != (!m.cut() && journal == nil) {
		s.t.Errorf("grant: %v; cut=%v, journal: %v", err, m.cut(), journal)
	}
	if err == nil {
		m.view.Effects = m.view.Effects.Worse(class)
	}
}

func (s *simulation) end(id string, m *modelled) {
	status := []int{0, 200, 503}[s.random.IntN(3)]
	s.did("%s ends with %d", id, status)
	m.x.End(status, s.now)
	m.ended, m.held = true, false
	if m.outcome == "" && status == 503 && !m.cut() {
		m.outcome = drain.Failure
	}
}

func (s *simulation) endAll() {
	for _, id := range s.live() {
		s.end(id, s.all[id])
	}
}

func (s *simulation) order() {
	generation := s.newest + uint64(s.random.IntN(3))
	taken := s.ledger.Order(drain.Order{Generation: generation, Target: "2.0.3"}, s.now)
	s.did("order %d taken=%v", generation, taken)
	if taken != (generation > s.newest) {
		s.t.Errorf("order %d after %d: taken=%v", generation, s.newest, taken)
	}
	if !taken {
		return
	}
	s.fence, s.newest = generation, generation
	for _, m := range s.all {
		if m.ended || m.cut() || m.decided != "" && !m.lifted {
			continue
		}
		d := drain.Decide(s.contract, m.view, "2.0.3", s.now)
		m.decided, m.deadline, m.then, m.lifted = d.Disposition, d.Deadline, d.Then, false
		if d.Cuts() {
			m.cuts++
		}
	}
}

func (s *simulation) lift() {
	if s.fence == 0 {
		return
	}
	s.did("lift %d", s.fence)
	if !s.ledger.Lift(s.fence) {
		s.t.Error("not lifted")
	}
	s.fence = 0
	for _, m := range s.all {
		if !m.ended && !m.cut() {
			m.lifted, m.held, m.deadline = m.decided != "", false, time.Time{}
		}
	}
}

func (s *simulation) tick() {
	next := s.ledger.Tick(s.now)
	s.did("tick, next %v", next)
	var want time.Time
	for _, m := range s.all {
		if m.ended || m.decided != drain.Complete || m.deadline.IsZero() || m.held {
			continue
		}
		switch irreversible := m.view.Effects == drain.EffectsIrreversible; {
		case m.deadline.After(s.now):
			if want.IsZero() || m.deadline.Before(want) {
				want = m.deadline
			}
		case m.then == drain.Cancel && !irreversible:
			m.decided = drain.Cancel
			m.cuts++
		default:
			m.held = true
		}
	}
	if !next.Equal(want) {
		s.t.Errorf("next deadline %v, want %v", next, want)
	}
}

// check compares all that can be seen of the ledger with the model.
func (s *simulation) check() {
	var want drain.Totals
	for id, m := range s.all {
		s.checkExecution(id, m)
		m.count(&want)
	}
	if got := s.ledger.Totals(); got != want {
		s.t.Errorf("totals\n got %+v\nwant %+v", got, want)
	}
	s.checkSegments(want)
	running := ids(s.ledger.Running())
	slices.Sort(running)
	if live := s.live(); !slices.Equal(running, live) {
		s.t.Errorf("running %v, want %v", running, live)
	}
	if _, fenced := s.ledger.Fenced(); fenced != (s.fence != 0) {
		s.t.Errorf("fenced=%v, want %d", fenced, s.fence)
	}
	s.checkReader()
}

func (s *simulation) checkExecution(id string, m *modelled) {
	if s.called[id] != m.cuts || m.cuts > 1 {
		s.t.Errorf("%s: Cut was called %d times, want %d", id, s.called[id], m.cuts)
	}
	row := m.x.Row()
	want := m.decided
	if m.held {
		want = drain.Hold
	}
	// Once it has ended, a held execution is written down as held.
	if m.ended && row.Disposition == drain.Hold && want == drain.Complete {
		want = drain.Hold
	}
	if row.Disposition != want || row.EndedAt.IsZero() == m.ended || row.Outcome != m.outcome || row.Responded != m.view.Responded {
		s.t.Errorf("%s: got %+v\nwant %s, ended=%v, outcome %q, responded=%v", id, row, want, m.ended, m.outcome, m.view.Responded)
	}
	// Past the point of no return nothing is cut: what was cut had done nothing irreversible when it was.
	if d, ok := m.x.Decision(); ok && d.Cuts() && d.Effects == drain.EffectsIrreversible {
		s.t.Errorf("%s was cut after it did what cannot be undone: %s", id, d.Why)
	}
}

func (m *modelled) count(t *drain.Totals) {
	t.Started++
	if m.view.HandedOver {
		t.Arrived++
	}
	switch {
	case !m.ended:
		t.InFlight++
		if m.held {
			t.Held++
		}
		return
	case m.outcome == drain.Success:
		t.Succeeded++
	case m.outcome == drain.Failure:
		t.Failed++
	default:
		t.Unknown++
	}
	switch m.decided {
	case drain.Complete, drain.Hold:
		t.Completed++
	case drain.Handover:
		t.HandedOver++
	case drain.Cancel:
		t.Cancelled++
	}
}

// checkReader follows the changes: whatever runs, failed or was decided over is known to the reader as it is now.
func (s *simulation) checkReader() {
	rows, seq := s.ledger.Changed(s.seq)
	if seq < s.seq {
		s.t.Errorf("the number of changes went back from %d to %d", s.seq, seq)
	}
	s.seq = seq
	for _, row := range rows {
		s.reader[row.ID] = row
	}
	for id, m := range s.all {
		if m.ended && m.outcome != drain.Failure && m.decided == "" {
			continue
		}
		if got, want := fmt.Sprint(s.reader[id]), fmt.Sprint(m.x.Row()); got != want {
			s.t.Errorf("the reader has\n     %s\nwant %s", got, want)
		}
	}
}

// checkSegments: by each attribute every execution is counted once; a failure from when it is stated.
func (s *simulation) checkSegments(t drain.Totals) {
	for _, m := range s.all {
		if !m.ended && m.outcome == drain.Failure {
			t.Failed++
		}
	}
	for _, a := range simulatedAttributes {
		var sum drain.Segment
		for _, x := range s.ledger.Segments() {
			if x.Attribute == a.Name {
				sum.Started, sum.Failed, sum.Unknown = sum.Started+x.Started, sum.Failed+x.Failed, sum.Unknown+x.Unknown
			}
		}
		if sum.Started != t.Started || sum.Failed != t.Failed || sum.Unknown != t.Unknown {
			s.t.Errorf("by %s %+v are counted, in all %+v", a.Name, sum, t)
		}
	}
}
