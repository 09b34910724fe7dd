package drain_test

import (
	"slices"
	"testing"

	"github.com/specproxy/specproxy/internal/drain"
)

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		contract string
		want     []string
	}{
		{`
effects: guarded
default: {onRollback: complete, within: 2m, then: cancel, retryAfter: 1s}
rules:
- when: {effects: none}
  onRollback: handover
  else: cancel
- when: {effects: irreversible}
  onRollback: complete
  within: 15m
  then: hold
- when: {method: GET, path: /v1/*, olderThan: 2s}
  onRollback: cancel
  retryAfter: 1s-5s
- onRollback: handover
  else: complete
`, []string{
			"effects are guarded: the agent asks before it acts, so silence means that nothing was done",
			"rule 1: effects=none: begin again under the new version, unseen by the client; where that is impossible, end with a signal to retry, spread as the rollback says",
			"rule 2: effects=irreversible: go on under the old version for up to 15m, then hold: never cut, shown to a person; also where effects are unknown",
			"rule 3: method=GET, path=/v1/*, olderThan=2s: end with a signal to retry in 1s-5s",
			"rule 4: everything: begin again under the new version, unseen by the client; where that is impossible, go on under the old version until it ends, or for up to the pool's default deadline, then hold: never cut, shown to a person",
			"default: go on under the old version for up to 2m, then end with a signal to retry in 1s",
			"always: an execution with a known irreversible effect is never cut: it completes, and past its deadline it is held for a person",
		}},
		{`
default: {onRollback: complete}
rules:
- when: {effects: irreversible}
  onRollback: complete
- when: {effects: unknown}
  onRollback: cancel
onPromote: {disposition: handover, else: complete}
onShutdown: {disposition: handover, else: complete}
`, []string{
			"effects are unreported: the agent does not tell, so they are unknown unless declared",
			"rule 1: effects=irreversible: go on under the old version until it ends, or for up to the pool's default deadline, then hold: never cut, shown to a person",
			"rule 2: effects=unknown: end with a signal to retry, spread as the rollback says",
			"default: go on under the old version until it ends, or for up to the pool's default deadline, then hold: never cut, shown to a person",
			"on a promotion: begin again under the new version, unseen by the client; where that is impossible, go on under the old version until it ends or its request's own deadline",
			"on the shutdown of an instance: begin again on another instance of the same version, unseen by the client; where that is impossible, go on until it ends, for as long as the sidecar's --drain-timeout lets it",
			"always: an execution with a known irreversible effect is never cut: it completes, and past its deadline it is held for a person",
		}},
	} {
		if got := drain.Explain(mustContract(t, c.contract)); !slices.Equal(got, c.want) {
			t.Errorf("contract:%s", c.contract)
			for _, line := range got {
				t.Errorf("  %s", line)
			}
		}
	}
}

func TestRuleLabel(t *testing.T) {
	c := mustContract(t, `{default: {onRollback: complete}, rules: [{when: {method: GET}, onRollback: cancel}, {when: {effects: readonly, olderThan: 2s}, onRollback: cancel}]}`)
	for i, want := range map[int]string{-1: "default", 0: "rule 1: method=GET", 1: "rule 2: effects=readonly, olderThan=2s", 2: "default"} {
		if got := drain.RuleLabel(c, i); got != want {
			t.Errorf("RuleLabel(%d) = %q, want %q", i, got, want)
		}
	}
}
