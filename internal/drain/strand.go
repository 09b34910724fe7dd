package drain

// Strands lists the ways in which an execution under this contract can go on for ever after a rollback: the drain then never ends, and the
// abandoned version's instances can never be stopped without cutting somebody. Each begins with the rule ("rule 2: …", "default: …"). None of
// them is an error: an execution that must never be cut is sometimes what is meant.
func Strands(c Contract) []string {
	var found []string
	for i, r := range c.Rules {
		found = append(found, r.strands(ruleName(i))...)
	}
	return append(found, c.Default.strands("default")...)
}

func (a Action) strands(label string) []string {
	const held = "an execution is held until its agent ends it or a person does; nothing else will"
	switch {
	case a.canComplete() && a.Within == 0:
		return []string{label + ": no deadline is given, so after the pool's default one " + held}
	case a.Then == Hold:
		return []string{label + ": after " + a.Within.String() + " " + held}
	}
	return nil
}
