package postmortem

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
	"github.com/specproxy/specproxy/internal/routing"
)

const (
	// Alpha of the tests that would have decided: the chance of a false alarm.
	Alpha = 0.05
	// wantedChance is the chance of stopping at which a plan is said to catch.
	wantedChance = 0.8
	// HarmBudget is how many harmed executions a plan may cost that is called one that would have caught it.
	HarmBudget = 10
	// mostExecutions bounds how long a plan is looked at, and mostFailures how many failures that may be in expectation: each costs time.
	mostExecutions = 100_000
	mostFailures   = 200
	// ceilingOver is how many times the target's failure rate the ceiling is that the test of one version is made against.
	ceilingOver = 2
)

// plannedWeights are the canary weights, in basis points, that are looked at for a plan that would have caught it.
var plannedWeights = []uint16{100, 200, 500, 1000, 2000, 5000}

// Analysis is what follows from the evidence about one abandoned version: every figure is a function of the record's events, and of nothing else.
type Analysis struct {
	Version string `json:"version"`
	Target  string `json:"target"`
	// Bad and Base are how often the version and the target failed, of the executions that stated their outcome.
	Bad  Rate `json:"bad"`
	Base Rate `json:"base"`
	// Harmed is how many executions failed on the version beyond those that would have failed on the target.
	Harmed float64 `json:"harmed"`
	// Keys is how many different keys clients gave the failing executions of the version; Keyless how many of these had none.
	Keys    int `json:"keys"`
	Keyless int `json:"keyless"`
	// Steps are the generations in which the version held weight.
	Steps []StepSeen `json:"steps"`
	// Canary sums the steps at which it held some of the traffic and not all; Chance is that of their having stopped it.
	Canary CanarySeen `json:"canary"`
	// Plans are single steps that were looked at, smallest weight first; Best is the one that would have caught it soonest within the harm budget.
	Plans []Plan80 `json:"plans"`
	Best  *Plan80  `json:"best,omitempty"`
	// Same is what the canary's own weight (or 5 %, if there was none) would have needed.
	Same Plan80 `json:"same"`
	// Threshold is what Curve and Alone must reach. Curve is the evidence against the version beside the target; Alone the evidence that it
	// failed more often than Ceiling.
	Threshold float64     `json:"threshold"`
	Ceiling   float64     `json:"ceiling"`
	Curve     []Evidently `json:"curve"`
	Alone     []Evidently `json:"alone"`
	// Spoke is when either reached the threshold first; zero if neither did.
	Spoke time.Time `json:"spoke,omitzero"`
	// Rates are the success rates of both over time, Running what ran on the version.
	Rates   []RateAt    `json:"rates"`
	Running []RunningAt `json:"running"`
	// Segments are the failing executions of the version by method and path, most first.
	Segments []Segment `json:"segments"`
	// Attributes tell by each attribute that the manifest declares what production had and what the canary saw. Where is the segment whose
	// share of the failures exceeds its share of the executions most; nil if none does by a tenth of all.
	Attributes []AttributeSeen `json:"attributes"`
	Where      *Where          `json:"where,omitempty"`
}

// Rate of failures.
type Rate struct {
	Failed uint64 `json:"failed"`
	Ended  uint64 `json:"ended"`
	// Rate is Failed/Ended; where nothing failed (failed + ½)/(ended + 1), so that it is above 0.
	Rate float64 `json:"rate"`
}

// StepSeen is what one step saw. Known is false if the counts at one of its ends are missing; then there are none.
type StepSeen struct {
	Generation uint64    `json:"generation"`
	Weight     uint32    `json:"weight"`
	From       time.Time `json:"from"`
	Until      time.Time `json:"until"`
	Known      bool      `json:"known"`
	// Executions that began on the version, and on all versions.
	Executions uint64 `json:"executions"`
	All        uint64 `json:"all"`
	Failed     uint64 `json:"failed"`
}

// CanarySeen is what all canary steps saw together.
type CanarySeen struct {
	Steps      int     `json:"steps"`
	Seconds    float64 `json:"seconds"`
	Executions uint64  `json:"executions"`
	All        uint64  `json:"all"`
	Failed     uint64  `json:"failed"`
	Chance     float64 `json:"chance"`
}

// Plan80 is a single step of one weight, held until the test stops it: what that takes with a chance of 80 %, at the true failure rates.
type Plan80 struct {
	Weight uint16 `json:"weight"`
	// Caught is false if not even 100,000 executions, or those with 200 failures, are enough; the rest is then 0.
	Caught bool `json:"caught"`
	// Executions on both versions, and on the canary alone.
	Executions uint64 `json:"executions"`
	Canary     uint64 `json:"canary"`
	// Seconds it takes at the traffic of the steps; 0 if that is not known.
	Seconds float64 `json:"seconds"`
	// Harmed in the mean of all runs; Within is the share of runs that harmed fewer than the budget.
	Harmed float64 `json:"harmed"`
	Within float64 `json:"within"`
}

// Evidently is one point of an evidence curve.
type Evidently struct {
	At  time.Time `json:"at"`
	Log float64   `json:"log"`
}

// RateAt is a version's success rate between one sample and the next.
type RateAt struct {
	At      time.Time `json:"at"`
	Version string    `json:"version"`
	Ended   uint64    `json:"ended"`
	Rate    float64   `json:"rate"`
}

// RunningAt is how many executions ran on the version.
type RunningAt struct {
	At       time.Time `json:"at"`
	InFlight uint64    `json:"inFlight"`
}

// Segment is what failing executions have in common.
type Segment struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	Failed int    `json:"failed"`
	// Canary is how many of them a canary step had assigned.
	Canary int `json:"canary"`
}

// Analyse computes what follows from a rollback's evidence about each version it abandoned; nil without evidence.
func Analyse(r Rollback) []Analysis {
	if r.Evidence == nil {
		return nil
	}
	var out []Analysis
	for _, a := range r.Abandoned {
		out = append(out, analyse(r, a.Version))
	}
	return out
}

func analyse(r Rollback, version string) Analysis {
	e := *r.Evidence
	a := Analysis{
		Version: version, Target: r.Target, Bad: rateOf(e.Totals, version), Base: rateOf(e.Totals, r.Target), Threshold: -math.Log(Alpha),
		Plans: []Plan80{}, Curve: []Evidently{}, Alone: []Evidently{}, Rates: []RateAt{}, Running: []RunningAt{}, Segments: []Segment{}, Steps: []StepSeen{}, Attributes: []AttributeSeen{},
	}
	a.Harmed = max(0, float64(a.Bad.Failed)-a.Base.Rate*float64(a.Bad.Ended))
	a.Ceiling = min(ceilingOver*a.Base.Rate, 0.5)
	a.steps(e)
	a.counterfactual()
	a.curves(e)
	a.overTime(e)
	a.hit(e)
	a.attributes(e)
	return a
}

func find(outcomes []Outcome, version string) (Outcome, bool) {
	i := slices.IndexFunc(outcomes, func(o Outcome) bool { return o.Version == version })
	if i < 0 {
		return Outcome{}, false
	}
	return outcomes[i], true
}

func rateOf(totals []Outcome, version string) Rate {
	o, _ := find(totals, version)
	r := Rate{Failed: o.Failed, Ended: o.Failed + o.Succeeded}
	r.Rate = (float64(r.Failed) + 0.5) / (float64(r.Ended) + 1)
	if r.Failed > 0 {
		r.Rate = float64(r.Failed) / float64(r.Ended)
	}
	return r
}

// weightOf a version in a step, in basis points.
func weightOf(s Step, version string) uint32 {
	return routing.Route{Splits: s.Splits}.Weight(version)
}

func (a *Analysis) steps(e Evidence) {
	for _, s := range e.Steps {
		w := weightOf(s.Step, a.Version)
		if w == 0 {
			continue
		}
		seen := StepSeen{Generation: s.Generation, Weight: w, From: s.At, Until: s.Until}
		seen.count(s, a.Version)
		a.Steps = append(a.Steps, seen)
		if w >= routing.Full {
			continue
		}
		a.Canary.Steps++
		a.Canary.Seconds += s.Until.Sub(s.At).Seconds()
		a.Canary.Executions += seen.Executions
		a.Canary.All += seen.All
		a.Canary.Failed += seen.Failed
	}
}

// count fills in what the step saw: counts at its end less those at its beginning. A version that was not there at the beginning had counted
// nothing; counts that go down were begun anew, and say nothing.
func (s *StepSeen) count(x Exposed, version string) {
	s.Known = len(x.End) > 0 && len(x.Begin) > 0
	var executions, all, failed uint64
	for _, end := range x.End {
		begin, _ := find(x.Begin, end.Version)
		if end.Started < begin.Started || end.Failed < begin.Failed {
			s.Known = false
			continue
		}
		all += end.Started - begin.Started
		if end.Version == version {
			executions, failed = end.Started-begin.Started, end.Failed-begin.Failed
		}
	}
	if s.Known {
		s.Executions, s.All, s.Failed = executions, all, failed
	}
}

// supposed is the case that the counterfactual is about: the true failure rates.
func (a *Analysis) supposed() evidence.Case {
	return evidence.Case{Base: a.Base.Rate, Ratio: a.Bad.Rate / a.Base.Rate, Alpha: Alpha}
}

// counterfactual says what the canary could have seen, and which plan would have caught it.
func (a *Analysis) counterfactual() {
	var seen []evidence.Exposure
	own := uint16(500)
	var all uint64
	var seconds float64
	for _, s := range a.Steps {
		all += s.All
		seconds += s.Until.Sub(s.From).Seconds()
		if s.Weight < routing.Full {
			seen = append(seen, evidence.Exposure{Weight: uint16(s.Weight), Executions: s.All}) //nolint:gosec // at most 10,000
		}
	}
	if len(seen) > 0 {
		own = seen[0].Weight
		a.Canary.Chance = evidence.Power(a.supposed(), seen)
	}
	perSecond := 0.0
	if seconds > 0 {
		perSecond = float64(all) / seconds
	}
	a.Same = a.plan(own, perSecond)
	for _, w := range plannedWeights {
		p := a.plan(w, perSecond)
		a.Plans = append(a.Plans, p)
		if p.Caught && p.Within >= wantedChance && (a.Best == nil || p.Executions < a.Best.Executions) {
			a.Best = &p
		}
	}
}

// most is for how many executions a plan of a weight is looked at.
func (a *Analysis) most(weight uint16) uint64 {
	w := float64(weight) / evidence.Whole
	return uint64(min(mostExecutions, math.Ceil(mostFailures/(w*a.Bad.Rate+(1-w)*a.Base.Rate))))
}

func (a *Analysis) plan(weight uint16, perSecond float64) Plan80 {
	p := Plan80{Weight: weight}
	if a.Bad.Rate <= a.Base.Rate {
		return p
	}
	o := evidence.Foresee(a.supposed(), []evidence.Exposure{{Weight: weight, Executions: a.most(weight)}})
	stop, ok := o.At(wantedChance)
	if !ok {
		return p
	}
	p.Caught, p.Executions, p.Canary = true, stop.Executions, stop.Canary
	p.Harmed, p.Within = o.Harm(), 1-o.HarmedAtLeast(HarmBudget)
	if perSecond > 0 {
		p.Seconds = float64(stop.Executions) / perSecond
	}
	return p
}

// curves follows both tests over what happened.
func (a *Analysis) curves(e Evidence) {
	var test evidence.Ratio
	for _, f := range e.Failing {
		i := slices.IndexFunc(e.Steps, func(s Exposed) bool { return s.Generation == f.Generation })
		if i < 0 || f.Version != a.Version && f.Version != a.Target {
			continue
		}
		w := weightOf(e.Steps[i].Step, a.Version)
		if w == 0 || w >= routing.Full {
			continue
		}
		arm := evidence.Stable
		if f.Version == a.Version {
			arm = evidence.Canary
		}
		test.Fail(arm, uint16(w)) //nolint:gosec // at most 10,000
		a.point(&a.Curve, f.When(), test.Log())
	}
	for _, s := range e.Series {
		if s.Version != a.Version {
			continue
		}
		for _, p := range s.Points {
			a.point(&a.Alone, p.At, evidence.LogAboveCeiling(p.Succeeded+p.Failed, p.Failed, a.Ceiling))
		}
	}
}

func (a *Analysis) point(curve *[]Evidently, at time.Time, log float64) {
	*curve = append(*curve, Evidently{At: at, Log: log})
	if log >= a.Threshold && (a.Spoke.IsZero() || at.Before(a.Spoke)) {
		a.Spoke = at
	}
}

func (a *Analysis) overTime(e Evidence) {
	for _, s := range e.Series {
		for i, p := range s.Points {
			if s.Version == a.Version {
				a.Running = append(a.Running, RunningAt{At: p.At, InFlight: p.InFlight})
			}
			if i == 0 || s.Version != a.Version && s.Version != a.Target {
				continue
			}
			before := s.Points[i-1]
			if p.Succeeded < before.Succeeded || p.Failed < before.Failed || p.Succeeded+p.Failed == before.Succeeded+before.Failed {
				continue
			}
			good, bad := p.Succeeded-before.Succeeded, p.Failed-before.Failed
			a.Rates = append(a.Rates, RateAt{At: p.At, Version: s.Version, Ended: good + bad, Rate: float64(good) / float64(good+bad)})
		}
	}
}

// hit says who was: keys, methods and paths.
func (a *Analysis) hit(e Evidence) {
	keys := map[string]bool{}
	type place struct{ method, path string }
	index := map[place]int{}
	for _, f := range e.Failing {
		if f.Version != a.Version {
			continue
		}
		if f.Key == "" {
			a.Keyless++
		} else {
			keys[f.Key] = true
		}
		at := place{f.Method, f.Path}
		i, ok := index[at]
		if !ok {
			i = len(a.Segments)
			index[at] = i
			a.Segments = append(a.Segments, Segment{Method: f.Method, Path: f.Path})
		}
		a.Segments[i].Failed++
		for _, s := range a.Steps {
			if s.Generation == f.Generation && s.Weight < routing.Full {
				a.Segments[i].Canary++
			}
		}
	}
	a.Keys = len(keys)
	slices.SortFunc(a.Segments, func(x, y Segment) int {
		return cmp.Or(y.Failed-x.Failed, cmp.Compare(x.Method, y.Method), cmp.Compare(x.Path, y.Path))
	})
}
