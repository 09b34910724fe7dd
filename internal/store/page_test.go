package store_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

var everyStanding = []versions.Standing{versions.Published, versions.Candidate, versions.Good, versions.Aborted, versions.Quarantined, versions.Retired}

// lives draws the records of a spec's versions, in any state that they may come to be in.
func lives(t *rapid.T, spec string) []versions.Record {
	numbers := rapid.SliceOfNDistinct(rapid.IntRange(0, 40), 1, 12, rapid.ID[int]).Draw(t, "versions")
	all := make([]versions.Record, 0, len(numbers))
	for _, n := range numbers {
		all = append(all, versions.Record{
			Spec: spec, Version: fmt.Sprintf("%d.%d.0", n/10, n%10), Digest: fmt.Sprint("sha256:", n),
			Standing:    rapid.SampledFrom(everyStanding).Draw(t, "standing"),
			FirstWeight: rapid.Uint64Range(0, 6).Draw(t, "first weight"),
			HeldAll:     rapid.Bool().Draw(t, "held all"),
		})
	}
	return all
}

// split draws a split of all traffic over some of the records.
func split(t *rapid.T, name string, records []versions.Record) []routing.Split {
	n := rapid.IntRange(1, min(3, len(records))).Draw(t, name)
	chosen := rapid.Permutation(records).Draw(t, name)[:n]
	splits := make([]routing.Split, 0, n)
	for _, r := range chosen {
		splits = append(splits, routing.Split{Version: r.Version, BasisPoints: routing.Full / uint32(n)})
	}
	return splits
}

func TestRelevantDecidesAsAllVersionsDo(t *testing.T) {
	s, ctx := open(t, t.TempDir()), t.Context()
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		spec := fmt.Sprintf("r%d", round)
		all := lives(t, spec)
		before, after := split(t, "before", all), split(t, "after", all)
		compare := func(when string, r store.Reader) {
			some := r.Relevant(spec, store.Weighted(before, after))
			newest := routing.Newest(before, all)
			if got := routing.Newest(before, some); got != newest {
				t.Fatalf("%s: newest is %s, of all versions %s", when, got, newest)
			}
			gotFrom, gotTo := routing.Abandoned(before, after, some)
			wantFrom, wantTo := routing.Abandoned(before, after, all)
			if !slices.Equal(gotFrom, wantFrom) || gotTo != wantTo {
				t.Fatalf("%s: abandoned %v for %s, of all versions %v for %s", when, gotFrom, gotTo, wantFrom, wantTo)
			}
			for _, from := range store.Weighted(before, after) {
				got, why, err := routing.Exit(from, before, some)
				want, wantWhy, wantErr := routing.Exit(from, before, all)
				if got != want || why != wantWhy || (err == nil) != (wantErr == nil) {
					t.Fatalf("%s: the exit from %s is %q (%s, %v), of all versions %q (%s, %v)", when, from, got, why, err, want, wantWhy, wantErr)
				}
			}
		}
		_, err := s.Update(ctx, func(tx *store.Tx) error {
			for _, r := range all {
				tx.PutVersion(r)
			}
			compare("in the transaction", tx)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		compare("in the view", s.View())
	})
}

// TestExitsThatChangeMeanwhileAreSeen holds that a transaction which looked for an exit does not commit over one that came to be.
func TestExitsThatChangeMeanwhileAreSeen(t *testing.T) {
	s := open(t, t.TempDir())
	version := func(v string, standing versions.Standing, first uint64) versions.Record {
		return versions.Record{Spec: "a", Version: v, Digest: "sha256:" + v, Standing: standing, FirstWeight: first}
	}
	update(t, s, func(tx *store.Tx) {
		tx.PutVersion(version("1.0.0", versions.Good, 1))
		tx.PutVersion(version("1.1.0", versions.Candidate, 2))
		tx.PutVersion(version("1.2.0", versions.Candidate, 3))
	})
	var exits []string
	update(t, s, func(tx *store.Tx) {
		records := tx.Relevant("a", []string{"1.2.0"})
		exit, _, err := routing.Exit("1.2.0", nil, records)
		if err != nil {
			t.Error(err)
		}
		if exits = append(exits, exit); len(exits) == 1 {
			update(t, s, func(tx *store.Tx) { tx.PutVersion(version("1.1.0", versions.Good, 2)) })
		}
		tx.PutRoute(route("a", 1, exit))
	})
	if want := []string{"1.0.0", "1.1.0"}; !slices.Equal(exits, want) {
		t.Errorf("the exits looked for were %v, want %v", exits, want)
	}
	// A version that is only published changes no exit, and disturbs nobody.
	tries := 0
	update(t, s, func(tx *store.Tx) {
		tx.Relevant("a", []string{"1.2.0"})
		if tries++; tries == 1 {
			update(t, s, func(tx *store.Tx) { tx.PutVersion(version("1.3.0", versions.Published, 0)) })
		}
		tx.PutRoute(route("a", 2, "1.1.0"))
	})
	if tries != 1 {
		t.Errorf("a transaction was tried %d times over a version that was published meanwhile", tries)
	}
}

func TestPagesOfVersions(t *testing.T) {
	s := open(t, t.TempDir())
	var all []string
	update(t, s, func(tx *store.Tx) {
		for n := range 60 {
			v := fmt.Sprintf("%d.%d.%d", n%3, n%4, n)
			if n%7 == 0 {
				v += "-rc.1"
			}
			all = append(all, v)
			tx.PutVersion(versions.Record{Spec: "a", Version: v, Digest: "sha256:" + v, Standing: everyStanding[n%len(everyStanding)]})
		}
		tx.PutVersion(versions.Record{Spec: "a-b", Version: "0.0.1"})
	})
	versions.Sort(all)
	standing := map[string]versions.Standing{}
	for _, r := range s.View().Versions("a") {
		standing[r.Version] = r.Standing
	}
	for _, q := range []store.VersionQuery{
		{}, {Newest: true}, {Numbers: "2"}, {Numbers: "1.3", Newest: true}, {Standing: versions.Good}, {Standing: versions.Retired, Newest: true, Numbers: "0"},
		{Numbers: "9"}, {Standing: "unheard-of"},
	} {
		want := slices.DeleteFunc(slices.Clone(all), func(v string) bool {
			return !strings.HasPrefix(v+".", q.Numbers+".") && q.Numbers != "" || q.Standing != "" && standing[v] != q.Standing
		})
		if q.Newest {
			slices.Reverse(want)
		}
		q.Spec, q.Limit = "a", 1+rand.IntN(9)
		var got []string
		for {
			page, err := s.View().SomeVersions(q)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page {
				got = append(got, r.Version)
			}
			if len(page) < q.Limit {
				break
			}
			q.After = page[len(page)-1].Version
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: got %v, want %v", q, got, want)
		}
	}
	if newest, ok := s.View().Newest("a"); !ok || newest.Version != all[len(all)-1] {
		t.Errorf("the newest version is %s, want %s", newest.Version, all[len(all)-1])
	}
	if _, ok := s.View().Newest("b"); ok || s.View().Known("b") || !s.View().Known("a-b") {
		t.Error("which specs are known is wrong")
	}
}

func TestPagesOfSpecs(t *testing.T) {
	s := open(t, t.TempDir())
	names := []string{"a", "a-b", "ab", "b", "ba", "c"}
	update(t, s, func(tx *store.Tx) {
		for _, name := range names {
			for _, v := range []string{"1.0.0", "1.1.0", "10.0.0"} {
				tx.PutVersion(versions.Record{Spec: name, Version: v})
			}
		}
	})
	v := s.View()
	if got := v.Specs(); !slices.Equal(got, names) {
		t.Errorf("specs are %v", got)
	}
	for prefix, want := range map[string][]string{"": names, "a": {"a", "a-b", "ab"}, "b": {"b", "ba"}, "x": nil} {
		for limit := 1; limit <= 7; limit++ {
			var got []string
			for after := ""; ; after = got[len(got)-1] {
				page := v.SomeSpecs(prefix, after, limit)
				got = append(got, page...)
				if len(page) < limit {
					break
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("prefix %q, %d a page: %v, want %v", prefix, limit, got, want)
			}
		}
	}
}

func TestShortLists(t *testing.T) {
	s := open(t, t.TempDir())
	update(t, s, func(tx *store.Tx) {
		for g := range uint64(12) {
			tx.PutRoute(route("a", g+1, "1.0.0"))
		}
		tx.PutRoute(route("a-b", 1, "1.0.0"))
		for i, state := range []drain.State{drain.Ordered, drain.Draining, drain.Held, drain.Drained, drain.Superseded, drain.Cancelled} {
			tx.PutDrain(drain.Drain{Spec: "a", Version: fmt.Sprintf("1.%d.0", i), State: state})
		}
		for range 11 {
			tx.AppendPostMortem(tx.NextPostMortemID(), time.Now(), "ada", postmortem.Opened{})
		}
		tx.AppendPostMortem("PM-10", time.Now(), "ada", postmortem.Closed{Cause: postmortem.FalseAlarm})
		for seq := range uint64(3) {
			tx.PutFailures(store.FailureBatch{Spec: "a", Version: "1.0.0", Instance: "i", Seq: seq})
			tx.PutFailures(store.FailureBatch{Spec: "a", Version: "1.0.0-rc.1", Instance: "i", Seq: seq})
			tx.PutActs(store.ActBatch{Spec: "a", Version: "1.0.0", Instance: "i", Seq: seq})
			tx.PutActs(store.ActBatch{Spec: "b", Version: "1.0.0", Instance: "i", Seq: seq})
		}
	})
	v := s.View()
	var generations []uint64
	for _, r := range v.LastGenerations("a", 3) {
		generations = append(generations, r.Generation)
	}
	var states []drain.State
	for _, d := range v.UnfinishedDrains("a") {
		states = append(states, d.State)
	}
	var ids []string
	for _, r := range v.OpenPostMortems() {
		ids = append(ids, r.ID)
	}
	one, ok := v.Generation("a", 7)
	_, never := v.Generation("a", 13)
	for what, ok := range map[string]bool{
		"newest generations":              slices.Equal(generations, []uint64{12, 11, 10}),
		"one generation":                  ok && one.Generation == 7 && !never,
		"unfinished drains":               slices.Equal(states, []drain.State{drain.Ordered, drain.Draining, drain.Held}) && len(v.UnfinishedDrains("")) == 3 && len(v.UnfinishedDrains("a-b")) == 0,
		"open post-mortems, newest first": slices.Equal(ids, []string{"PM-11", "PM-9", "PM-8", "PM-7", "PM-6", "PM-5", "PM-4", "PM-3", "PM-2", "PM-1"}),
		"versions with records":           slices.Equal(v.Recorded(""), []versions.Ref{{Spec: "a", Version: "1.0.0-rc.1"}, {Spec: "a", Version: "1.0.0"}, {Spec: "b", Version: "1.0.0"}}),
	} {
		if !ok {
			t.Errorf("%s: wrong: %v %v %v %v", what, generations, states, ids, v.Recorded(""))
		}
	}
}
