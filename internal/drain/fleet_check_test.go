package drain_test

import (
	"slices"

	"github.com/specproxy/specproxy/internal/drain"
)

// check holds what must be true whenever nothing is moving. What must be true of single steps is held where they are taken: nothing is granted
// after a cut, nothing cut after its point of no return, nothing answered and cut, nothing handed over twice or after its first byte.
func (f *fleet) check() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.again.Load(); n > 0 {
		f.breaks("%d exchanges were cut more than once", n)
	}
	for _, s := range f.sidecars {
		f.checkSidecar(s)
	}
	f.checkDrain()
}

// checkSidecar: none is lost while it is alive, none is there that is not, and every decision stands.
func (f *fleet) checkSidecar(s *simulated) {
	var running []string
	for _, row := range s.ledger.Running() {
		running = append(running, row.ID)
		w := f.byID(row.ID)
		if fence, fenced := s.ledger.Fenced(); fenced && row.Disposition == "" {
			f.breaks("%s runs undecided under the fence of generation %d", row.ID, fence.Generation)
		}
		if row.Disposition == drain.Hold && row.Why == "" {
			f.breaks("%s is held without a reason", row.ID)
		}
		x, ok := s.ledger.Join(row.ID)
		if w == nil || !ok {
			f.breaks("%s runs in the ledger of %s, and is not known", row.ID, s.name)
			continue
		}
		if d, decided := x.Decision(); decided {
			if w.first.Cuts() && d != w.first {
				f.breaks("%s was cut by %q, which is final, and decided over again: %q", w.id, w.first.Why, d.Why)
			}
			w.first = d
		}
	}
	slices.Sort(running)
	if live := f.liveIDs(s); !slices.Equal(running, live) {
		f.breaks("%s: alive are %v, in its ledger are %v", s.name, live, running)
	}
}

// checkDrain: drained means that nothing runs on the version, wherever it is, and held that nothing runs but what a person is shown.
func (f *fleet) checkDrain() {
	if f.order.Generation == 0 || f.order.State != drain.Drained && f.order.State != drain.Held {
		return
	}
	for _, s := range f.sidecars {
		if s.known.Generation < f.order.Generation || !s.known.Active() {
			f.breaks("the drain is %s, and %s does not hold its order", f.order.State, s.name)
			continue
		}
		for _, row := range s.ledger.Running() {
			if f.order.State == drain.Drained || row.Disposition != drain.Hold && !cut(row) {
				f.breaks("the drain is %s, and %s runs on %s, disposition %q", f.order.State, row.ID, s.name, row.Disposition)
			}
		}
	}
}

func cut(r drain.Row) bool { return r.Disposition == drain.Cancel || r.Disposition == drain.Handover }

// checkRest: long after everything, a drain has ended or is shown as held, each execution with its reason.
func (f *fleet) checkRest() {
	if f.order.Generation == 0 || !f.order.Active() {
		return
	}
	running := 0
	for _, s := range f.sidecars {
		for _, row := range s.ledger.Running() {
			running++
			if row.Disposition != drain.Hold || row.Why == "" {
				f.breaks("long after the order %s still runs on %s: %q (%s)", row.ID, s.name, row.Disposition, row.Why)
			}
		}
	}
	want := drain.Drained
	if running > 0 {
		want = drain.Held
	}
	if f.order.State != want {
		f.breaks("long after the order the drain is %s, want %s: %d run", f.order.State, want, running)
	}
}
