package store

import (
	"fmt"

	"github.com/specproxy/specproxy/internal/versions"
)

// Policies are kept twice, as routes are: the one in force, and all there ever were.
var (
	policies      = newKind("policies", func(p versions.Policy) []string { return []string{p.Spec} })
	policyHistory = newKind("policyhistory", func(p versions.Policy) []string { return []string{p.Spec} })
)

// Policy returns the spec's policy in force; false if none was ever set.
func (r reader) Policy(spec string) (versions.Policy, bool) {
	return one[versions.Policy](r, policies, path(spec))
}

// Policies returns all the policies that the spec ever had, oldest first, the one in force last.
func (r reader) Policies(spec string) []versions.Policy {
	return values[versions.Policy](r.list(policyHistory, within(spec)))
}

// PutPolicy writes the policy in force and its entry in the history. Revisions count up by one, so nobody's change can be lost under another's.
func (t *Tx) PutPolicy(p versions.Policy) {
	old, _ := t.Policy(p.Spec)
	if p.Revision != old.Revision+1 {
		t.fail(fmt.Errorf("policy of %s is at revision %d: revision %d cannot follow", p.Spec, old.Revision, p.Revision))
	}
	t.put(policies, path(p.Spec), p)
	t.put(policyHistory, path(p.Spec, numbered(p.Revision)), p)
}
