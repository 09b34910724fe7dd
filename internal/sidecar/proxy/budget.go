package proxy

import (
	"sync/atomic"

	"github.com/specproxy/specproxy/internal/sidecar/gate"
)

// budget bounds the memory that all kept request bodies take together.
type budget struct {
	limit    int64 // 0: none
	used     atomic.Int64
	refusals *gate.Refusals
}

// take reserves n bytes; false, and counted, if there is no room.
func (b *budget) take(n int64) bool {
	if b.limit == 0 {
		return true
	}
	if n <= b.limit {
		if b.used.Add(n) <= b.limit {
			return true
		}
		b.used.Add(-n)
	}
	if b.refusals != nil {
		b.refusals.Count(gate.BodyBuffer)
	}
	return false
}

func (b *budget) give(n int64) {
	if b.limit != 0 {
		b.used.Add(-n)
	}
}
