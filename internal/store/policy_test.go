package store_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

func TestPoliciesCountUpAndAreAllKept(t *testing.T) {
	s := open(t, t.TempDir())
	one := versions.Policy{Spec: "a", Revision: 1, SignedBy: []string{"key"}, By: "ada"}
	two := versions.Policy{Spec: "a", Revision: 2, Conformance: true, By: "bob", Generation: 7}
	update(t, s, func(tx *store.Tx) { tx.PutPolicy(one) })
	for _, late := range []versions.Policy{one, {Spec: "a", Revision: 3}, {Spec: "a"}, {Spec: "b", Revision: 2}} {
		if _, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.PutPolicy(late); return nil }); err == nil {
			t.Errorf("revision %d of %s was written", late.Revision, late.Spec)
		}
	}
	update(t, s, func(tx *store.Tx) { tx.PutPolicy(two) })
	if got, ok := s.View().Policy("a"); !ok || !cmp.Equal(got, two) {
		t.Errorf("in force: %+v, %t", got, ok)
	}
	if d := cmp.Diff([]versions.Policy{one, two}, s.View().Policies("a")); d != "" {
		t.Errorf("all there ever were (-want +got):\n%s", d)
	}
	if _, ok := s.View().Policy("b"); ok {
		t.Error("b has a policy")
	}
}

// What was good once stays that, whatever becomes of it: a line such as 2.0 is resolved by it.
func TestWasGoodStays(t *testing.T) {
	s := open(t, t.TempDir())
	for _, x := range []struct {
		standing versions.Standing
		want     bool
	}{
		{versions.Published, false}, {versions.Candidate, false}, {versions.Good, true}, {versions.Quarantined, true}, {versions.Candidate, true},
	} {
		update(t, s, func(tx *store.Tx) {
			tx.PutVersion(versions.Record{Spec: "a", Version: "1.0.0", Digest: "sha256:1", Standing: x.standing})
		})
		if r, _ := s.View().Version("a", "1.0.0"); r.EverGood() != x.want {
			t.Errorf("%s: ever good: %t, want %t", x.standing, r.EverGood(), x.want)
		}
	}
}
