package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// Duration is a time.Duration that people write as "90s" or "15m".
type Duration = drain.Duration

// Until says what ends a step.
type Until string

const (
	// UntilEvidence ends a step once the evidence is enough for the next one.
	UntilEvidence Until = "evidence"
	// UntilDuration ends it by the clock, if nothing speaks against it by then.
	UntilDuration Until = "duration"
	// UntilManual ends it when a person says so.
	UntilManual Until = "manual"
)

// Step is one weight of the canary.
type Step struct {
	Weight Weight `json:"weight" yaml:"weight"`
	Until  Until  `json:"until" yaml:"until"`
	// Within is how long a step of a duration lasts. For the others it is an upper bound: when it has passed, the rollout is held.
	// 0: no bound.
	Within Duration `json:"within,omitempty" yaml:"within,omitempty"`
	// Gates that must all be open before the step begins.
	Gates []Gate `json:"gates,omitempty" yaml:"gates,omitempty"`
}

// Reaction says what becomes of a canary that failed.
type Reaction string

const (
	// ReactAuto rolls it back at once.
	ReactAuto Reaction = "auto"
	// ReactManual leaves that to people: the rollout stands still and says so.
	ReactManual Reaction = "manual"
	// ReactUnlessAcked rolls it back unless a person acknowledges within Plan.AckWithin that the canary may go on.
	ReactUnlessAcked Reaction = "auto-unless-acked-in"
)

// Bake is the time after the last step, in which the canary has all traffic but for a control.
type Bake struct {
	For Duration `json:"for,omitempty" yaml:"for,omitempty"`
	// Control is the stable version's share.
	Control Weight `json:"control,omitempty" yaml:"control,omitempty"`
}

// Plan says how a version comes to all of its spec's traffic. Complete fills in what it leaves open; whoever holds a completed plan need not
// check it.
type Plan struct {
	// Preset whose values stand where the plan is silent: careful, standard, fast. Default: standard.
	Preset string `json:"preset,omitempty" yaml:"preset,omitempty"`
	Steps  []Step `json:"steps,omitempty" yaml:"steps,omitempty"`
	Bake   Bake   `json:"bake,omitzero" yaml:"bake,omitempty"`
	// Alpha is the chance of stopping a canary that is as good as the stable version.
	Alpha float64 `json:"alpha,omitempty" yaml:"alpha,omitempty"`
	// PMax is the failure rate that the canary must be proven to stay below before it gets all the traffic.
	PMax float64 `json:"pMax,omitempty" yaml:"pMax,omitempty"`
	// MaxHarmed is the budget of canary executions that fail beyond the stable version's rate; negative: none.
	MaxHarmed float64 `json:"maxHarmed,omitempty" yaml:"maxHarmed,omitempty"`
	// Metrics beyond the executions' own outcome, which is always the first.
	Metrics []Metric `json:"metrics,omitempty" yaml:"metrics,omitempty"`
	// Judges are metrics that others measure.
	Judges []Judge `json:"judges,omitempty" yaml:"judges,omitempty"`
	// OnInsufficient is what happens when a step's clock has run out before its evidence was enough. There is only hold.
	OnInsufficient string `json:"onInsufficient,omitempty" yaml:"onInsufficient,omitempty"`
	// Rollback is what happens when the canary has failed.
	Rollback  Reaction `json:"rollback,omitempty" yaml:"rollback,omitempty"`
	AckWithin Duration `json:"ackWithin,omitempty" yaml:"ackWithin,omitempty"`
	// Outcomes are what tells the outcome of an execution, first that speaks: stated (by the agent), protocol (such as a gRPC status), status (of
	// HTTP, below 400). Default: all three, in this order; stated and protocol always speak.
	Outcomes []string `json:"outcomes,omitempty" yaml:"outcomes,omitempty"`
}

// outcomes in the order in which they speak.
var outcomes = []string{"stated", "protocol", "status"}

// ByStatus says that an execution of which nothing else is known is judged by its HTTP status.
func (p Plan) ByStatus() bool { return slices.Contains(p.Outcomes, "status") }

// Metric is one more question asked of executions.
type Metric struct {
	Name string `json:"name" yaml:"name"`
	// Alpha is its part of the plan's; 0: an equal part of what the others leave.
	Alpha float64 `json:"alpha,omitempty" yaml:"alpha,omitempty"`
	// PMax that it must be proven to stay below; 0: it can only stop the canary.
	PMax float64 `json:"pMax,omitempty" yaml:"pMax,omitempty"`
	// Never: one execution of the canary is enough.
	Never bool `json:"never,omitempty" yaml:"never,omitempty"`
	// Reason is how the reasons begin of the failures that the metric counts.
	Reason string `json:"reason,omitempty" yaml:"reason,omitempty"`
	// SlowerThan makes it a metric of latency, in place of Reason: it counts executions that take longer.
	SlowerThan Duration `json:"slowerThan,omitempty" yaml:"slowerThan,omitempty"`
}

// SlowerThan is the bound of the plan's metric of latency; 0: it has none.
func (p Plan) SlowerThan() time.Duration {
	for _, m := range p.Metrics {
		if m.SlowerThan > 0 {
			return time.Duration(m.SlowerThan)
		}
	}
	return 0
}

// Outcome is the name of the metric that every plan has: did the execution fail?
const Outcome = "outcome"

// presets by name.
var presets = map[string]Plan{
	"careful": {
		Steps: evidenceSteps(24*time.Hour, 100, 500, 1000, 2500, 5000), Bake: Bake{Duration(24 * time.Hour), 500},
		Alpha: 0.01, PMax: 0.05, MaxHarmed: 10, Rollback: ReactAuto,
	},
	"standard": {
		Steps: evidenceSteps(6*time.Hour, 500, 1000, 2500, 5000), Bake: Bake{Duration(time.Hour), 500},
		Alpha: 0.05, PMax: 0.05, MaxHarmed: 20, Rollback: ReactAuto,
	},
	"fast": {
		Steps: evidenceSteps(time.Hour, 1000, 5000), Bake: Bake{Duration(10 * time.Minute), 500},
		Alpha: 0.05, PMax: 0.1, MaxHarmed: 40, Rollback: ReactAuto,
	},
	// One step: all at once, with the stable version warm beside it.
	"blue-green": {
		Steps: []Step{{Weight: evidence.Whole, Until: UntilDuration, Within: Duration(10 * time.Minute)}},
		Alpha: 0.05, PMax: 0.05, MaxHarmed: -1, Rollback: ReactAuto,
	},
}

// Presets are the names that Plan.Preset can have, gentlest first.
func Presets() []string { return []string{"careful", "standard", "fast", "blue-green"} }

func evidenceSteps(within time.Duration, weights ...Weight) []Step {
	steps := make([]Step, 0, len(weights))
	for _, w := range weights {
		steps = append(steps, Step{Weight: w, Until: UntilEvidence, Within: Duration(within)})
	}
	return steps
}

// MaxSteps of a plan: its weights and the bake's must fit what evidence is kept for.
const MaxSteps = evidence.MaxWeights - 2

// Declared says that there is a plan at all.
func (p Plan) Declared() bool { return p.Preset != "" || len(p.Steps) > 0 }

// Problem is one thing wrong with a plan.
type Problem struct {
	// Field of the plan, such as steps[1].weight; empty for the plan as a whole.
	Field   string
	Message string
}

func (p Problem) String() string {
	if p.Field == "" {
		return p.Message
	}
	return p.Field + ": " + p.Message
}

// problems are collected, so that all are told at once.
type problems []Problem

func (ps *problems) add(field, format string, args ...any) {
	*ps = append(*ps, Problem{Field: field, Message: fmt.Sprintf(format, args...)})
}

// Problems are all that is wrong with a plan; none if Complete takes it.
func (p Plan) Problems() []Problem {
	_, ps := p.complete()
	return ps
}

// Complete fills in the preset's values and checks the whole. Its error names every problem.
func (p Plan) Complete() (Plan, error) {
	p, ps := p.complete()
	if len(ps) == 0 {
		return p, nil
	}
	texts := make([]string, len(ps))
	for i, problem := range ps {
		texts[i] = problem.String()
	}
	return p, fmt.Errorf("plan: %s", strings.Join(texts, "; "))
}

func (p Plan) complete() (Plan, problems) {
	var ps problems
	if p.Preset == "" {
		p.Preset = "standard"
	}
	preset, ok := presets[p.Preset]
	if !ok {
		ps.add("preset", "%q does not exist: there are %s", p.Preset, strings.Join(Presets(), ", "))
		return p, ps
	}
	if len(p.Steps) == 0 {
		p.Steps = slices.Clone(preset.Steps)
		if p.Bake == (Bake{}) {
			p.Bake = preset.Bake
		}
	}
	p.Alpha, p.PMax = or(p.Alpha, preset.Alpha), or(p.PMax, preset.PMax)
	p.MaxHarmed = max(or(p.MaxHarmed, preset.MaxHarmed), -1)
	if len(p.Outcomes) == 0 {
		p.Outcomes = slices.Clone(outcomes)
	}
	p.Rollback, p.OnInsufficient = or(p.Rollback, preset.Rollback), or(p.OnInsufficient, "hold")
	p.checkSteps(&ps)
	p.checkWhole(&ps)
	p.checkMetrics(&ps)
	p.checkJudges(&ps)
	return p, ps
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (p Plan) checkSteps(ps *problems) {
	if len(p.Steps) > MaxSteps {
		ps.add("steps", "%d of them, at most %d", len(p.Steps), MaxSteps)
	}
	last := Weight(0)
	for i, s := range p.Steps {
		at := fmt.Sprintf("steps[%d]", i)
		switch {
		case s.Weight <= last || s.Weight > evidence.Whole:
			ps.add(at+".weight", "weights must rise, up to 100%%; this one is %s after %s", s.Weight, last)
		case s.Until != UntilEvidence && s.Until != UntilDuration && s.Until != UntilManual:
			ps.add(at+".until", "%q: there are evidence, duration and manual", s.Until)
		case s.Until == UntilDuration && s.Within <= 0:
			ps.add(at+".within", "a step until a duration needs within")
		case s.Within < 0:
			ps.add(at+".within", "is negative")
		}
		p.checkGates(at+".gates", s.Gates, ps)
		last = s.Weight
	}
}

func (p Plan) checkWhole(ps *problems) {
	if !(p.Alpha > 0 && p.Alpha < 0.5) {
		ps.add("alpha", "must be between 0 and 0.5, not %v", p.Alpha)
	}
	if !(p.PMax > 0 && p.PMax < 1) {
		ps.add("pMax", "must be between 0 and 1, not %v", p.PMax)
	}
	if p.Bake.For < 0 || p.Bake.Control > evidence.Whole/2 {
		ps.add("bake", "for must not be negative, nor the control more than half of the traffic")
	}
	if p.OnInsufficient != "hold" {
		ps.add("onInsufficient", "%q: there is only hold", p.OnInsufficient)
	}
	switch p.Rollback {
	case ReactAuto, ReactManual:
	case ReactUnlessAcked:
		if p.AckWithin <= 0 {
			ps.add("rollback", "%s needs ackWithin", p.Rollback)
		}
	default:
		ps.add("rollback", "%q: there are auto, manual and auto-unless-acked-in", p.Rollback)
	}
	if len(p.Outcomes) < 2 || len(p.Outcomes) > len(outcomes) || !slices.Equal(p.Outcomes, outcomes[:len(p.Outcomes)]) {
		ps.add("outcomes", "%v: there are %v, and %v", p.Outcomes, outcomes, outcomes[:2])
	}
}

func (p Plan) checkMetrics(ps *problems) {
	if len(p.Metrics)+1 > evidence.MaxMetrics {
		ps.add("metrics", "%d beside the outcome, at most %d", len(p.Metrics), evidence.MaxMetrics-1)
	}
	left := p.Alpha
	names := map[string]bool{Outcome: true}
	for i, m := range p.Metrics {
		at := fmt.Sprintf("metrics[%d]", i)
		if m.Name == "" || names[m.Name] {
			ps.add(at+".name", "metrics need names of their own: %q", m.Name)
		}
		names[m.Name] = true
		switch {
		case m.Reason == "" && m.SlowerThan == 0:
			ps.add(at+".reason", "metric %s must say how the reasons begin of the failures that it counts, or slowerThan", m.Name)
		case m.Reason != "" && m.SlowerThan != 0:
			ps.add(at, "metric %s counts failures by their reason or executions that are slow, not both", m.Name)
		case m.SlowerThan < 0 || m.SlowerThan > 0 && p.SlowerThan() != time.Duration(m.SlowerThan):
			ps.add(at+".slowerThan", "metric %s: one bound, above nothing, for all of a plan", m.Name)
		}
		if m.Alpha < 0 || m.PMax < 0 || m.PMax >= 1 {
			ps.add(at, "metric %s: alpha and pMax must not be negative, pMax below 1", m.Name)
		}
		left -= m.Alpha
	}
	if left <= 0 {
		ps.add("metrics", "they use up alpha: nothing is left for the outcome")
	}
}

// Rules are what a completed plan judges by: the outcome first, then its metrics in order.
func (p Plan) Rules() evidence.Rules {
	r := evidence.Rules{Alpha: p.Alpha, MaxHarmed: max(0, p.MaxHarmed), Metrics: []evidence.Metric{{Name: Outcome, Ceiling: p.PMax}}}
	for _, m := range p.Metrics {
		r.Metrics = append(r.Metrics, evidence.Metric{Name: m.Name, Alpha: m.Alpha, Ceiling: m.PMax, Hard: m.Never})
	}
	return r.Split()
}

// Demands are the failure rates that the canary must be proven to stay below before each step ends: PMax for the last step, and for an earlier
// one what its successor can bear. If the canary were that bad, the executions that the next step takes to prove its own demand would spend
// MaxHarmed; without a budget, each step bears twice what the next does. Base is the stable version's failure rate.
func (p Plan) Demands(base float64) []float64 {
	alpha := p.Rules().Metrics[0].Alpha
	demands := make([]float64, len(p.Steps))
	next := p.PMax
	for i := len(p.Steps) - 1; i >= 0; i-- {
		demands[i] = next
		if p.MaxHarmed > 0 {
			next = max(next, base+p.MaxHarmed/float64(evidence.Needed(0, next, alpha)))
		} else {
			next *= 2
		}
		next = min(next, mostDemand)
	}
	return demands
}

// mostDemand is the least that any step asks for: that fewer than half fail.
const mostDemand = 0.5

// bakeWeight is the canary's share in the bake.
func (p Plan) bakeWeight() uint16 { return evidence.Whole - uint16(p.Bake.Control) }
