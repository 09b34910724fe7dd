// Package shadow compares what a version made of copies of requests with what became of the requests themselves.
//
// Invariants: a pair is counted once, however often and in whatever order its halves are reported, and by whichever replica; an outcome that nobody
// stated is unknown, and so is the pair. The package is pure: no clock, no I/O, no goroutines.
package shadow

import (
	"math"
	"slices"
	"time"
)

// Outcomes of a half; unknown is the empty one.
const (
	Success = "success"
	Failure = "failure"
)

// Half is one end of a pair as its sidecar told it.
type Half struct {
	// Pair names the request and its copy.
	Pair string
	// Copy: it is the copy's half.
	Copy bool
	// Instance told it, as the Seq-th of its halves; numbers of one instance only grow.
	Instance string
	Seq      uint64
	// Execution is its id there.
	Execution string
	Outcome   string
	At        time.Time
}

// Pair is a request and its copy, of which one failed.
type Pair struct {
	ID string `json:"id"`
	// Request and Copy are the ids of the executions.
	Request      string    `json:"request"`
	Copy         string    `json:"copy"`
	RequestEnded string    `json:"requestEnded"`
	CopyEnded    string    `json:"copyEnded"`
	At           time.Time `json:"at"`
}

// MaxDiscordant bounds the pairs that are kept by name: the newest.
const MaxDiscordant = 50

// maxRead bounds the instances of which it is remembered how far they were read: beyond it, those that tell nothing any more are forgotten.
const maxRead = 1000

// Tally counts pairs by how they ended.
type Tally struct {
	BothSucceeded uint64 `json:"bothSucceeded"`
	// RequestFailed: the request failed and its copy succeeded. CopyFailed: the other way round.
	RequestFailed uint64 `json:"requestFailed"`
	CopyFailed    uint64 `json:"copyFailed"`
	BothFailed    uint64 `json:"bothFailed"`
	// Unknown are pairs of which one half or both stated no outcome.
	Unknown uint64 `json:"unknown"`
	// Requests and Copies are the halves that were told of, paired or not.
	Requests uint64 `json:"requests"`
	Copies   uint64 `json:"copies"`
	// Discordant are the newest pairs of which one half failed, oldest first.
	Discordant []Pair `json:"discordant,omitempty"`
	// Read says up to which half of each instance it has counted, by its id.
	Read map[string]uint64 `json:"read,omitempty"`
}

// Pairs counts those of which both halves are known.
func (t Tally) Pairs() uint64 {
	return t.BothSucceeded + t.RequestFailed + t.CopyFailed + t.BothFailed + t.Unknown
}

// Plus counts what is new in halves, which may hold any number of halves that were counted before. The tally itself stays as it is.
func (t Tally) Plus(halves []Half) (next Tally, moved bool) {
	next = t
	next.Discordant = slices.Clone(t.Discordant)
	next.Read = make(map[string]uint64, len(t.Read))
	for instance, seq := range t.Read {
		next.Read[instance] = seq
	}
	type pair struct {
		request, copied *Half
		fresh           bool
	}
	pairs := map[string]*pair{}
	for i := range halves {
		h := &halves[i]
		p := pairs[h.Pair]
		if p == nil {
			p = &pair{}
			pairs[h.Pair] = p
		}
		fresh := h.Seq > t.Read[h.Instance]
		switch {
		case h.Copy && p.copied == nil:
			p.copied = h
			if fresh {
				next.Copies++
			}
		case !h.Copy && p.request == nil:
			p.request = h
			if fresh {
				next.Requests++
			}
		default:
			fresh = false // told twice
		}
		p.fresh = p.fresh || fresh
		if h.Seq > next.Read[h.Instance] {
			next.Read[h.Instance], moved = h.Seq, true
		}
	}
	if len(next.Read) > maxRead {
		next.forget(halves)
	}
	var found []Pair
	for id, p := range pairs {
		if p.request == nil || p.copied == nil || !p.fresh {
			continue // waits for its other half, or was counted when that came
		}
		switch a, b := p.request.Outcome, p.copied.Outcome; {
		case a != Success && a != Failure || b != Success && b != Failure:
			next.Unknown++
			continue
		case a == Success && b == Success:
			next.BothSucceeded++
			continue
		case a == Failure && b == Failure:
			next.BothFailed++
			continue
		case a == Failure:
			next.RequestFailed++
		default:
			next.CopyFailed++
		}
		at := p.request.At
		if p.copied.At.After(at) {
			at = p.copied.At
		}
		found = append(found, Pair{ID: id, Request: p.request.Execution, Copy: p.copied.Execution, RequestEnded: p.request.Outcome, CopyEnded: p.copied.Outcome, At: at})
	}
	next.Discordant = append(next.Discordant, found...)
	slices.SortFunc(next.Discordant, func(a, b Pair) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return slices.Compare([]byte(a.ID), []byte(b.ID))
	})
	if n := len(next.Discordant) - MaxDiscordant; n > 0 {
		next.Discordant = slices.Delete(next.Discordant, 0, n)
	}
	return next, moved
}

// forget keeps in Read the instances that halves are of.
func (t *Tally) forget(halves []Half) {
	telling := make(map[string]struct{}, maxRead)
	for i := range halves {
		telling[halves[i].Instance] = struct{}{}
	}
	for instance := range t.Read {
		if _, ok := telling[instance]; !ok {
			delete(t.Read, instance)
		}
	}
}

// Sign is the exact two-sided sign test on the pairs of which one half failed (McNemar's): how often chance alone would divide them at least as
// unequally if a copy failed no more often than its request. ok is false if there are none. Looked at again and again it says less than it
// seems: it is for a person's judgement, and stops nothing.
func (t Tally) Sign() (p float64, ok bool) {
	n, least := t.RequestFailed+t.CopyFailed, min(t.RequestFailed, t.CopyFailed)
	if n == 0 {
		return 0, false
	}
	whole, _ := math.Lgamma(float64(n) + 1)
	for k := range least + 1 {
		a, _ := math.Lgamma(float64(k) + 1)
		b, _ := math.Lgamma(float64(n-k) + 1)
		p += math.Exp(whole - a - b - float64(n)*math.Ln2)
	}
	return min(1, 2*p), true
}
