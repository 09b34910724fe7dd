package drain

// Explain says in plain words what the contract does, one line each: how effects are known, every rule in order, the default, and what holds
// whatever the rules say.
func Explain(c Contract) []string {
	lines := []string{"effects are " + string(c.reporting()) + ": " + reportingWords(c.reporting())}
	for _, d := range c.Declared {
		lines = append(lines, "declared: "+d.words(c.reporting()))
	}
	for i, r := range c.Rules {
		line := RuleLabel(c, i) + ": " + r.words()
		if r.When.Effects.Has(EffectsIrreversible) && !c.namesUnknown() {
			line += "; also where effects are unknown"
		}
		lines = append(lines, line)
	}
	lines = append(lines, "default: "+c.Default.words())
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
		lines = append(lines, "on a promotion: "+c.OnPromote.words())
	}
	if !c.OnShutdown.IsZero() {
		lines = append(lines, "on the shutdown of an instance: "+c.OnShutdown.words())
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

// words differ from a rule's in that no default deadline applies.
func (s Section) words() string {
	if a := s.action(); a.canComplete() && a.Within == 0 && a.OnRollback == Complete {
		return "go on under the old version until it ends or its request's own deadline"
	}
	return s.action().words()
}

func (a Action) words() string {
	switch a.OnRollback {
	case Complete:
		return a.completeWords()
	case Cancel:
		return "end with " + a.retryWords()
	case Handover:
		instead := "end with " + a.retryWords()
		if a.Else == Complete {
			instead = a.completeWords()
		}
		return "begin again under the new version, unseen by the client; where that is impossible, " + instead
	case Hold:
		return "hold for a person"
	}
	return "nothing is said"
}

func (a Action) completeWords() string {
	const under = "go on under the old version"
	switch {
	case a.Within == 0:
		return under + " until it ends, or for up to the pool's default deadline, then hold: never cut, shown to a person"
	case a.Then == Hold:
		return under + " for up to " + a.Within.String() + ", then hold: never cut, shown to a person"
	}
	return under + " for up to " + a.Within.String() + ", then end with " + a.retryWords()
}

func (a Action) retryWords() string {
	if a.RetryAfter.IsZero() {
		return "a signal to retry, spread as the rollback says"
	}
	return "a signal to retry in " + a.RetryAfter.String()
}
