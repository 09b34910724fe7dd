package versions_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/specproxy/specproxy/internal/versions"
)

// A policy looks ahead: a version that held traffic when it was set runs on without a signature.
func TestPolicyLooksAhead(t *testing.T) {
	keys := []string{"key"}
	for _, x := range []struct {
		name              string
		first, generation uint64
		want              []string
	}{
		{"never had traffic", 0, 5, keys},
		{"had traffic before", 3, 5, nil},
		{"had traffic at that generation", 5, 5, nil},
		{"came after", 6, 5, keys},
		{"never deployed at all", 0, 0, keys},
	} {
		got := versions.Policy{SignedBy: keys, Generation: x.generation}.KeysFor(versions.Record{FirstWeight: x.first})
		if d := cmp.Diff(x.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", x.name, d)
		}
	}
}
