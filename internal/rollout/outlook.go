package rollout

import (
	"fmt"
	"math"
	"time"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// Traffic is what a spec receives today.
type Traffic struct {
	// PerHour is new executions an hour, on all versions.
	PerHour float64
	// Base is the stable version's failure rate; BaseKnown says that it was measured.
	Base      float64
	BaseKnown bool
}

// AssumedBase stands in for a failure rate that nothing is known of.
const AssumedBase = 0.02

// Ratios of failure rates that an outlook speaks about.
var Ratios = []float64{2, 5, 10}

// Outlook is what a plan comes to at today's traffic.
type Outlook struct {
	Traffic Traffic
	Steps   []StepOutlook
	// Total is how long it takes if nothing is wrong; Endless says that it never ends by itself.
	Total   time.Duration
	Endless bool
	// Harm is the mean number of canary executions harmed, for each of Ratios.
	Harm []float64
	// FalseAlarm is the chance that a canary as good as the stable version is stopped.
	FalseAlarm float64
	// Impossible says what cannot work, in words; Warnings what may not be meant.
	Impossible []string
	Warnings   []string
}

// StepOutlook is one step's.
type StepOutlook struct {
	Name   string
	Weight uint16
	Until  Until
	// Demand is the failure rate to be proven, 0 where the step asks for none.
	Demand float64
	// Executions on both arms, and on the canary, that the step takes if the canary is as good as the stable version.
	Executions, Canary uint64
	Duration           time.Duration
	// Unknown: nobody can say how long it takes.
	Unknown bool
	// Power is the chance of having stopped the canary by the end of the step, for each of Ratios.
	Power []float64
}

// Look tells what a completed plan comes to.
func (p Plan) Look(t Traffic) Outlook {
	o := Outlook{Traffic: t}
	if !t.BaseKnown {
		o.Traffic.Base = AssumedBase
		o.Warnings = append(o.Warnings, fmt.Sprintf("nothing is known of the stable version's outcomes: %.3g %% failures are assumed", 100*AssumedBase))
	}
	base := o.Traffic.Base
	if t.PerHour <= 0 {
		o.Impossible = append(o.Impossible, "there is no traffic now: no step that waits for evidence ends")
	}
	alpha := p.Rules().Metrics[0].Alpha
	demands := p.Demands(base)
	had := uint64(0)
	var exposures []evidence.Exposure
	for i, s := range p.Steps {
		step := StepOutlook{Name: fmt.Sprintf("step %d", i+1), Weight: uint16(s.Weight), Until: s.Until}
		if s.Until == UntilEvidence {
			step.Demand = demands[i]
		}
		o.take(&step, time.Duration(s.Within), base, alpha, &had)
		o.Steps = append(o.Steps, step)
		exposures = append(exposures, evidence.Exposure{Weight: step.Weight, Executions: step.Executions})
	}
	if p.Bake.For > 0 {
		step := StepOutlook{Name: "bake", Weight: p.bakeWeight(), Until: UntilDuration}
		o.take(&step, time.Duration(p.Bake.For), base, alpha, &had)
		o.Steps = append(o.Steps, step)
		exposures = append(exposures, evidence.Exposure{Weight: step.Weight, Executions: step.Executions})
	}
	o.foresee(p, base, alpha, exposures)
	return o
}

// take works out how many executions a step takes. had is what the canary has had before it.
func (o *Outlook) take(s *StepOutlook, within time.Duration, base, alpha float64, had *uint64) {
	perHour := o.Traffic.PerHour
	inTime := func(d time.Duration) uint64 { return uint64(max(0, perHour*d.Hours())) }
	switch s.Until {
	case UntilManual:
		s.Unknown = true
		s.Executions = inTime(within)
	case UntilDuration:
		s.Duration, s.Executions = within, inTime(within)
	case UntilEvidence:
		need, ok := neededAt(base, s.Demand, alpha)
		if !ok {
			o.Impossible = append(o.Impossible, fmt.Sprintf("%s asks for proof of fewer failures than %.3g %%, but the stable version itself fails at %.3g %%: raise pMax",
				s.Name, 100*s.Demand, 100*base))
			s.Unknown = true
			break
		}
		canary := max(need, *had) - *had
		s.Executions = uint64(math.Ceil(float64(canary) / (float64(s.Weight) / evidence.Whole)))
		if perHour <= 0 {
			s.Unknown = true
			break
		}
		s.Duration = time.Duration(float64(s.Executions) / perHour * float64(time.Hour))
		if within > 0 && s.Duration > within {
			o.Impossible = append(o.Impossible, fmt.Sprintf("at %.3g executions an hour %s needs %s for %d canary executions, and may take %s: it would be held",
				perHour, s.Name, Long(s.Duration), canary, Long(within)))
		}
	}
	s.Canary = uint64(math.Round(float64(s.Executions) * float64(s.Weight) / evidence.Whole))
	*had += s.Canary
	o.Total += s.Duration
	o.Endless = o.Endless || s.Unknown
}

// neededAt is how many canary executions prove the demand if the canary fails at the base rate; ok is false if none do.
func neededAt(base, demand, alpha float64) (uint64, bool) {
	if base >= demand {
		return 0, false
	}
	n := evidence.Needed(0, demand, alpha)
	for range 200 {
		more := evidence.Needed(uint64(math.Ceil(float64(n)*base)), demand, alpha)
		if more <= n {
			return n, true
		}
		if more > 1<<32 {
			return 0, false
		}
		n = more
	}
	return n, true
}

func (o *Outlook) foresee(p Plan, base, alpha float64, exposures []evidence.Exposure) {
	if base <= 0 {
		base = 0.001
	}
	ends := make([]uint64, len(exposures))
	var sum uint64
	for i, e := range exposures {
		sum += e.Executions
		ends[i] = sum
	}
	for _, ratio := range Ratios {
		f := evidence.Foresee(evidence.Case{Base: base, Ratio: ratio, Alpha: alpha}, exposures)
		for i := range o.Steps {
			o.Steps[i].Power = append(o.Steps[i].Power, f.ChanceBy(ends[i]))
		}
		o.Harm = append(o.Harm, f.Harm())
	}
	null := evidence.Foresee(evidence.Case{Base: base, Ratio: 1, Alpha: alpha}, exposures)
	o.FalseAlarm = null.Chance()
	if p.MaxHarmed > 0 {
		if by := null.HarmedAtLeast(p.MaxHarmed); by > p.Alpha {
			o.Warnings = append(o.Warnings, fmt.Sprintf("a canary as good as the stable version spends the budget of %g harmed executions with chance %.2g", p.MaxHarmed, by))
		}
	}
}

// StepName is a step of a plan with so many, by its place from 0; after the last comes the bake.
func StepName(step, steps int) string {
	if step >= steps {
		return "the bake"
	}
	return fmt.Sprintf("step %d", step+1)
}

// Long writes a duration as people say it.
func Long(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%.3g days", d.Hours()/24)
	case d >= time.Hour:
		return d.Round(time.Minute).String()
	}
	return d.Round(time.Second).String()
}
