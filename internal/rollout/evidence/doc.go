// Package evidence judges a canary by what its executions came to, on as little traffic as agents have.
//
// The core is an e-process: a bet against "the canary fails as often as the stable version" whose stake can only grow by luck, so that the
// chance of it ever reaching 1/alpha without cause is at most alpha, however often one looks, under changing weights and drifting load.
// Sources: Lindon and Malek, Anytime-valid inference for multinomial count data, 2022; Howard et al., Time-uniform confidence sequences, 2021.
//
// Invariants:
//   - A failure is judged by the canary's weight when its execution was assigned, never by the weight when the outcome arrived.
//   - A unit (what is assigned at random as a whole: the hash key, or the conversation) enters a metric's test once, with its first failure.
//   - Wealth is kept in whole units of 2^-32 nats, rounded down: it does not depend on the order of outcomes, nor on the machine, and is never
//     overstated. It is a function of the tallies, which are what is stored.
//   - A metric that failed stays failed until the evidence begins anew.
//   - What is not known is never taken for good: executions without an outcome count as failures wherever promotion is asked for.
//
// The package is pure: it reads no clock, does no I/O and starts no goroutine. Nothing in it is safe for concurrent use.
package evidence

import "math"

// Whole is all of a spec's traffic, in basis points.
const Whole = 10_000

// Arm is the side of a canary that an execution was assigned to.
type Arm uint8

// The two arms.
const (
	Stable Arm = iota
	Canary
)

// String implements fmt.Stringer.
func (a Arm) String() string {
	if a == Canary {
		return "canary"
	}
	return "stable"
}

// nats is a natural logarithm in units of 2^-32.
type nats int64

const unit = 1 << 32

// negligible beside the best bet: e^-40 of it is less than a float64 can tell.
const negligible = 40 * unit

// floorNats rounds down, so that wealth is never overstated.
func floorNats(x float64) nats { return nats(math.Floor(x * unit)) }

func (n nats) float() float64 { return float64(n) / unit }

// logMean is the logarithm of the mean of e^l over all l.
func logMean(logs []nats) float64 {
	most := logs[0]
	for _, l := range logs[1:] {
		most = max(most, l)
	}
	var sum float64
	for _, l := range logs {
		if l-most > -negligible {
			sum += math.Exp((l - most).float())
		}
	}
	return most.float() + math.Log(sum/float64(len(logs)))
}

// logMeanFloat is logMean for logarithms that nothing keeps.
func logMeanFloat(logs []float64) float64 {
	most := math.Inf(-1)
	for _, l := range logs {
		most = max(most, l)
	}
	if math.IsInf(most, -1) {
		return most
	}
	var sum float64
	for _, l := range logs {
		sum += math.Exp(l - most)
	}
	return most + math.Log(sum/float64(len(logs)))
}
