package postmortem

import (
	"fmt"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// chosen says who chose a plan, where that was noted.
func chosen(origin string) string {
	if origin == "" {
		return ""
	}
	return " (chosen by " + origin + ")"
}

// canary tells of the rollout that the rollback ended, and of the evidence against it.
func canary(p func(string, ...any), c *Canary) {
	if c == nil {
		return
	}
	how := "It was under way when somebody rolled back."
	if c.Itself {
		how = "It rolled back by itself."
	}
	p("### The canary")
	p("")
	p("Plan %s%s, attempt %d, step %d of %d. %s Verdict: **%s**, %s.", c.Run.Plan.Preset, chosen(c.Run.Origin), c.Run.Attempt, min(c.Run.Step+1, len(c.Run.Plan.Steps)), len(c.Run.Plan.Steps), how,
		c.Verdict.Result, c.Verdict.Reason)
	p("")
	p("| metric | canary failed | stable failed | a bet of 1 against the canary is worth | proven failure rate |")
	p("|---|---:|---:|---:|---:|")
	for _, m := range c.Verdict.Metrics {
		p("| %s | %d of %d | %d of %d | %.3g | below %.3g %% |", m.Name, m.Failed[evidence.Canary], m.Counts.Ended[evidence.Canary],
			m.Failed[evidence.Stable], m.Counts.Ended[evidence.Stable], m.Stake, 100*m.Bound)
	}
	p("")
	if c.Run.Evidence == nil || len(c.Run.Evidence.Recent) == 0 {
		return
	}
	p("The failures that moved it last:")
	p("")
	for _, e := range c.Run.Evidence.Recent {
		p("* %s `%s` on the %s, assigned at %s", e.At.UTC().Format(clock), e.Execution, e.Arm, fmt.Sprintf("%g %%", float64(e.Weight)/100))
	}
	p("")
}
