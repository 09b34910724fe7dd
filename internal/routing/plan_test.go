package routing_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/versions"
)

// rec makes a record: "2.0.3 good 1 all" is version, standing, generation of the first weight, and whether it held all.
func rec(t testing.TB, line string) versions.Record {
	f := strings.Fields(line)
	r := versions.Record{Spec: "s", Version: f[0], Standing: versions.Standing(f[1])}
	for _, c := range f[2] {
		r.FirstWeight = r.FirstWeight*10 + uint64(c-'0')
	}
	r.HeldAll = len(f) > 3
	if !slices.Contains(versions.Standings(), r.Standing) {
		t.Fatalf("no such standing: %s", r.Standing)
	}
	return r
}

func recs(t testing.TB, lines ...string) []versions.Record {
	out := make([]versions.Record, 0, len(lines))
	for _, l := range lines {
		out = append(out, rec(t, l))
	}
	return out
}

// splits reads "2.0.3=9000 2.1.0=1000".
func splits(text string) []routing.Split {
	var out []routing.Split
	for _, f := range strings.Fields(text) {
		v, w, _ := strings.Cut(f, "=")
		n := uint32(0)
		for _, c := range w {
			n = n*10 + uint32(c-'0')
		}
		out = append(out, routing.Split{Version: v, BasisPoints: n})
	}
	return out
}

func TestAChangeIsARollbackWhenItTakesAllWeightFromAVersionInFavourOfAnEarlierOne(t *testing.T) {
	history := []string{"2.0.2 good 1 all", "2.0.3 good 2 all", "2.1.0 candidate 3 all", "2.2.0 published 0"}
	for name, c := range map[string]struct {
		before, after, abandoned, target string
	}{
		"first deploy":                      {"", "2.0.2=10000", "", ""},
		"promotion":                         {"2.0.3=10000", "2.1.0=10000", "", ""},
		"promotion of a new version":        {"2.1.0=10000", "2.2.0=10000", "", ""},
		"canary step up":                    {"2.0.3=9000 2.1.0=1000", "2.0.3=5000 2.1.0=5000", "", ""},
		"canary step down, still some":      {"2.0.3=5000 2.1.0=5000", "2.0.3=9999 2.1.0=1", "", ""},
		"canary taken out":                  {"2.0.3=9000 2.1.0=1000", "2.0.3=10000", "2.1.0", "2.0.3"},
		"full rollback":                     {"2.1.0=10000", "2.0.3=10000", "2.1.0", "2.0.3"},
		"two abandoned":                     {"2.0.3=4000 2.1.0=6000", "2.0.2=10000", "2.0.3 2.1.0", "2.0.2"},
		"rollback that keeps a canary":      {"2.1.0=10000", "2.0.3=9000 2.2.0=1000", "2.1.0", "2.0.3"},
		"old one out in favour of a new":    {"2.0.3=5000 2.1.0=5000", "2.1.0=10000", "", ""},
		"middle out, weight to old and new": {"2.0.2=1000 2.0.3=8000 2.1.0=1000", "2.0.2=5000 2.1.0=5000", "2.0.3", "2.0.2"},
		"the target is earlier than what it takes over, not just heaviest": {"2.0.2=1000 2.0.3=8000 2.1.0=1000", "2.0.2=4000 2.1.0=6000", "2.0.3", "2.0.2"},
		"replaced by new, older only shrinks":                              {"2.0.3=9000 2.1.0=1000", "2.0.3=5000 2.2.0=5000", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			abandoned, target := routing.Abandoned(splits(c.before), splits(c.after), recs(t, history...))
			if got := strings.Join(abandoned, " "); got != c.abandoned || target != c.target {
				t.Errorf("%s → %s abandons %q for %q, want %q for %q", c.before, c.after, got, target, c.abandoned, c.target)
			}
		})
	}
}

func TestExit(t *testing.T) {
	for name, c := range map[string]struct {
		records   []string
		from, now string
		want, why string
	}{
		"newest good": {
			[]string{"2.0.2 good 1 all", "2.0.3 good 2 all", "2.1.0 candidate 3 all"}, "2.1.0", "2.1.0=10000", "2.0.3", "newest good version before 2.1.0",
		},
		"quarantined is passed over": {
			[]string{"2.0.2 good 1 all", "2.0.3 quarantined 2 all", "2.1.0 candidate 3 all"}, "2.1.0", "2.1.0=10000", "2.0.2", "newest good",
		},
		"retired and aborted are passed over": {
			[]string{"2.0.1 good 1 all", "2.0.2 retired 2 all", "2.0.3 aborted 3", "2.1.0 candidate 4 all"}, "2.1.0", "2.1.0=10000", "2.0.1", "newest good",
		},
		"a canary's incumbent that is not proven yet": {
			[]string{"2.0.2 good 1 all", "2.0.3 candidate 2 all", "2.1.0 candidate 3"}, "2.1.0", "2.0.3=9000 2.1.0=1000", "2.0.3", "holds 90 % of the traffic now",
		},
		"order of first weight counts, not the version number": {
			[]string{"2.0.9 candidate 3 all", "2.1.0 good 1 all", "2.0.3 good 2 all"}, "2.0.9", "2.0.9=10000", "2.0.3", "newest good",
		},
		"later versions never": {
			[]string{"2.0.3 candidate 1 all", "2.1.0 good 2 all"}, "2.0.3", "2.0.3=10000", "", "",
		},
		"a canary that never held all is no exit": {
			[]string{"2.0.3 candidate 1", "2.1.0 candidate 2"}, "2.1.0", "2.0.3=5000 2.1.0=5000", "", "",
		},
		"held all, nothing good": {
			[]string{"2.0.3 candidate 1 all", "2.1.0 candidate 2 all"}, "2.1.0", "2.1.0=10000", "2.0.3", "has not been proven good",
		},
		"first version": {[]string{"2.0.3 candidate 1 all", "2.1.0 published 0"}, "2.0.3", "2.0.3=10000", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, why, err := routing.Exit(c.from, splits(c.now), recs(t, c.records...))
			if c.want == "" {
				if !errors.Is(err, routing.ErrNoExit) {
					t.Fatalf("exit = %s (%s), %v; want none", got, why, err)
				}
				return
			}
			if err != nil || got != c.want || !strings.Contains(why, c.why) {
				t.Errorf("exit = %s (%s), %v; want %s (…%s…)", got, why, err, c.want, c.why)
			}
		})
	}
}

func TestNormalizeRefusesWhatCannotBeRouted(t *testing.T) {
	records := recs(t, "1.0.0 good 1 all", "1.1.0 published 0")
	for text, want := range map[string]string{
		"1.0.0=9000":             "weights sum to 90 %, not 100 %",
		"1.0.0=9999":             "weights sum to 99.99 %, not 100 %",
		"1.0.0=10000 1.1.0=1":    "weights sum to 100.01 %, not 100 %",
		"1.0.0=5000 1.0.0=5000":  "named twice",
		"1.0.0=5000 9.9.9=5000":  "9.9.9 does not exist",
		"":                       "weights sum to 0 %, not 100 %",
		"1.0.0=4294967295 1.1.0": "not 100 %",
	} {
		if _, err := routing.Normalize(splits(text), records); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Normalize(%q) = %v, want …%s…", text, err, want)
		}
	}
	got, err := routing.Normalize(splits("1.1.0=1000 1.0.0=9000"), records)
	if diff := cmp.Diff(splits("1.0.0=9000 1.1.0=1000"), got); err != nil || diff != "" {
		t.Errorf("Normalize sorts by age and drops zeros: %v %s", err, diff)
	}
}

// drawRecords makes a spec's versions with any standings and any history.
func drawRecords(t *rapid.T) []versions.Record {
	var out []versions.Record
	for i, n := 0, rapid.IntRange(1, 6).Draw(t, "versions"); i < n; i++ {
		out = append(out, versions.Record{
			Spec: "s", Version: []string{"1.0.0", "1.1.0", "1.2.0", "2.0.0", "2.0.1", "3.0.0"}[i],
			Standing:    rapid.SampledFrom(versions.Standings()).Draw(t, "standing"),
			FirstWeight: rapid.Uint64Range(0, 9).Draw(t, "first"), HeldAll: rapid.Bool().Draw(t, "all"),
		})
	}
	return out
}

func drawSplits(t *rapid.T, records []versions.Record, label string) []routing.Split {
	left, out := uint32(routing.Full), []routing.Split{}
	for i, r := range records {
		w := left
		if i < len(records)-1 {
			w = rapid.Uint32Range(0, left).Draw(t, label)
		}
		left -= w
		out = append(out, routing.Split{Version: r.Version, BasisPoints: w})
	}
	return out
}

func TestExitIsAlwaysARollbackTarget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := drawRecords(t)
		current, err := routing.Normalize(drawSplits(t, records, "now"), records)
		if err != nil {
			t.Fatal(err)
		}
		from := routing.Newest(current, records)
		to, _, err := routing.Exit(from, current, records)
		if err != nil {
			return
		}
		abandoned, target := routing.Abandoned(current, []routing.Split{{Version: to, BasisPoints: routing.Full}}, records)
		if target != to || !slices.Contains(abandoned, from) {
			t.Fatalf("going from %s to its exit %s abandons %v for %q", from, to, abandoned, target)
		}
		i := slices.IndexFunc(records, func(r versions.Record) bool { return r.Version == to })
		if s := records[i].Standing; s != versions.Good && s != versions.Candidate {
			t.Fatalf("exit %s is %s", to, s)
		}
	})
}

func TestNoChangeAbandonsAVersionThatKeepsWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := drawRecords(t)
		before, _ := routing.Normalize(drawSplits(t, records, "before"), records)
		after, _ := routing.Normalize(drawSplits(t, records, "after"), records)
		abandoned, target := routing.Abandoned(before, after, records)
		for _, v := range abandoned {
			if (routing.Route{Splits: after}).Weight(v) != 0 || (routing.Route{Splits: before}).Weight(v) == 0 {
				t.Fatalf("%v → %v abandons %s", before, after, v)
			}
		}
		if (target == "") != (len(abandoned) == 0) || target != "" && (routing.Route{Splits: after}).Weight(target) == 0 {
			t.Fatalf("%v → %v: target %q for %v", before, after, target, abandoned)
		}
	})
}

func TestAPinIsACapabilityOfOneVersion(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	seen := map[string]string{}
	for _, at := range []string{"a@1.0.0", "a@1.0.1", "a@1.0.0-rc", "aa@1.0.0"} {
		spec, version, _ := strings.Cut(at, "@")
		pin := routing.Pin(secret, spec, version)
		if len(pin) != 32 || seen[pin] != "" || pin != routing.Pin(secret, spec, version) || pin == routing.Pin([]byte("another"), spec, version) {
			t.Errorf("pin of %s: %q (also %q)", at, pin, seen[pin])
		}
		seen[pin] = at
	}
}
