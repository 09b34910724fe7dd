package evidence

import (
	"math"
	"sync"
)

// The bets of the test of two arms: the canary fails r times as often as the stable version, r from 1 to 50 in equal steps of its logarithm.
const (
	ratioBets = 40
	maxRatio  = 50
)

// stakes are what one failure does to each bet, by the arm that it was on.
type stakes [2][ratioBets]nats

// stakesOf caches stakes by weight: at most one entry for each basis point.
var stakesOf sync.Map // uint16 -> *stakes

// stakesAt returns the stakes at a weight of the canary in basis points, strictly between 0 and Whole.
//
// If both versions fail equally often, a failure is on the canary with probability w. If the canary fails r times as often, with
// theta = w*r/(w*r+1-w). A bet on r is multiplied by theta/w, or by (1-theta)/(1-w): both expectations are 1 while nothing is wrong.
func stakesAt(weight uint16) *stakes {
	if s, ok := stakesOf.Load(weight); ok {
		return s.(*stakes)
	}
	w := float64(weight) / Whole
	s := &stakes{}
	for i := range ratioBets {
		r := math.Pow(maxRatio, float64(i)/(ratioBets-1))
		s[Canary][i] = floorNats(math.Log(r / (w*r + 1 - w)))
		s[Stable][i] = floorNats(-math.Log(w*r + 1 - w))
	}
	kept, _ := stakesOf.LoadOrStore(weight, s)
	return kept.(*stakes)
}

// Ratio is the test of two arms: does the canary fail more often than the stable version? The zero value has seen nothing.
type Ratio struct {
	wealth [ratioBets]nats
}

// Fail enters one failing unit: the arm that it was on and the canary's weight in basis points when it was assigned. A weight that gives
// everything to one arm says nothing about the other, and moves nothing.
func (r *Ratio) Fail(arm Arm, weight uint16) { r.fail(arm, weight, 1) }

func (r *Ratio) fail(arm Arm, weight uint16, times uint64) {
	if weight == 0 || weight >= Whole {
		return
	}
	for i, s := range &stakesAt(weight)[arm] {
		r.wealth[i] += s * nats(times) //nolint:gosec // counts of failures are far below 2^31
	}
}

// Log is the logarithm of the stake now; it began at 0. Evidence against the canary at level alpha is Log >= -ln(alpha).
func (r *Ratio) Log() float64 { return logMean(r.wealth[:]) }

// reached says whether Log is at least the threshold, without computing it where it plainly is not.
func (r *Ratio) reached(threshold float64) bool {
	for _, l := range r.wealth {
		if l.float() >= threshold {
			return r.Log() >= threshold
		}
	}
	return false // the mean is at most the best bet
}
