package postmortem_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
)

// recompute is the script that computes every figure of an exported record again, from its events alone.
const recompute = "../../docs/examples/recompute.py"

// canaried is a record of a version that had 5 % of the traffic for ten minutes and then all of it. One execution in `one` failed on it.
func canaried(t *testing.T, one int) (postmortem.Record, []postmortem.Entry) {
	t.Helper()
	split := func(canary uint32) []routing.Split {
		return []routing.Split{{Version: "2.0.0", BasisPoints: routing.Full - canary}, {Version: "2.1.0", BasisPoints: canary}}
	}
	at := func(minutes float64) time.Time { return noon.Add(time.Duration(minutes * float64(time.Minute))) }
	counts := func(started, failed, canary, canaryFailed uint64) []postmortem.Outcome {
		return []postmortem.Outcome{
			{Version: "2.0.0", Started: started, Succeeded: started - failed, Failed: failed},
			{Version: "2.1.0", Started: canary, Succeeded: canary - canaryFailed, Failed: canaryFailed},
		}
	}
	kind := routing.KindWeights
	steps := []postmortem.Step{
		{Generation: 2, At: at(0), By: "ada", Kind: kind, Splits: split(500)}, {Generation: 3, At: at(10), By: "ada", Kind: kind, Splits: split(routing.Full)},
		{Generation: 4, At: at(18), By: "bob", Kind: routing.KindRollback, Splits: split(0)},
	}
	const onCanary, all = 31, 620
	bad := uint64(500)
	e := postmortem.Evidence{
		Final: true, Totals: counts(2000, 40, onCanary+bad, (onCanary+bad)/uint64(one)),
		Steps: []postmortem.Exposed{
			{Step: steps[0], Until: at(10), Begin: counts(1000, 20, 0, 0), End: counts(1000+all-onCanary, 32, onCanary, onCanary/uint64(one))},
			{Step: steps[1], Until: at(18), Begin: counts(1000+all-onCanary, 32, onCanary, onCanary/uint64(one)), End: counts(1600, 33, onCanary+bad, (onCanary+bad)/uint64(one))},
			{Step: steps[2], Until: at(20), Begin: counts(1600, 33, onCanary+bad, (onCanary+bad)/uint64(one)), End: counts(2000, 40, onCanary+bad, (onCanary+bad)/uint64(one))},
		},
		Sources: []postmortem.Source{{Item: "counts and rates", From: "a test"}},
	}
	for i, v := range []string{"2.0.0", "2.1.0"} {
		s := postmortem.Series{Version: v}
		for m := range 20 {
			n, failed := uint64(20*m*(2-i)), uint64(m*m/(7-3*i))
			s.Points = append(s.Points, postmortem.Point{At: at(float64(m)), Started: n, Succeeded: n - failed, Failed: failed, InFlight: uint64(m % 7)})
		}
		e.Series = append(e.Series, s)
	}
	for i := range 9 {
		e.Failing = append(e.Failing, postmortem.Failing{
			ID: fmt.Sprintf("x%d", i), Version: []string{"2.0.0", "2.1.0"}[i%2], Started: at(float64(i)), Ended: at(float64(i) + 0.5), Generation: 2,
			Key: []string{"", "aa", "bb"}[i%3], Method: "POST", Path: "/refunds",
		})
	}
	e.First = []postmortem.Sample{{Failing: e.Failing[1], Reason: "over the limit", Status: 503}}
	e.Reasons = []postmortem.Reason{{Version: "2.1.0", Reason: "over the limit | of $100", Count: 4}}
	var record postmortem.Record
	var entries []postmortem.Entry
	head := postmortem.Origin()
	for i, fact := range []postmortem.Fact{
		postmortem.Opened{Specs: []string{"shop"}, Reason: "refuses", Rollbacks: []postmortem.Rollback{{
			Spec: "shop", Generation: 4, Command: "rollback", CommittedAt: at(18), Abandoned: []postmortem.Abandoned{{Version: "2.1.0", Digest: "sha256:21"}}, Target: "2.0.0",
			Digest: "sha256:20", Before: split(routing.Full), After: split(0), Timeline: steps, Outcomes: counts(1600, 33, onCanary+bad, (onCanary+bad)/uint64(one)),
			Plans: []postmortem.Plan{{Version: "2.1.0", Rule: "default", Disposition: drain.Complete, Executions: 3}},
		}}},
		postmortem.Gathered{Spec: "shop", Evidence: e},
		postmortem.Answered{Question: postmortem.Explanation, Text: "It lacked the path\n# beyond the limit."},
	} {
		event, err := postmortem.NewEvent("PM-1", at(18+float64(i)), "ada", fact)
		if err != nil {
			t.Fatal(err)
		}
		var entry postmortem.Entry
		if entry, head, err = head.Append(event); err != nil {
			t.Fatal(err)
		}
		if record, err = record.After(event); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry)
	}
	return record, entries
}

// written exports a record into a folder, and returns the prefix of its files.
func exported(t *testing.T, one int) string {
	t.Helper()
	record, entries := canaried(t, one)
	files, err := postmortem.Export(record, entries)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range files {
		name := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "PM-1")
}

func computed(t *testing.T, prefix string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "python3", recompute, prefix).CombinedOutput()
	return string(out), err
}

func TestScriptComputesEveryFigureOfARecordAgain(t *testing.T) {
	prefix := exported(t, 4)
	if out, err := computed(t, prefix); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for suffix, change := range map[string][2]string{
		".events.jsonl":            {`"reason":"refuses"`, `"reason":"reFuses"`},
		".json":                    {`"harmed": 1`, `"harmed": 9`},
		".md":                      {"the canary saw 31 executions", "the canary saw 77 executions"},
		".shop-2.1.0.evidence.svg": {"L2", "L3"},
	} {
		t.Run(suffix, func(t *testing.T) {
			raw, err := os.ReadFile(prefix + suffix)
			if err != nil {
				t.Fatal(err)
			}
			forged := bytes.ReplaceAll(raw, []byte(change[0]), []byte(change[1]))
			if bytes.Equal(forged, raw) {
				t.Fatalf("%q is not in it", change[0])
			}
			if err := os.WriteFile(prefix+suffix, forged, 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := computed(t, prefix); err == nil {
				t.Errorf("the script finds nothing wrong: %s", out)
			}
			if err := os.WriteFile(prefix+suffix, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestPublishedExampleIsWhatItsEventsSay holds for the record of the worked example as it stands in the repository.
func TestPublishedExampleIsWhatItsEventsSay(t *testing.T) {
	if out, err := computed(t, "../../docs/examples/PM-1"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestEightQuestions asks the published example what a review board would, of its Markdown alone.
func TestEightQuestions(t *testing.T) {
	raw, err := os.ReadFile("../../docs/examples/PM-1.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for question, answers := range map[string][]string{
		"1. What happened, when, and who did it?":                        {"rollback of customer-service", "**Opened:**", " by admin", "2.1.0=100 → 2.0.3=100", "**Reason given:**"},
		"2. How fast was it over, and how is that known?":                {"**Effective:**", "after the commit, by route and fence; proxies 2 of 2", "**Last new execution admitted"},
		"3. Who was hit, and how badly?":                                 {"### To whom", "executions under 2.1.0 that stated an outcome failed", "different keys", "`POST /refunds`", "over the limit of $100"},
		"4. What became of the work that ran, and what is to be undone?": {"handed over to 2.0.3", "cancelled with the retry signal", "irreversible", "specctl effects customer-service --on 2.1.0 -o csv", "--failed -o csv"},
		"5. What was wrong?":                                             {"refund.limit is 100, lowered from 500", "+  limit: 100", "Cause: **spec-error**"},
		"6. Why did the canary not catch it, and what would have?":       {"the canary saw", "chance** of stopping it", "would have given 80 %", "**What would have caught it:**"},
		"7. Why did conformance pass?":                                   {"| 2.1.0 | refund-policy |", "its cases stop at 99 dollars", "offered as cases"},
		"8. What changes now, who does it, by when, and what fixes it?":  {"| A1 | publish a conformance case beyond the limit", "policy team", "customer-service:2.2.0"},
	} {
		for _, a := range answers {
			if !strings.Contains(text, a) {
				t.Errorf("%s: the record does not say %q", question, a)
			}
		}
	}
}

func TestOtherTrafficGivesOtherFigures(t *testing.T) {
	figures := map[int]postmortem.Analysis{}
	for _, one := range []int{2, 4, 20} {
		record, _ := canaried(t, one)
		figures[one] = postmortem.Derive(record)[0].Analysis
	}
	if a := figures[4]; a.Canary.Executions != 31 || a.Canary.All != 620 || a.Canary.Seconds != 600 || a.Canary.Chance <= 0 || a.Canary.Chance >= 1 {
		t.Errorf("the canary saw %+v", a.Canary)
	}
	if figures[2].Canary.Chance <= figures[4].Canary.Chance || figures[4].Canary.Chance <= figures[20].Canary.Chance {
		t.Errorf("chances %v, %v, %v do not fall with the failure rate", figures[2].Canary.Chance, figures[4].Canary.Chance, figures[20].Canary.Chance)
	}
	if figures[2].Same.Executions >= figures[4].Same.Executions || figures[4].Best == nil || figures[4].Best.Within < 0.8 {
		t.Errorf("needs %+v and %+v, best %+v", figures[2].Same, figures[4].Same, figures[4].Best)
	}
}

func TestTouchingNamesWhatIsAboutTheChange(t *testing.T) {
	changed := map[string]bool{"refund": true, "limit": true}
	got := postmortem.Touching([]string{"a refund is paid", "a refund over the limit waits", "a refund twice"}, changed)
	if len(got) != 1 || got[0] != "a refund over the limit waits" {
		t.Errorf("touching: %q", got)
	}
}
