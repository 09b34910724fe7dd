package routing_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/versions"
)

func record(version string, first uint64, standing versions.Standing, wasGood bool) versions.Record {
	return versions.Record{
		Spec: "s", Version: version, Digest: "sha256:" + strings.Repeat(fmt.Sprintf("%02x", len(version)+int(first)), 32), FirstWeight: first,
		Standing: standing, WasGood: wasGood,
	}
}

// history: 2.0.1, then 2.0.3, then a canary of 2.1.0 that took over, then back to 2.0.3 by rollback.
var (
	resolvable = []versions.Record{
		record("1.9.0", 0, versions.Published, false),
		record("2.0.1", 1, versions.Good, true),
		record("2.0.3", 2, versions.Good, true),
		record("2.0.4", 6, versions.Quarantined, true),
		record("2.0.10", 7, versions.Candidate, true),
		record("2.1.0", 3, versions.Retired, true),
		record("2.2.0", 0, versions.Published, false),
	}
	past = []routing.Route{
		{Generation: 1, Splits: []routing.Split{{Version: "2.0.1", BasisPoints: 10_000}}},
		{Generation: 2, Splits: []routing.Split{{Version: "2.0.3", BasisPoints: 10_000}}},
		{Generation: 3, Splits: []routing.Split{{Version: "2.0.3", BasisPoints: 9_000}, {Version: "2.1.0", BasisPoints: 1_000}}},
		{Generation: 4, Splits: []routing.Split{{Version: "2.1.0", BasisPoints: 10_000}}},
		{Generation: 5, Splits: []routing.Split{{Version: "2.0.3", BasisPoints: 10_000}}},
	}
)

func TestResolve(t *testing.T) {
	for _, x := range []struct {
		reference string
		records   []versions.Record
		history   []routing.Route
		// want is a version, why a part of the reason; or error a part of the error.
		want, why, err string
	}{
		{reference: "2.0.3", want: "2.0.3", why: "you named it"},
		{reference: "2.2.0", want: "2.2.0", why: "you named it"},
		{reference: "2.0.7", err: "2.0.7 is not published"},
		{reference: "latest-good", want: "2.0.3", why: "newest good version"},
		{reference: "latest-good", records: resolvable[:1], err: "no version is good yet"},
		{reference: "previous", want: "2.1.0", why: "until generation 4, before 2.0.3; it is retired"},
		{reference: "previous", history: past[:4], want: "2.0.3", why: "until generation 3, before 2.1.0"},
		{reference: "previous", history: past[:3], want: "2.0.1", why: "until generation 1, before 2.0.3"},
		{reference: "previous", history: past[:1], err: "only 2.0.1 ever carried the traffic"},
		{reference: "previous", history: []routing.Route{}, err: "nothing was ever deployed"},
		{reference: "2.0", want: "2.0.10", why: "highest version of 2.0 that was ever good; passed over: 2.0.4 is quarantined"},
		{reference: "2", want: "2.0.10", why: "passed over: 2.0.4 is quarantined by , 2.1.0 is retired"},
		{reference: "2.1", err: "no version of 2.1 may run: 2.1.0 is retired"},
		{reference: "2.2", err: "no version of 2.2 was ever good: there is 2.2.0 (published)"},
		{reference: "2.9", err: "there is no version of 2.9"},
		{reference: "20", err: "there is no version of 20"},
		{reference: resolvable[2].Digest, want: "2.0.3", why: "its digest is " + resolvable[2].Digest},
		{reference: resolvable[2].Digest[:19], want: "2.0.3", why: "its digest"},
		{reference: strings.TrimPrefix(resolvable[2].Digest, "sha256:")[:12], want: "2.0.3", why: "its digest"},
		{reference: "sha256:" + strings.Repeat("f", 64), err: "no version has the digest"},
		{reference: resolvable[0].Digest, records: []versions.Record{resolvable[0], resolvable[0]}, err: "that of several versions"},
		{reference: "newest", err: `"newest" names no version: write one such as 2.0.3, latest-good, previous, a line such as 2.0, or @sha256:`},
		{reference: "v2", err: "names no version"},
		{reference: "", err: "names no version"},
	} {
		records, history := x.records, x.history
		if records == nil {
			records = resolvable
		}
		if history == nil {
			history = past
		}
		got, why, err := routing.Resolve(x.reference, records, history)
		switch {
		case x.err != "" && (err == nil || !strings.Contains(err.Error(), x.err)):
			t.Errorf("%q: %s (%s), %v; want an error with %q", x.reference, got.Version, why, err, x.err)
		case x.err == "" && (err != nil || got.Version != x.want || !strings.Contains(why, x.why)):
			t.Errorf("%q: %s (%s), %v; want %s (%s)", x.reference, got.Version, why, err, x.want, x.why)
		}
	}
}
