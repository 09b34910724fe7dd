package drain

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// RuleLabel names a rule for people, by Decision.Rule: "rule 2: effects=none, olderThan=2s" for index 1, "default" for -1 and for an index that
// the contract does not have.
func RuleLabel(c Contract, i int) string {
	if i == OperatorRule {
		return "operator"
	}
	if i < 0 || i >= len(c.Rules) {
		return "default"
	}
	return ruleName(i) + ": " + c.Rules[i].When.String()
}

// ruleName counts from 1, as people do.
func ruleName(i int) string { return fmt.Sprintf("rule %d", i+1) }

// String lists the conditions: "effects=none|readonly, method=GET, path=/v1/*, olderThan=2s", or "everything".
func (m Match) String() string {
	parts := m.route().parts(nil)
	if len(m.Effects) > 0 {
		parts = append([]string{"effects=" + m.Effects.String()}, parts...)
	}
	parts = part(parts, "tool", m.Tool)
	parts = part(parts, "skill", m.Skill)
	if m.OlderThan != 0 {
		parts = append(parts, "olderThan="+m.OlderThan.String())
	}
	if m.YoungerThan != 0 {
		parts = append(parts, "youngerThan="+m.YoungerThan.String())
	}
	for _, name := range slices.Sorted(maps.Keys(m.Header)) {
		parts = append(parts, "header "+name+"="+m.Header[name])
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

func (r route) parts(to []string) []string {
	to = part(to, "method", r.method)
	to = part(to, "path", r.path)
	return part(to, "grpc", r.grpc)
}

func part(to []string, key, value string) []string {
	if value == "" {
		return to
	}
	return append(to, key+"="+value)
}

// String names what is declared: "tool=refund.issue", "method=GET, path=/v1/*".
func (d Declaration) String() string {
	return strings.Join(part(part(d.route().parts(nil), "tool", d.Tool), "skill", d.Skill), ", ")
}
