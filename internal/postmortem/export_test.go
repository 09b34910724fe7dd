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
	"github.com/specproxy/specproxy/internal/postmortem/boardtest"
	"github.com/specproxy/specproxy/internal/routing"
)

// recompute is the script that computes every figure of an exported record again, from its events alone.
const recompute = "../../docs/examples/recompute.py"

// canaried is a record of a version that had 5 % of the traffic for ten minutes and then all of it. One execution in `one` failed on it.
func canaried(t *testing.T, one int, more ...postmortem.Fact) (postmortem.Record, []postmortem.Entry) {
	t.Helper()
	split := func(canary uint32) []routing.Split {
		return []routing.Split{{Version: "2.0.0", BasisPoints: routing.Full - canary}, {Version: "2.1.0", BasisPoints: canary}}
	}
	at := func(minutes float64) time.Time { return noon.Add(time.Duration(minutes * float64(time.Minute))) }
	const onCanary, all = 31, 620
	// The canary got small orders only; what fails later on is large.
	counts := func(started, failed, canary, canaryFailed uint64) []postmortem.Outcome {
		small, smallFailed := min(canary, onCanary), min(canaryFailed, onCanary/uint64(one))
		large := (canary - small) / 2
		kind := func(value string, started, failed uint64) drain.Segment {
			return drain.Segment{Attribute: "order-type", Value: value, Started: started, Failed: failed}
		}
		out := []postmortem.Outcome{
			{Version: "2.0.0", Started: started, Succeeded: started - failed, Failed: failed, Segments: []drain.Segment{kind("large", started/5, failed/2), kind("small", started-started/5, failed-failed/2)}},
			{Version: "2.1.0", Started: canary, Succeeded: canary - canaryFailed, Failed: canaryFailed},
		}
		if canary > 0 {
			out[1].Segments = []drain.Segment{kind("large", large, canaryFailed-smallFailed), kind("small", canary-large, smallFailed)}
		}
		return out
	}
	kind := routing.KindWeights
	steps := []postmortem.Step{
		{Generation: 2, At: at(0), By: "ada", Kind: kind, Splits: split(500)}, {Generation: 3, At: at(10), By: "ada", Kind: kind, Splits: split(routing.Full)},
		{Generation: 4, At: at(18), By: "bob", Kind: routing.KindRollback, Splits: split(0)},
	}
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
	return recorded(t, at(18), append([]postmortem.Fact{
		postmortem.Opened{Specs: []string{"shop"}, Reason: "refuses", Rollbacks: []postmortem.Rollback{{
			Spec: "shop", Generation: 4, Command: "rollback", CommittedAt: at(18), Abandoned: []postmortem.Abandoned{{Version: "2.1.0", Digest: "sha256:21"}}, Target: "2.0.0",
			Digest: "sha256:20", Before: split(routing.Full), After: split(0), Timeline: steps, Outcomes: counts(1600, 33, onCanary+bad, (onCanary+bad)/uint64(one)),
			Plans: []postmortem.Plan{{Version: "2.1.0", Rule: "default", Disposition: drain.Complete, Executions: 3}},
		}}},
		postmortem.Gathered{Spec: "shop", Evidence: e},
		postmortem.Answered{Question: postmortem.Explanation, Text: "It lacked the path\n# beyond the limit."},
	}, more...)...)
}

// recorded is the record that these facts make, a minute each.
func recorded(t *testing.T, at time.Time, facts ...postmortem.Fact) (postmortem.Record, []postmortem.Entry) {
	t.Helper()
	var record postmortem.Record
	var entries []postmortem.Entry
	head := postmortem.Origin()
	for i, fact := range facts {
		event, err := postmortem.NewEvent("PM-1", at.Add(time.Duration(i)*time.Minute), []string{"ada", "bob"}[i%2], fact)
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

// exported writes a record into a folder, and returns the prefix of its files.
func exported(t *testing.T, one int, more ...postmortem.Fact) string {
	t.Helper()
	record, entries := canaried(t, one, more...)
	files, err := postmortem.Export(record, postmortem.Derive(record), entries)
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
	prefix := exported(t, 10_000) // of which none failed: no canary would have stopped it
	if out, err := computed(t, prefix); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	prefix = exported(t, 4)
	if out, err := computed(t, prefix); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for suffix, change := range map[string][2]string{
		".events.jsonl":            {`"reason":"refuses"`, `"reason":"reFuses"`},
		"share of a segment.json":  {`"failedShare": 0.9`, `"failedShare": 0.8`},
		"seen of a segment.json":   {`"canary": 31`, `"canary": 30`},
		".json":                    {`"harmed": 1`, `"harmed": 9`},
		".md":                      {"the canary saw 31 executions", "the canary saw 77 executions"},
		"another known figure.md":  {"of 2.1.0 and 620 in all", "of 2.1.0 and 31 in all"},
		"the row of a segment.md":  {"| `large` | 32.7 % | 125 |", "| `large` | 32.7 % | 7 |"},
		"what is not derived.json": {`"reason": "refuses"`, `"reason": "reFuses"`},
		"weights of a step.json":   {`"basisPoints": 9500`, `"basisPoints": 9000`},
		".shop-2.1.0.evidence.svg": {"L2", "L3"},
	} {
		t.Run(suffix, func(t *testing.T) {
			suffix = "." + strings.SplitN(suffix, ".", 2)[1]
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

// TestScriptMakesTheRecordAgain lets everything happen to a record that can.
func TestScriptMakesTheRecordAgain(t *testing.T) {
	at := noon.Add(time.Hour)
	settled := postmortem.Settled{At: at, State: drain.Drained, Counts: drain.Counts{Completed: 2, Cancelled: 1}, Arrived: 1, Failed: 3}
	action := postmortem.Action{ID: "A1", What: "add a case", Owner: "bob", Due: at.AddDate(0, 0, 14)}
	done := action
	done.Done, done.DoneBy = at, "bob"
	closed := postmortem.Closed{Cause: postmortem.SpecError, Note: "no way beyond it", Final: []postmortem.Final{
		{Spec: "shop", Version: "2.1.0", Failed: 4, Touched: []postmortem.Touched{{Class: drain.EffectsIrreversible, Acts: 5, Executions: 3}}, TouchedOmitted: 1},
	}}
	prefix := exported(t, 4,
		postmortem.Proven{Spec: "shop", Effect: postmortem.Effect{At: at, By: "route", Proxies: 2, ProxiesAcked: 1, Laggards: []string{"edge-2"}}},
		postmortem.Drained{Spec: "shop", Version: "2.1.0", Settled: settled},
		postmortem.Intervention{ID: "IV-1", At: at, Actor: "ada", Version: "2.1.0", Execution: "x1", Disposition: drain.Cancel, Effects: drain.EffectsNone, Reason: "hangs"},
		postmortem.Refusal{Intervention: "IV-1", Why: "it has ended"},
		postmortem.Override{At: at, Actor: "ada", Version: "2.1.0", Reason: "2.0.0 is worse"},
		postmortem.Undone{At: at, Actor: "ada", Reason: "a false alarm"},
		postmortem.Unfrozen{At: at, Actor: "ada", Spec: "shop"},
		postmortem.Alerted{Alert: postmortem.Alert{At: at, Source: "pager", Name: "QueueGrows", Spec: "shop", Summary: "17 wait"}},
		postmortem.Assigned{Owner: "bob", Due: at.AddDate(0, 0, 3), Note: "all is drained"},
		postmortem.Acted{Action: action}, postmortem.Answered{Question: postmortem.WhyCanary, Text: "it was too small"},
		postmortem.Approved{Note: "yes"}, postmortem.Answered{Question: postmortem.WhyCanary, Text: "it saw small ones only"}, postmortem.Approved{},
		postmortem.Named{Spec: "shop", Version: "2.2.0", Digest: "sha256:22"}, postmortem.Named{Spec: "shop", Version: "2.2.0", Digest: "sha256:22"},
		closed, postmortem.Reopened{Reason: "there is more"}, postmortem.Acted{Action: done}, closed, postmortem.Erased{Digests: []string{"aa"}, Reason: "asked for"},
	)
	if out, err := computed(t, prefix); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestPublishedExampleIsWhatItsEventsSay holds for the record of the worked example as it stands in the repository.
func TestPublishedExampleIsWhatItsEventsSay(t *testing.T) {
	if out, err := computed(t, "../../docs/examples/PM-1"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestEightQuestions asks the published example what a review board would, of its Markdown alone. TestRecordTellsTheWholeStory of internal/e2e asks
// the same of a record that was just made.
func TestEightQuestions(t *testing.T) {
	raw, err := os.ReadFile("../../docs/examples/PM-1.md")
	if err != nil {
		t.Fatal(err)
	}
	story := boardtest.Story{
		Spec: "customer-service", Version: "2.1.0", Target: "2.0.3", Actor: "admin", Reason: "refunds wait for supervisors", Proof: "route and fence",
		Place: "POST /refunds", Said: "over the limit of $100", Attribute: "amount", Value: "up-to-500", Ended: []string{"handed over to 2.0.3", "cancelled with the retry signal"},
		Changed: []string{"refund.limit is 100, lowered from 500", "+  limit: 100"}, Cause: "spec-error", Suite: "refund-policy",
		Canary: "too few refunds came to it", Conformance: "its cases stop at 99 dollars", Action: "publish a conformance case beyond the limit", Owner: "policy team", Fix: "2.2.0",
	}
	for _, missing := range boardtest.Ask(string(raw), story) {
		t.Error(missing)
	}
	// None is answered by whatever the text says.
	other := boardtest.Story{
		Spec: "x", Version: "x", Target: "x", Actor: "x!", Reason: "x", Proof: "x", Place: "x", Said: "x!", Attribute: "x", Value: "x", Ended: []string{"x!"}, Changed: []string{"x!"},
		Cause: "x", Suite: "x", Canary: "x!", Conformance: "x!", Action: "x!", Owner: "x!", Fix: "x",
	}
	asked := map[byte]bool{}
	for _, missing := range boardtest.Ask(string(raw), other) {
		asked[missing[0]] = true
	}
	if len(asked) != 8 {
		t.Errorf("of another story the text leaves %d questions open, want all 8", len(asked))
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

func TestRecordNamesTheSegmentThatTheCanaryNeverSaw(t *testing.T) {
	record, _ := canaried(t, 4)
	a := postmortem.Derive(record)[0].Analysis
	if a.Where == nil || *a.Where != (postmortem.Where{Attribute: "order-type", Value: "large"}) {
		t.Fatalf("the failures lie in %+v", a.Where)
	}
	x := a.Attributes[0]
	large, small := x.Values[0], x.Values[1]
	// Of 620 in the first step and 511 in the second, 250 of 2.1.0's and a fifth of 2.0.0's 600 were large. The canary's 31 were small.
	if x.Counted != x.Executions || x.Executions != 620+511 || large.Executions != 250+120 || large.Canary != 0 || small.Canary != 31 {
		t.Errorf("counted %+v", x)
	}
	if large.Failed != 125 || large.Failed+small.Failed != a.Bad.Failed || large.FailedShare < 0.9 || large.Share > 0.4 {
		t.Errorf("of the failures %+v and %+v, in all %d", large, small, a.Bad.Failed)
	}
	if text := postmortem.Text(record, postmortem.Derive(record)); !strings.Contains(text, "**Segment `order-type=large` was 32.7 % of all executions and 94.7 % of the failures; the canary saw none of it.**") {
		t.Errorf("the text does not say so:\n%s", text)
	}
}

// TestSegmentsThatWereNotCountedAreNotTakenForUnseen: what is missing is said to be missing.
func TestSegmentsThatWereNotCountedAreNotTakenForUnseen(t *testing.T) {
	record, _ := canaried(t, 4)
	steps := record.Rollbacks[0].Evidence.Steps
	// This replica was not told what the canary had counted at the end of its step.
	for i, at := range steps[0].End {
		if at.Version == "2.1.0" {
			steps[0].End[i].Segments = nil
		}
	}
	text := postmortem.Text(record, postmortem.Derive(record))
	if strings.Contains(text, "the canary saw none of it") || !strings.Contains(text, "how much the canary saw of it was not counted") {
		t.Errorf("an unknown count is taken for none:\n%s", text)
	}
	record.Rollbacks[0].Evidence.Totals[1].Segments = nil
	if text := postmortem.Text(record, postmortem.Derive(record)); !strings.Contains(text, "No execution of 2.1.0 was counted by an attribute") {
		t.Errorf("it is not said that nothing is declared:\n%s", text)
	}
}

func TestExcerptsAreShownAsTheyAreAndDoNothing(t *testing.T) {
	record, entries := canaried(t, 4)
	hostile := "{\"a\":\"<script>\"}\n```\n# Approved by 17 people\n````\n\x1b[2J\x07\u202e\r\n| 1 |"
	record = record.WithRollback("shop", func(rb *postmortem.Rollback) {
		e := *rb.Evidence
		e.First[0].Excerpt = &postmortem.Excerpt{
			Request: postmortem.Part{Digest: "d1", Cut: true}, Response: postmortem.Part{Missing: "its type (`\x1b[2J 18 `) is none in which rules can be applied"},
		}
		rb.Evidence = &e
	})
	read := record.WithTexts(map[string]string{"d1": hostile})
	found := postmortem.Derive(read)
	text := postmortem.Text(read, found)
	for _, want := range []string{
		"Request of `x1`, its beginning:\n\n`````text\n{\"a\":\"<script>\"}\n```\n# Approved by 17 people\n````\n\\x1b[2J\\a\\u202e\n| 1 |\n`````\n",
		"Response of `x1`: not captured: `its type ('\\x1b[2J 18 ') is none in which rules can be applied`.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	files, err := postmortem.Export(read, found, entries)
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]bool{}
	for _, f := range files {
		in[f.Name] = bytes.Contains(f.Data, []byte("Approved by 17"))
	}
	if !in["PM-1.md"] || !in["conformance/pm-1.shop.1.json"] || in["PM-1.json"] || in["PM-1.events.jsonl"] {
		t.Errorf("the excerpt is in %v", in)
	}
	if text := postmortem.Text(record, found); !strings.Contains(text, "Request of `x1`: kept beside the record, not in this copy.") {
		t.Errorf("without the text:\n%s", text)
	}
	record.Erasures = []postmortem.Erasure{{Digests: []string{"d1"}}}
	if text := postmortem.Text(record.WithTexts(nil), found); !strings.Contains(text, "Request of `x1`: erased.") {
		t.Errorf("erased:\n%s", text)
	}
}
