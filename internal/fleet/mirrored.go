package fleet

import (
	"slices"
	"time"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/shadow"
	"github.com/specproxy/specproxy/internal/store"
)

// keepMirrored bounds the halves of pairs that are kept of one spec's shadow: the newest. A half whose other one comes later finds no pair.
const keepMirrored = 16_384

// mirrored are the halves that were told of one shadow.
type mirrored struct {
	since  uint64
	halves []shadow.Half
	// told is the last one of each instance: a sidecar begins each session with all that it has kept.
	told map[string]uint64
}

// Shadow counts copies of requests, which are in no other count.
type Shadow struct{ Started, Succeeded, Failed, Unknown, InFlight, Acted uint64 }

func (s Shadow) plus(t *sidecarv1.Shadow) Shadow {
	s.Started += t.GetStarted()
	s.Succeeded += t.GetSucceeded()
	s.Failed += t.GetFailed()
	s.Unknown += t.GetUnknown()
	s.Acted += t.GetActed()
	return s
}

// Mirrored are the halves of pairs that sidecars told of the shadow that began with a generation.
func (f *Fleet) Mirrored(spec string, since uint64) []shadow.Half {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.mirrored[spec]; m != nil && m.since == since {
		return slices.Clone(m.halves)
	}
	return nil
}

// forgetMirrored forgets shadows that have ended, as others begin. f.mu is held.
func (f *Fleet) forgetMirrored() {
	view := f.store.View()
	for spec, m := range f.mirrored {
		if record, ok := view.Shadow(spec); ok && record.Since >= m.since && over(record) {
			delete(f.mirrored, spec)
		}
	}
}

// ShadowAfter is how long after a shadow has ended its last copies may still find their requests.
const ShadowAfter = time.Minute

func over(s store.Shadow) bool { return !s.Ended.IsZero() && time.Since(s.Ended) > ShadowAfter }

// takeMirrored keeps halves of the newest shadow that was heard of.
func (s *session) takeMirrored(batch *sidecarv1.MirroredBatch) {
	f := s.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[s.stored.ID]; m == nil || m.session != s.number {
		return
	}
	for _, x := range batch.GetExecutions() {
		m := f.mirrored[s.key.spec]
		if m == nil || m.since < x.GetSince() {
			f.forgetMirrored()
			m = &mirrored{since: x.GetSince(), told: map[string]uint64{}}
			f.mirrored[s.key.spec] = m
		}
		if m.since > x.GetSince() || m.told[s.stored.ID] >= x.GetSeq() || x.GetCopy() != (x.GetVersion() == s.key.version) {
			continue
		}
		m.told[s.stored.ID] = x.GetSeq()
		m.halves = append(m.halves, shadow.Half{
			Pair: x.GetPair(), Copy: x.GetCopy(), Instance: s.stored.ID, Seq: x.GetSeq(), Execution: x.GetExecution(), Outcome: x.GetOutcome(), At: x.GetEndedAt().AsTime(),
		})
		if len(m.halves) > keepMirrored+keepMirrored/8 { // not one at a time
			m.halves = slices.Delete(m.halves, 0, len(m.halves)-keepMirrored)
		}
	}
}
