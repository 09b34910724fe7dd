package postmortem

import (
	"fmt"
	"strings"

	"github.com/specproxy/specproxy/internal/rollout"
	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// chosen says who chose a plan, where that was noted.
func chosen(origin string) string {
	if origin == "" {
		return ""
	}
	return " (chosen by " + origin + ")"
}

// rehearsed sets what the rollback took beside what it was rehearsed to take.
func rehearsed(p printf, rb Rollback) {
	r := rb.Canary.Run.Rehearsal
	if r == nil {
		return
	}
	took := "When it was needed, it has not been proven yet."
	if rb.Effect != nil {
		took = fmt.Sprintf("When it was needed, it was proven after %s (by %s).", rollout.Brief(rb.Effect.At.Sub(rb.CommittedAt)), rb.Effect.By)
	}
	p("The way back before it had traffic: %s. %s", r, took)
	p("")
}

// canary tells of the rollout that the rollback ended, and of the evidence against it.
func canary(p func(string, ...any), rb Rollback) {
	c := rb.Canary
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
	rehearsed(p, rb)
	p("| metric | canary failed | stable failed | a bet of 1 against the canary is worth | proven failure rate |")
	p("|---|---:|---:|---:|---:|")
	for _, m := range c.Verdict.Metrics {
		p("| %s | %d of %d | %d of %d | %.3g | below %.3g %% |", m.Name, m.Failed[evidence.Canary], m.Counts.Ended[evidence.Canary],
			m.Failed[evidence.Stable], m.Counts.Ended[evidence.Stable], m.Stake, 100*m.Bound)
	}
	p("")
	judges(p, c)
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

// judges tells what those outside had answered.
func judges(p func(string, ...any), c *Canary) {
	if len(c.Run.Plan.Judges) == 0 {
		return
	}
	p("What judges outside were asked, and their last answers:")
	p("")
	p("| judge | asked | answers | failures in a row |")
	p("|---|---|---:|---:|")
	for i, j := range c.Run.Plan.Judges {
		var s rollout.JudgeState
		if i < len(c.Run.Judges) {
			s = c.Run.Judges[i]
		}
		p("| %s | `%s` | %d | %d of %d |", cell(j.Name), strings.ReplaceAll(cell(c.Run.Question(j)), "`", "'"), s.Asked, s.Failing, j.InARow())
	}
	p("")
	p("| at | judge | asked in | answered | |")
	p("|---|---|---|---|---|")
	for i, s := range c.Run.Judges {
		for _, a := range s.Answers {
			p("| %s | %s | %s | %s | %s |", a.At.UTC().Format(clock), cell(c.Run.Plan.Judges[i].Name), rollout.StepName(a.Step, len(c.Run.Plan.Steps)), a.Result, cell(a.Why))
		}
	}
	p("")
}
