package versions_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/versions"
)

func TestNamesAreDNSLabels(t *testing.T) {
	for name, want := range map[string]string{
		"customer-service":      "",
		"a":                     "",
		"7":                     "",
		"a--b":                  "",
		strings.Repeat("a", 63): "",
		"":                      "is empty",
		strings.Repeat("a", 64): "64 characters",
		"Customer":              "DNS label",
		"-a":                    "DNS label",
		"a-":                    "DNS label",
		"a.b":                   "DNS label",
		"a_b":                   "DNS label",
		"a b":                   "DNS label",
		"ä":                     "DNS label",
		"a\n":                   "DNS label",
	} {
		checkError(t, name, versions.CheckName(name), want)
	}
}

func TestVersionsAreStrictSemanticVersions(t *testing.T) {
	for version, want := range map[string]string{
		"2.0.3":                            "",
		"0.0.0":                            "",
		"2.1.0-rc.1":                       "",
		"1.0.0-0.3.7":                      "",
		"1.0.0-x-y-z.--":                   "",
		"":                                 "is empty",
		"v2.0.3":                           "write 2.0.3",
		"2.0.3+build.5":                    "write 2.0.3",
		"2.0":                              "not semantic versioning",
		"2":                                "not semantic versioning",
		"2.0.3.4":                          "not semantic versioning",
		"02.0.3":                           "not semantic versioning",
		"2.0.3-":                           "not semantic versioning",
		"2.0.3-01":                         "not semantic versioning",
		"2.0.3-a..b":                       "not semantic versioning",
		"2.0.x":                            "not semantic versioning",
		"2.0.3,":                           "not semantic versioning",
		"2.0.3\n":                          "not semantic versioning",
		"99999999999999999.0.0":            "",
		"99999999999999999999999999.0.0":   "not semantic versioning",
		"1.0.0-" + strings.Repeat("a", 58): "",
		"1.0.0-" + strings.Repeat("a", 59): "65 characters",
	} {
		checkError(t, version, versions.CheckVersion(version), want)
	}
}

func TestParseRef(t *testing.T) {
	ref, err := versions.ParseRef("customer-service:2.0.3")
	if want := (versions.Ref{Spec: "customer-service", Version: "2.0.3"}); err != nil || ref != want {
		t.Fatalf("got %v, %v, want %v", ref, err, want)
	}
	if s := ref.String(); s != "customer-service:2.0.3" {
		t.Errorf("String is %q", s)
	}
	for s, want := range map[string]string{
		"billing":                 `"billing" names no version: write name:version, such as billing:2.0.3`,
		"":                        "such as customer-service:2.0.3",
		":2.0.3":                  "the name is empty",
		"billing:":                "the version is empty",
		"billing:v1.0.0":          "write 1.0.0",
		"billing:1.0.0:2.0.0":     "not semantic versioning",
		"billing@1.0.0":           "names no version",
		"Billing:1.0.0":           "DNS label",
		"localhost/billing:1.0.0": "DNS label",
	} {
		_, err := versions.ParseRef(s)
		checkError(t, s, err, want)
	}
}

// Semantic versioning 2.0.0, section 11: the example of precedence.
func TestSortFollowsPrecedence(t *testing.T) {
	want := []string{
		"latest", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1",
		"1.0.0", "1.2.0", "1.10.0", "2.0.0", "10.0.0",
	}
	rapid.Check(t, func(t *rapid.T) {
		got := rapid.Permutation(want).Draw(t, "order")
		versions.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("got %q", got)
		}
	})
}

func TestCompareIsAnOrder(t *testing.T) {
	version := rapid.OneOf(rapid.StringMatching(`[0-2]\.[0-2]\.[0-2](-(a|b|0|1|10)(\.(a|0|2))?)?`), rapid.StringMatching(`[xy]?`))
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := version.Draw(t, "a"), version.Draw(t, "b"), version.Draw(t, "c")
		if versions.Compare(a, b) != -versions.Compare(b, a) {
			t.Fatalf("Compare(%q, %q) and its converse disagree", a, b)
		}
		if (versions.Compare(a, b) == 0) != (a == b) {
			t.Fatalf("%q and %q: equal order and equal text disagree", a, b)
		}
		if versions.Compare(a, b) <= 0 && versions.Compare(b, c) <= 0 && versions.Compare(a, c) > 0 {
			t.Fatalf("%q <= %q <= %q, but not %q <= %q", a, b, c, a, c)
		}
	})
}

// checkError wants no error if want is "", else one that contains it.
func checkError(t *testing.T, name string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%q: unexpected error: %v", name, err)
	case want != "" && err == nil:
		t.Errorf("%q: accepted, want an error with %q", name, want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("%q: error %q does not say %q", name, err, want)
	}
}
