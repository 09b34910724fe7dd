package routing_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/routing"
)

func TestOnlyWhatEnvoyCanCompareIsAHeaderTarget(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"x-tenant", "acme", ""},
		{"x-tenant", strings.Repeat("a", routing.MaxHeaderValue), ""},
		{"cookie", "a=b; c=d", ""},
		{"X-Tenant", "acme", "in lower case"},
		{"x tenant", "acme", "is not the name of a header"},
		{"", "acme", "is not the name of a header"},
		{":path", "/", "is not the name of a header"},
		{"x-spec-pin", "acme", "is dropped"},
		{"x-envoy-max-retries", "3", "is dropped"},
		{"host", "a", "which spec"},
		{"x-tenant", "", "1 to 256 bytes"},
		{"x-tenant", strings.Repeat("a", routing.MaxHeaderValue+1), "1 to 256 bytes"},
		{"x-tenant", " acme", "spaces at its ends"},
		{"x-tenant", "ac\nme", "not printable ASCII"},
		{"x-tenant", "ácme", "not printable ASCII"},
	} {
		err := routing.CheckHeader(c.name, c.value)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %q: %v, want %q", c.name, c.value, err, c.want)
		}
	}
}

func TestRetargetReplacesAddsAndIsBounded(t *testing.T) {
	at := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	target := func(value, version string) routing.HeaderTarget {
		return routing.HeaderTarget{Header: "x-tenant", Value: value, Version: version, At: at}
	}
	both, err := routing.Retarget([]routing.HeaderTarget{target("acme", "2.0.3")}, []routing.HeaderTarget{target("bolt", "2.1.0"), target("acme", "2.1.0")})
	if err != nil || len(both) != 2 || both[0] != target("acme", "2.1.0") || both[1] != target("bolt", "2.1.0") {
		t.Fatalf("%v, %v: a header keeps its place and leads to one version", both, err)
	}
	again := target("bolt", "2.1.0")
	again.At, again.By = at.Add(time.Hour), "somebody else"
	same, err := routing.Retarget(both, []routing.HeaderTarget{again})
	if err != nil || !slices.Equal(same, both) {
		t.Errorf("the same again changed %v into %v, %v", both, same, err)
	}
	var many []routing.HeaderTarget
	for i := range routing.MaxHeaderTargets + 1 {
		many = append(many, target(strconv.Itoa(i), "2.1.0"))
	}
	if _, err := routing.Retarget(nil, many[1:]); err != nil {
		t.Errorf("%d of them: %v", routing.MaxHeaderTargets, err)
	}
	if _, err := routing.Retarget(nil, many); err == nil || !strings.Contains(err.Error(), "at most 16") {
		t.Errorf("%d of them: %v", len(many), err)
	}
}

func TestGainsAreWhatGetsMoreNewWork(t *testing.T) {
	route := func(weights string, targets ...routing.HeaderTarget) routing.Route {
		return routing.Route{Splits: splits(weights), HeaderTargets: targets}
	}
	acme := func(version string) routing.HeaderTarget {
		return routing.HeaderTarget{Header: "x-tenant", Value: "acme", Version: version}
	}
	for name, c := range map[string]struct {
		before, after routing.Route
		want          string
	}{
		"weight":             {route("2.0.3=10000"), route("2.0.3=9000 2.1.0=1000"), "2.1.0"},
		"less weight":        {route("2.0.3=5000 2.1.0=5000"), route("2.0.3=9000 2.1.0=1000"), "2.0.3"},
		"a header":           {route("2.0.3=10000"), route("2.0.3=10000", acme("2.1.0")), "2.1.0"},
		"the same header":    {route("2.0.3=10000", acme("2.1.0")), route("2.0.3=10000", acme("2.1.0")), ""},
		"a moved header":     {route("2.0.3=10000", acme("2.1.0")), route("2.0.3=10000", acme("2.2.0")), "2.2.0"},
		"a removed header":   {route("2.0.3=10000", acme("2.1.0")), route("2.0.3=10000"), ""},
		"header beside less": {route("2.0.3=5000 2.1.0=5000"), route("2.0.3=10000", acme("2.1.0")), "2.0.3 2.1.0"},
	} {
		if got := strings.Join(c.after.Gains(c.before), " "); got != c.want {
			t.Errorf("%s: %q gain, want %q", name, got, c.want)
		}
	}
}
