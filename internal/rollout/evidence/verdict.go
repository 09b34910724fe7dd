package evidence

import (
	"fmt"
	"math"
)

// Result of a judgement.
type Result string

// The three results, and no fourth: what is not known is Insufficient.
const (
	Pass         Result = "pass"
	Fail         Result = "fail"
	Insufficient Result = "insufficient"
)

// Metric is one yes/no question asked of every execution: did it fail, was it slower than the stable version's p95, did it cost more.
type Metric struct {
	Name string `json:"name"`
	// Alpha is this metric's part of the canary's alpha.
	Alpha float64 `json:"alpha"`
	// Ceiling is the failure rate that the canary must be proven to stay below; 0: none is asked for.
	Ceiling float64 `json:"ceiling,omitempty"`
	// Hard: one failure on the canary is enough.
	Hard bool `json:"hard,omitempty"`
}

// ceilingShare is the part of a metric's alpha that goes to the test of its ceiling, where it has one.
const ceilingShare = 0.1

func (m Metric) ratioThreshold() float64 {
	if m.Ceiling > 0 {
		return -math.Log(m.Alpha * (1 - ceilingShare))
	}
	return -math.Log(m.Alpha)
}

func (m Metric) ceilingThreshold() float64 { return -math.Log(m.Alpha * ceilingShare) }

// Rules are what a canary is judged by.
type Rules struct {
	Metrics []Metric `json:"metrics"`
	// Alpha is the chance of stopping a canary that is as good as the stable version that its owner accepts. The metrics' parts of it add up to it.
	Alpha float64 `json:"alpha"`
	// MaxHarmed is how many executions may fail on the canary beyond those that would have failed on the stable version; 0: no such limit.
	MaxHarmed float64 `json:"maxHarmed,omitempty"`
}

// Split gives metrics without a part of alpha equal parts of what the others left.
func (r Rules) Split() Rules {
	left, without := r.Alpha, 0
	for _, m := range r.Metrics {
		left -= m.Alpha
		if m.Alpha == 0 {
			without++
		}
	}
	metrics := make([]Metric, len(r.Metrics))
	copy(metrics, r.Metrics)
	for i := range metrics {
		if metrics[i].Alpha == 0 {
			metrics[i].Alpha = left / float64(without)
		}
	}
	r.Metrics = metrics
	return r
}

// Verdict is a judgement with its reasons.
type Verdict struct {
	Result  Result          `json:"result"`
	Reason  string          `json:"reason"`
	Metrics []MetricVerdict `json:"metrics"`
	// More is how many more canary executions must end well for a pass; 0 unless insufficient, and where more of them would not help.
	More uint64 `json:"more,omitempty"`
	// Broken: the arms do not get the shares they were set to get, so nothing measured is believed.
	Broken bool `json:"broken,omitempty"`
	// Harmed is how many more canary executions failed than the stable version's rate explains.
	Harmed float64 `json:"harmed"`
}

// MetricVerdict is the judgement of one metric.
type MetricVerdict struct {
	Name   string `json:"name"`
	Result Result `json:"result"`
	Reason string `json:"reason"`
	// Stake is what a bet of 1 against "the canary is as good" is worth now; it fails at 1/alpha.
	Stake float64 `json:"stake"`
	// Bound is the failure rate that the canary is proven to be below; 1 while nothing is.
	Bound  float64 `json:"bound"`
	Counts Counts  `json:"counts"`
	// Failed units by arm.
	Failed [2]uint64 `json:"failed"`
	More   uint64    `json:"more,omitempty"`
}

// Judge says what the evidence amounts to. Demand is the failure rate that a pass must prove each metric with a ceiling to be below: its ceiling
// where demand is 0 or lower than that. Early steps may ask for less, since little is at stake yet.
func (s *State) Judge(rules Rules, demand float64) Verdict {
	v := Verdict{Result: Pass, Reason: "enough is known, and it is good"}
	bounded := false
	for i, rule := range rules.Metrics {
		m := s.judgeMetric(i, rule, demand)
		v.Metrics = append(v.Metrics, m)
		v.More = max(v.More, m.More)
		bounded = bounded || rule.Ceiling > 0
		if m.Result == Fail && v.Result != Fail || m.Result == Insufficient && v.Result == Pass {
			v.Result, v.Reason = m.Result, m.Name+": "+m.Reason
		}
	}
	v.Harmed = s.harmed(0)
	switch {
	case v.Result == Fail:
		v.More = 0
	case rules.MaxHarmed > 0 && v.Harmed >= rules.MaxHarmed:
		v.Result, v.More = Fail, 0
		v.Reason = fmt.Sprintf("%.1f executions harmed, of at most %g", v.Harmed, rules.MaxHarmed)
	case LogImbalance(s.Shares()) >= -math.Log(rules.Alpha):
		v.Result, v.Broken, v.More = Insufficient, true, 0
		v.Reason = fmt.Sprintf("the measurement is broken: %d units went to the canary and %d to the stable version, which the weights do not explain",
			s.assigned(Canary), s.assigned(Stable))
	case v.Result == Pass && !bounded:
		v.Result, v.Reason = Insufficient, "no metric has a ceiling (pMax), so nothing could prove the canary good"
	}
	return v
}

// harmed compares the arms' failures where both arms had a share of the traffic.
func (s *State) harmed(metric int) float64 {
	t := &s.Metrics[metric]
	canary, stable := t.Counts.Ended[Canary], t.Counts.Ended[Stable]
	if canary == 0 {
		return 0
	}
	base := 0.0
	if stable > 0 {
		base = min(1, float64(t.failed(Stable))/float64(stable))
	}
	return max(0, float64(t.failed(Canary))-base*float64(canary))
}

func (s *State) judgeMetric(i int, rule Metric, demand float64) MetricVerdict {
	t := &s.Metrics[i]
	failed := [2]uint64{t.failed(Stable), t.failed(Canary)}
	bad, ended := max(failed[Canary], t.Counts.Failed[Canary])+t.Counts.Unknown[Canary], t.Counts.Ended[Canary]+t.Counts.Unknown[Canary]
	ended = max(ended, bad)
	v := MetricVerdict{Name: rule.Name, Stake: math.Exp(min(t.Log, 700)), Bound: UpperBound(ended, bad, rule.Alpha), Counts: t.Counts, Failed: failed}
	for arm := range v.Counts.Ended { // an execution can have failed, and be counted as ended a moment later
		v.Counts.Ended[arm] = max(v.Counts.Ended[arm], failed[arm])
	}
	// Executions that were assigned and have not ended have not failed: they speak for the canary here, and not at all below.
	above := LogAboveCeiling(max(s.assigned(Canary), ended), failed[Canary], rule.Ceiling)
	switch bound := max(demand, rule.Ceiling); {
	case t.Broke != nil && rule.Hard:
		v.Result, v.Reason = Fail, fmt.Sprintf("never is once too often: execution %s", t.Broke.Execution)
	case t.Broke != nil:
		v.Result = Fail
		v.Reason = fmt.Sprintf("the canary fails more often than the stable version: %d of %d against %d of %d (chance of a false alarm at most %g)",
			failed[Canary], v.Counts.Ended[Canary], failed[Stable], v.Counts.Ended[Stable], rule.Alpha)
	case rule.Ceiling > 0 && above >= rule.ceilingThreshold():
		v.Result = Fail
		v.Reason = fmt.Sprintf("the canary fails more often than %s: %d of %d", percent(rule.Ceiling), failed[Canary], v.Counts.Ended[Canary])
	case ended == 0:
		v.Result, v.Reason = Insufficient, "nothing has been measured on the canary"
		if rule.Ceiling > 0 {
			v.More = Needed(0, bound, rule.Alpha)
		}
	case rule.Ceiling == 0:
		v.Result, v.Reason = Pass, "no sign of the canary being worse"
	case v.Bound < bound:
		v.Result, v.Reason = Pass, fmt.Sprintf("the canary fails less often than %s (proven: below %s)", percent(bound), percent(v.Bound))
	default:
		v.Result = Insufficient
		v.More = Needed(bad, bound, rule.Alpha) - ended
		v.Reason = fmt.Sprintf("%d more canary executions that end well would prove fewer failures than %s", v.More, percent(bound))
		if u := t.Counts.Unknown[Canary]; u > 0 {
			v.Reason += fmt.Sprintf("; %d ended without an outcome and count as failed", u)
		}
	}
	return v
}

func percent(p float64) string { return fmt.Sprintf("%.3g %%", 100*p) }
