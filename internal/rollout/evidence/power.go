package evidence

import (
	"math"
	"slices"
)

// Exposure is a stretch of traffic at one weight of the canary, in basis points: so many executions, on both arms together.
type Exposure struct {
	Weight     uint16
	Executions uint64
}

// Case is what is supposed to be true: how often the stable version fails, and how many times as often the canary does.
type Case struct {
	// Base is the stable version's failure rate, above 0 and below 1.
	Base float64
	// Ratio of the canary's failure rate to Base; the canary's rate is at most 1.
	Ratio float64
	// Alpha at which the test stops the canary.
	Alpha float64
}

// canaryRate is the failure rate of the canary.
func (c Case) canaryRate() float64 { return min(1, c.Base*c.Ratio) }

// Stop is where one run of a case stopped, or came to the end of its exposure.
type Stop struct {
	Stopped bool
	// Executions on both arms until then, and on the canary.
	Executions, Canary uint64
	// Harmed is how many more executions had failed on the canary than would have on the stable version, in expectation of its base rate.
	Harmed float64
}

// Outlook is what a case comes to over an exposure, from simulated runs of this package's own test with a fixed seed: the same arguments always
// give the same outlook. With 2,000 runs a chance is right to within 0.02.
type Outlook struct {
	// Stops of all runs; those that stopped first, by executions until then.
	Stops []Stop
}

// outlookRuns is how many runs an outlook is made of.
const outlookRuns = 2000

// Foresee simulates the test of two arms over the exposures, in order. Executions are taken as independent of each other.
func Foresee(c Case, exposures []Exposure) Outlook {
	stops := make([]Stop, outlookRuns)
	for i := range stops {
		stops[i] = run(c, exposures, mix(uint64(i)+1)) //nolint:gosec // an index
	}
	slices.SortStableFunc(stops, func(a, b Stop) int {
		if a.Stopped != b.Stopped {
			if a.Stopped {
				return -1
			}
			return 1
		}
		switch {
		case a.Executions < b.Executions:
			return -1
		case a.Executions > b.Executions:
			return 1
		}
		return 0
	})
	return Outlook{Stops: stops}
}

// run skips from failure to failure: what lies between them moves no wealth.
func run(c Case, exposures []Exposure, state uint64) Stop {
	uniform := func() float64 {
		state++
		return (float64(mix(state)>>11) + 0.5) / (1 << 53)
	}
	threshold := -math.Log(c.Alpha)
	var test Ratio
	var end Stop
	var canary float64
	var failed uint64
	for _, e := range exposures {
		w := float64(e.Weight) / Whole
		onCanary, onStable := w*c.canaryRate(), (1-w)*c.Base
		rate := onCanary + onStable
		for at := uint64(0); rate > 0; {
			gap := uint64(math.Log(uniform())/math.Log1p(-min(rate, 1-1e-12))) + 1
			if gap > e.Executions-at {
				canary += w * float64(e.Executions-at)
				end.Executions += e.Executions - at
				break
			}
			at += gap
			canary += w * float64(gap)
			end.Executions += gap
			arm := Stable
			if uniform() < onCanary/rate {
				arm = Canary
				failed++
			}
			test.Fail(arm, e.Weight)
			if test.reached(threshold) {
				end.Stopped = true
				return end.with(c, canary, failed)
			}
		}
	}
	return end.with(c, canary, failed)
}

func (s Stop) with(c Case, canary float64, failed uint64) Stop {
	s.Canary = uint64(math.Round(canary))
	s.Harmed = max(0, float64(failed)-c.Base*canary)
	return s
}

// Chance is the share of runs that were stopped.
func (o Outlook) Chance() float64 {
	n := 0
	for _, s := range o.Stops {
		if s.Stopped {
			n++
		}
	}
	return float64(n) / float64(len(o.Stops))
}

// At is the run below which the share q of all runs stopped sooner; ok is false if fewer than that stopped at all.
func (o Outlook) At(q float64) (s Stop, ok bool) {
	i := min(len(o.Stops)-1, int(math.Ceil(q*float64(len(o.Stops))))-1)
	s = o.Stops[max(0, i)]
	return s, s.Stopped
}

// Harm is the mean number of executions harmed before the stop, or before the end of the exposure where there is none.
func (o Outlook) Harm() float64 {
	var sum float64
	for _, s := range o.Stops {
		sum += s.Harmed
	}
	return sum / float64(len(o.Stops))
}

// Power is the chance of having stopped the canary by the end of the exposures.
func Power(c Case, exposures []Exposure) float64 { return Foresee(c, exposures).Chance() }

// ExecutionsFor is how many executions, on both arms together, stop a canary of one weight with the chance asked for; ok is false if not even
// `most` of them do.
func ExecutionsFor(c Case, weight uint16, chance float64, most uint64) (executions uint64, ok bool) {
	s, ok := Foresee(c, []Exposure{{Weight: weight, Executions: most}}).At(chance)
	return s.Executions, ok
}

// ChanceBy is the share of runs that were stopped within so many executions.
func (o Outlook) ChanceBy(executions uint64) float64 {
	n := 0
	for _, s := range o.Stops {
		if s.Stopped && s.Executions <= executions {
			n++
		}
	}
	return float64(n) / float64(len(o.Stops))
}

// HarmedAtLeast is the share of runs that harmed so many executions or more.
func (o Outlook) HarmedAtLeast(harmed float64) float64 {
	n := 0
	for _, s := range o.Stops {
		if s.Harmed >= harmed {
			n++
		}
	}
	return float64(n) / float64(len(o.Stops))
}
