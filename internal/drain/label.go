package drain

import (
	"fmt"
	"strings"
)

// RuleLabel names a rule for people, by Decision.Rule: "rule 2: effects=none, olderThan=2s" for index 1, "default" for -1 and for an index that
// the contract does not have.
func RuleLabel(c Contract, i int) string {
	if i < 0 || i >= len(c.Rules) {
		return "default"
	}
	return ruleName(i) + ": " + c.Rules[i].When.String()
}

// ruleName counts from 1, as people do.
func ruleName(i int) string { return fmt.Sprintf("rule %d", i+1) }

// String lists the conditions: "effects=none, method=GET, path=/v1/*, olderThan=2s", or "everything".
func (m Match) String() string {
	var parts []string
	for _, part := range []struct{ key, value string }{
		{"effects", string(m.Effects)}, {"method", m.Method}, {"path", m.Path},
	} {
		if part.value != "" {
			parts = append(parts, part.key+"="+part.value)
		}
	}
	if m.OlderThan != 0 {
		parts = append(parts, "olderThan="+m.OlderThan.String())
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}
