package drain

// Explain says in plain words what the contract does, one line each: how effects are known, every rule in order, the default, and what holds
// whatever the rules say.
func Explain(c Contract) []string {
	lines := []string{"effects are " + string(c.reporting()) + ": " + reportingWords(c.reporting())}
	for _, d := range c.Declared {
		lines = append(lines, "declared: "+d.words(c.reporting()))
	}
	for i, r := range c.Rules {
		line := RuleLabel(c, i) + ": " + r.words(onRollback)
		if r.When.Effects.Has(EffectsIrreversible) && !c.namesUnknown() {
			line += "; also where effects are unknown"
		}
		lines = append(lines, line)
	}
	lines = append(lines, "default: "+c.Default.words(onRollback))
	if c.CompatibleWith != "" {
		lines = append(lines, "hand-over: only to a version in "+c.CompatibleWith)
	}
	lines = append(lines, c.explainLimits()...)
	return append(lines, "always: an execution with a known irreversible effect is never cut: it completes, and past its deadline it is held for a person")
}

// explainLimits says what holds beside the rules.
func (c Contract) explainLimits() (lines []string) {
	if !c.DefaultWithin.IsZero() {
		lines = append(lines, "default deadline: where no within is given, twice the 99th percentile of the pool's own durations, within "+c.DefaultWithin.String()+", then hold")
	}
	if c.MaxTotal != 0 {
		lines = append(lines, "conversations: at most "+c.MaxTotal.String()+" after a rollback, then end with a signal to retry, held or not")
	}
	if !c.OnPromote.IsZero() {
		lines = append(lines, "on a promotion: "+c.OnPromote.action().words(onPromotion))
	}
	if !c.OnShutdown.IsZero() {
		lines = append(lines, "on the shutdown of an instance: "+c.OnShutdown.action().words(onShutdown))
	}
	return lines
}

func (d Declaration) words(r Reporting) string {
	words := d.String() + " is " + string(d.Class)
	switch {
	case d.Tool != "" && r == Guarded:
		words += " once the agent was granted it"
	case d.Tool != "":
		words += " once it is called through the sidecar or reported"
	default:
		words += " from the first moment of an execution"
	}
	if d.Compensation != "" {
		words += "; " + d.Compensation + " undoes it"
	}
	return words
}

func reportingWords(r Reporting) string {
	switch r {
	case Guarded:
		return "the agent asks before it acts, so silence means that nothing was done"
	case Reported:
		return "the agent tells after it acted, so silence means unknown"
	case Unreported:
		return "the agent does not tell, so they are unknown unless declared"
	}
	return "this way of reporting is not known"
}

// occasion is what an order is given for, in the words that differ: where work goes on, where it begins again, and for how long it goes on where
// the contract gives no time.
type occasion struct{ here, elsewhere, open string }

var (
	onRollback = occasion{
		"go on under the old version", "begin again under the new version, unseen by the client",
		"until it ends, or for up to the pool's default deadline, then hold: never cut, shown to a person",
	}
	onPromotion = occasion{onRollback.here, onRollback.elsewhere, "until it ends or its request's own deadline"}
	onShutdown  = occasion{
		"go on", "begin again on another instance of the same version, unseen by the client",
		"until it ends, for as long as the sidecar's --drain-timeout lets it",
	}
)

func (a Action) words(at occasion) string {
	switch a.OnRollback {
	case Complete:
		return a.completeWords(at)
	case Cancel:
		return "end with " + a.retryWords()
	case Handover:
		instead := "end with " + a.retryWords()
		if a.Else == Complete {
			instead = a.completeWords(at)
		}
		return at.elsewhere + "; where that is impossible, " + instead
	case Hold:
		return "hold for a person"
	}
	return "nothing is said"
}

func (a Action) completeWords(at occasion) string {
	switch {
	case a.Within == 0:
		return at.here + " " + at.open
	case a.Then == Hold:
		return at.here + " for up to " + a.Within.String() + ", then hold: never cut, shown to a person"
	}
	return at.here + " for up to " + a.Within.String() + ", then end with " + a.retryWords()
}

func (a Action) retryWords() string {
	if a.RetryAfter.IsZero() {
		return "a signal to retry, spread as the rollback says"
	}
	return "a signal to retry in " + a.RetryAfter.String()
}
