package rollout

import (
	"fmt"
	"strings"
	"time"
)

// Summary is a completed plan in one line, such as "standard: 5%, 10%, 25%, 50%, bake 1h".
func (p Plan) Summary() string {
	weights := make([]string, 0, len(p.Steps)+1)
	for _, s := range p.Steps {
		weights = append(weights, s.Weight.String())
	}
	if p.Bake.For > 0 {
		weights = append(weights, "bake "+p.Bake.For.String())
	}
	return p.Preset + ": " + strings.Join(weights, ", ")
}

// Explain says in words what a completed plan does, a line each.
func Explain(p Plan) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	demands := p.Demands(AssumedBase)
	for i, s := range p.Steps {
		for _, g := range s.Gates {
			say("gate %s before step %d: %s", g.Name, i+1, g.words())
		}
		say("step %d: %s of new executions, %s", i+1, s.Weight, s.ends(demands[i]))
	}
	if p.Bake.For > 0 {
		say("bake: all but %s for %s, so that there is something to compare with; then all, if it is proven to fail less often than %.3g %%", p.Bake.Control, p.Bake.For, 100*p.PMax)
	} else {
		say("then all of the traffic")
	}
	say("stopped when it is proven to fail more often than the version before it; one that is as good is stopped with a chance of at most %.3g %%", 100*p.Alpha)
	if p.MaxHarmed > 0 {
		say("stopped too when %g executions more have failed than would have failed on the version before it", p.MaxHarmed)
	}
	for _, m := range p.Metrics {
		say("metric %s: %s", m.Name, m.words())
	}
	for _, j := range p.Judges {
		say("judge %s: %s", j.Name, j.words())
	}
	switch p.Rollback {
	case ReactAuto:
		say("stopped means rolled back at once")
	case ReactManual:
		say("stopped means that it waits for a person to roll it back")
	case ReactUnlessAcked:
		say("stopped means rolled back after %s, unless a person takes responsibility (specctl canary ack)", p.AckWithin)
	}
	return out
}

// ends says what ends a step.
func (s Step) ends(demand float64) string {
	bound := ""
	if s.Within > 0 {
		bound = fmt.Sprintf("; held if that takes longer than %s", s.Within)
	}
	switch s.Until {
	case UntilDuration:
		return "for " + Long(time.Duration(s.Within))
	case UntilManual:
		return "until a person goes on (specctl canary promote)" + bound
	case UntilEvidence:
	}
	return fmt.Sprintf("until proven to fail less often than %.3g %% (where %.3g %% fail before it)%s", 100*demand, 100*AssumedBase, bound)
}

func (g Gate) words() string {
	if g.Manual {
		out := fmt.Sprintf("a person opens it, by specctl canary approve or a link that is good for %s", Duration(g.LinkLife()))
		if g.Notify != "" {
			out += "; the links are posted to " + g.Notify
		}
		return out
	}
	return fmt.Sprintf("%s is asked every %s and has %s to answer; no answer opens nothing", g.Webhook, Duration(g.AskEvery()), Duration(g.AskTimeout()))
}

func (m Metric) words() string {
	out := fmt.Sprintf("failures whose reason begins with %q", m.Reason)
	if m.SlowerThan > 0 {
		out = "executions that take longer than " + m.SlowerThan.String()
	}
	switch {
	case m.Never:
		return out + "; one of them on the canary stops it"
	case m.PMax > 0:
		return out + fmt.Sprintf("; proven to be fewer than %.3g %%", 100*m.PMax)
	}
	return out + "; they can only stop it"
}
