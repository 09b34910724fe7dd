package evidence

import "math"

// ceilingBets are the bets against "fails at most as often as its ceiling": failure rates up to 50 times the ceiling, at most 99 %.
const ceilingBets = 40

// LogAboveCeiling is the logarithm of an e-process against "each of these executions fails with probability at most ceiling", after `failed` of
// `all`. At level alpha the ceiling is broken once it is at least -ln(alpha). Executions that have not ended count in all: they have not failed.
func LogAboveCeiling(all, failed uint64, ceiling float64) float64 {
	if all == 0 || ceiling <= 0 || ceiling >= 0.99 {
		return 0
	}
	most := min(maxRatio, 0.99/ceiling)
	var logs [ceilingBets]float64
	for i := range logs {
		q := ceiling * math.Pow(most, float64(i)/(ceilingBets-1))
		logs[i] = logLikelihood(all, failed, q) - logLikelihood(all, failed, ceiling)
	}
	return logMeanFloat(logs[:])
}

// boundBets are the bets against "fails at least as often as the bound": failure rates from nothing to the bound, in equal steps.
const boundBets = 30

// LogBelowBound is the logarithm of an e-process against "each of these executions fails with probability at least bound", after `failed` of
// `ended`. At level alpha the failure rate is below the bound once it is at least -ln(alpha), at any time that one chooses to look.
func LogBelowBound(ended, failed uint64, bound float64) float64 {
	if ended == 0 || bound <= 0 {
		return 0
	}
	if bound >= 1 {
		return math.Inf(1)
	}
	var logs [boundBets]float64
	for i := range logs {
		logs[i] = logLikelihood(ended, failed, bound*float64(i)/boundBets) - logLikelihood(ended, failed, bound)
	}
	return logMeanFloat(logs[:])
}

// logLikelihood of `failed` failures in n at failure rate q.
func logLikelihood(n, failed uint64, q float64) float64 {
	l := float64(n-min(n, failed)) * math.Log1p(-q)
	if failed > 0 {
		l += float64(failed) * math.Log(q) // -Inf at q = 0, as it should be
	}
	return l
}

// UpperBound is the least failure rate that `failed` of `ended` executions rule out at level alpha, at any time that one chooses to look; 1
// while they rule out nothing.
func UpperBound(ended, failed uint64, alpha float64) float64 {
	if ended == 0 || failed >= ended {
		return 1
	}
	low, high := float64(failed)/float64(ended), 1.0
	for range 40 {
		mid := (low + high) / 2
		if LogBelowBound(ended, failed, mid) >= -math.Log(alpha) {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

// Needed is how many executions in all must have ended, with no failures beyond those there are, before the failure rate is below the bound at
// level alpha. Impossible bounds (not above 0) need more than any number: math.MaxUint64.
func Needed(failed uint64, bound, alpha float64) uint64 {
	if bound <= 0 {
		return math.MaxUint64
	}
	threshold := -math.Log(alpha)
	high := uint64(1)
	for LogBelowBound(high+failed, failed, bound) < threshold {
		high *= 2
		if high > 1<<40 {
			return math.MaxUint64
		}
	}
	low := high / 2
	for low+1 < high {
		mid := (low + high) / 2
		if LogBelowBound(mid+failed, failed, bound) >= threshold {
			high = mid
		} else {
			low = mid
		}
	}
	return high + failed
}
