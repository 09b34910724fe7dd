package session

import (
	"slices"
	"sync"
	"time"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
)

// keepMirrored is how many ended executions that were copied, or are copies, are kept to be told: each session begins with all of them, so that a
// replica that was away can find their other halves. Older ones find no pair.
const keepMirrored = 4096

// mirrors are these executions, oldest first. It may be used by several goroutines.
type mirrors struct {
	mu  sync.Mutex
	all []*sidecarv1.Mirrored
	seq uint64
}

// add numbers an execution by the time, so that numbers grow across restarts too.
func (m *mirrors) add(x *sidecarv1.Mirrored, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seq = max(m.seq+1, uint64(now.UnixNano())) //nolint:gosec // it is after 1970
	x.Seq = m.seq
	m.all = append(m.all, x)
	if len(m.all) > keepMirrored+keepMirrored/8 { // not one at a time
		m.all = slices.Delete(m.all, 0, len(m.all)-keepMirrored)
	}
}

// after returns up to n executions that come after a number, and whether there are more.
func (m *mirrors) after(seq uint64, n int) (next []*sidecarv1.Mirrored, more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, _ := slices.BinarySearchFunc(m.all, seq+1, func(x *sidecarv1.Mirrored, seq uint64) int {
		switch {
		case x.GetSeq() < seq:
			return -1
		case x.GetSeq() > seq:
			return 1
		}
		return 0
	})
	rest := m.all[i:]
	return slices.Clone(rest[:min(n, len(rest))]), len(rest) > n
}
