package postmortem_test

import (
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
)

func TestStatsCountWhatHappened(t *testing.T) {
	day := func(n int) time.Time { return noon.AddDate(0, 0, n) }
	all := func(v string) []routing.Split { return []routing.Split{{Version: v, BasisPoints: routing.Full}} }
	history := []routing.Route{
		{Generation: 1, At: day(0), Splits: all("1")},
		{Generation: 2, At: day(1), Splits: []routing.Split{{Version: "1", BasisPoints: 9500}, {Version: "2", BasisPoints: 500}}},
		{Generation: 3, At: day(2), Splits: all("1"), Kind: routing.KindRollback, Abandoned: []string{"2"}},
		{Generation: 4, At: day(3), Splits: all("3")},
		{Generation: 5, At: day(6), Splits: all("1"), Kind: routing.KindRollback, Abandoned: []string{"3"}},
	}
	record := func(opened int, closing *postmortem.Closing) postmortem.Record {
		return postmortem.Record{OpenedAt: day(opened), Specs: []string{"shop"}, Closing: closing, Rollbacks: []postmortem.Rollback{{
			Spec: "shop", CommittedAt: day(opened), Effect: &postmortem.Effect{At: day(opened).Add(20 * time.Millisecond)},
		}}}
	}
	records := []postmortem.Record{record(2, &postmortem.Closing{At: day(4), Cause: postmortem.FalseAlarm}), record(6, nil)}
	s := postmortem.Count("shop", history, records, day(-10))
	if s.Deploys != 3 || s.Failed != 2 || s.Rollbacks != 2 || s.CanaryCatches != 1 || s.ProductionCatches != 1 || s.Open != 1 || s.FalseAlarms != 1 {
		t.Errorf("stats %+v", s)
	}
	for name, c := range map[string]struct {
		got  []time.Duration
		want time.Duration
	}{"detect": {s.Detect, 24 * time.Hour}, "restore": {s.Restore, 20 * time.Millisecond}, "close": {s.Close, 48 * time.Hour}} {
		if m, ok := postmortem.Median(c.got); !ok || m != c.want {
			t.Errorf("time to %s %v of %v, want %v", name, m, c.got, c.want)
		}
	}
	if late := postmortem.Count("shop", history, records, day(5)); late.Deploys != 0 || late.Failed != 1 || late.Rollbacks != 1 {
		t.Errorf("since day 5: %+v", late)
	}
	if both := s.Plus(s); both.Deploys != 6 || both.Causes[postmortem.FalseAlarm] != 2 || len(both.Close) != 2 {
		t.Errorf("twice: %+v", both)
	}
}

func TestStatsWarnBothWays(t *testing.T) {
	quiet := postmortem.Count("shop", []routing.Route{{Generation: 1, At: noon, Splits: []routing.Split{{Version: "1", BasisPoints: routing.Full}}}}, nil, noon)
	if w := quiet.Warnings(noon.AddDate(0, 0, 100)); len(w) != 1 || !strings.Contains(w[0], "is the canary looking?") {
		t.Errorf("after 100 quiet days: %q", w)
	}
	if w := quiet.Warnings(noon.AddDate(0, 0, 10)); len(w) != 0 {
		t.Errorf("after 10 quiet days: %q", w)
	}
	// A canary that was stopped a year ago, and nothing since: somebody looks.
	looked := postmortem.Count("shop", []routing.Route{
		{Generation: 1, At: noon.AddDate(-1, 0, 0), Splits: []routing.Split{{Version: "1", BasisPoints: 9500}, {Version: "2", BasisPoints: 500}}},
		{Generation: 2, At: noon.AddDate(-1, 0, 1), Splits: []routing.Split{{Version: "1", BasisPoints: routing.Full}}, Abandoned: []string{"2"}},
		{Generation: 3, At: noon, Splits: []routing.Split{{Version: "3", BasisPoints: routing.Full}}},
	}, nil, noon)
	if w := looked.Warnings(noon.AddDate(0, 0, 100)); len(w) != 0 || looked.Deploys != 1 || looked.CanaryCatches != 0 {
		t.Errorf("100 quiet days after a canary that was stopped long before: %q of %+v", w, looked)
	}
	loud := postmortem.Stats{Deploys: 10, Failed: 3, Rollbacks: 3, CanaryCatches: 1, ProductionCatches: 2}
	if w := strings.Join(loud.Warnings(noon), "; "); !strings.Contains(w, "3 of 10 deploys") || !strings.Contains(w, "start with less") {
		t.Errorf("loud: %q", w)
	}
}
