package versions_test

import (
	"cmp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/versions"
)

// anyVersion draws versions that differ in what semantic versioning orders by.
func anyVersion(t *rapid.T, name string) string {
	return rapid.OneOf(
		rapid.StringMatching(`(0|[1-9]\d{0,18})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d?)`),
		rapid.StringMatching(`[0-2]\.[0-2]\.[0-2]-((0|[1-9]\d{0,3}|[a-cA-C-][0-9a-b-]{0,2})\.){0,3}(0|[1-9]\d{0,3}|[a-cA-C-][0-9a-b-]{0,2})`),
		rapid.SampledFrom([]string{"", "latest", "v1.0.0", "1.0", "1.0.0/../x"}),
	).Draw(t, name)
}

func TestSortKeyOrdersAsCompareDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyVersion(t, "a"), anyVersion(t, "b")
		if got, want := cmp.Compare(versions.SortKey(a), versions.SortKey(b)), versions.Compare(a, b); got != want {
			t.Fatalf("%q %q: the keys compare %d, the versions %d (%q %q)", a, b, got, want, versions.SortKey(a), versions.SortKey(b))
		}
		if strings.Contains(versions.SortKey(a), "/") {
			t.Fatalf("the key of %q contains a slash", a)
		}
	})
}

// semver.org 2.0.0 section 11.4 gives this order itself.
func TestSortKeyOfTheSpecificationsExample(t *testing.T) {
	order := []string{
		"1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0",
	}
	for i := range order[1:] {
		if a, b := versions.SortKey(order[i]), versions.SortKey(order[i+1]); a >= b {
			t.Errorf("%s (%s) does not come before %s (%s)", order[i], a, order[i+1], b)
		}
	}
}

func TestSortKeyPrefix(t *testing.T) {
	for _, c := range []struct {
		numbers string
		in, out []string
	}{
		{"2", []string{"2.0.0", "2.10.3-rc.1"}, []string{"1.2.0", "20.0.0", "22.0.0"}},
		{"2.0", []string{"2.0.0", "2.0.11", "2.0.0-a"}, []string{"2.1.0", "2.00.1", "12.0.0"}},
		{"2.0.3", []string{"2.0.3", "2.0.3-rc.1"}, []string{"2.0.30", "2.0.2"}},
		{"", []string{"0.0.0", "latest"}, nil},
	} {
		prefix, err := versions.SortKeyPrefix(c.numbers)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range c.in {
			if !strings.HasPrefix(versions.SortKey(v), prefix) {
				t.Errorf("%s is not among the versions that begin with %q", v, c.numbers)
			}
		}
		for _, v := range c.out {
			if strings.HasPrefix(versions.SortKey(v), prefix) {
				t.Errorf("%s is among the versions that begin with %q", v, c.numbers)
			}
		}
	}
	for _, bad := range []string{"2.", ".", "v2", "2.x", "02", "1.2.3.4", "2.0.3-rc", "12345678901234567890"} {
		if _, err := versions.SortKeyPrefix(bad); err == nil || !strings.Contains(err.Error(), "first numbers") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
