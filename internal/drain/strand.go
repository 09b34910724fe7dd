package drain

import "fmt"

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
	switch {
	case a.canComplete() && a.Within == 0:
		return []string{label + ": an execution may go on without end, since nothing but its request's own deadline ends it; add within and then"}
	case a.Then == Hold:
		return []string{fmt.Sprintf("%s: after %s an execution is held until its agent ends it or a person does; nothing else will", label, a.Within)}
	}
	return nil
}
