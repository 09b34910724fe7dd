package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// missed are the bars that a story misses.
func missed(t *testing.T, l *logs, f refund.Facts) ([]string, measurement) {
	t.Helper()
	cases, err := join(l.attempts, l.ledger, l.journal)
	if err != nil {
		t.Fatal(err)
	}
	m := measure(cases, f)
	var names []string
	for _, b := range judge(m, f) {
		if !b.ok {
			names = append(names, b.name)
		}
	}
	return names, m
}

func TestHealthyStoryHolds(t *testing.T) {
	f := storyFacts()
	names, m := missed(t, healthy(), f)
	if len(names) > 0 {
		t.Errorf("missed %v", names)
	}
	want := result{
		EffectiveMS: 100, Proxies: 2, SuccessBefore: 0.98, SuccessAfter: 0.98,
		// 560 + 10 completed of 560 + 16 + 204 + 10 + 10 parked; the ten handed over before a verdict are out.
		SuccessBad: 0.7125, FailedUnder: 230,
		RetriedOK: 204, Completed: 10, HandedOver: 21, Cancelled: 204, PostMortem: "PM-1", Seed: 7,
	}
	if diff := cmp.Diff(want, m.result(f)); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if m.unjudged != 10 {
		t.Errorf("%d unjudged, want 10", m.unjudged)
	}
}

// Each story is the healthy one with one thing wrong, and must miss exactly the bars named.
func TestStoriesThatMustFail(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(*logs, *refund.Facts)
		want string
	}{
		{"paid twice", func(l *logs, _ *refund.Facts) {
			l.pay(l.cancelled(15), 40)
		}, "paid_twice"},
		{"never paid", func(l *logs, _ *refund.Facts) {
			id := l.paid(33, 33.5, good)
			l.ledger = slices.DeleteFunc(l.ledger, func(x refund.LedgerLine) bool { return x.RefundID == id })
		}, "lost"},
		{"no answer", func(l *logs, _ *refund.Facts) {
			l.attempt(l.next(), 1, 33, 43, 0, "", "").Error = "timeout"
		}, "lost"},
		{"paid and not told", func(l *logs, _ *refund.Facts) {
			id := l.next()
			l.pay(id, 33.2)
			l.attempt(id, 1, 33, 33.4, 502, good, "")
		}, "lost"},
		{"paid another amount", func(l *logs, _ *refund.Facts) {
			id := l.paid(33, 33.5, good)
			l.ledger[len(l.ledger)-1].AmountCents = 1
			_ = id
		}, "lost"},
		{"retry without the signal", func(l *logs, _ *refund.Facts) {
			id := l.next()
			l.attempt(id, 1, 33, 33.1, 503, good, "")
			l.attempt(id, 2, 33.2, 33.7, 200, good, `{"decision":"paid"}`)
			l.pay(id, 33.6)
		}, "lost"},
		{"retry on half a signal", func(l *logs, _ *refund.Facts) {
			id := l.next()
			l.attempt(id, 1, 33, 33.1, 503, good, "").Signal = true
			l.attempt(id, 2, 33.2, 33.7, 200, good, `{"decision":"paid"}`)
			l.pay(id, 33.6)
		}, "lost"},
		{"retry too early", func(l *logs, _ *refund.Facts) {
			l.cancelled(15)
			l.attempts[len(l.attempts)-1].SentAt = second(effectSecond + 0.5)
		}, "lost"},
		{"cancelled and never came back", func(l *logs, _ *refund.Facts) {
			l.cancelled(15)
			l.attempts = l.attempts[:len(l.attempts)-1]
			l.ledger = l.ledger[:len(l.ledger)-1]
		}, "lost"},
		{"refused for an account that is open", func(l *logs, _ *refund.Facts) {
			id := l.closed(33, good)
			l.ledger = slices.DeleteFunc(l.ledger, func(x refund.LedgerLine) bool { return x.RefundID == id })
		}, "lost"},
		{"bad from the start", func(l *logs, _ *refund.Facts) {
			for range 5 {
				l.closed(5, good)
			}
		}, "success_before"},
		{"not cured", func(l *logs, _ *refund.Facts) {
			for range 5 {
				l.closed(40, good)
			}
		}, "success_after"},
		{"the bad version works", func(l *logs, _ *refund.Facts) {
			for range 500 {
				l.paid(20, 20.5, bad)
			}
		}, "success_bad"},
		{"nothing was completed", func(l *logs, _ *refund.Facts) {
			for i := range l.attempts {
				if a := &l.attempts[i]; a.Version == bad && !a.Signal && a.AnsweredAt.After(second(effectSecond)) {
					a.AnsweredAt = second(effectSecond)
				}
			}
		}, "completed"},
		{"no evidence that the bad agent had begun", func(l *logs, f *refund.Facts) {
			l.journal = slices.DeleteFunc(l.journal, func(j refund.JournalLine) bool { return j.Version == f.Abandoned && j.Step == refund.Began })
		}, "handed_over"},
		{"no record was opened", func(_ *logs, f *refund.Facts) { f.PostMortem = "" }, "postmortem"},
		{"no proxy was counted", func(_ *logs, f *refund.Facts) { f.Proxies = 0 }, "proxies"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, f := healthy(), storyFacts()
			c.harm(l, &f)
			names, m := missed(t, l, f)
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("missed %q, want %q; lost: %v", got, c.want, m.lost)
			}
		})
	}
}

func TestAnotherLimitFollowsItsPrediction(t *testing.T) {
	l, f := healthy(), storyFacts()
	for range 500 {
		l.paid(20, 20.5, bad)
	}
	f.Limit, f.Predicted = 250, 0.8272
	if names, m := missed(t, l, f); len(names) > 0 {
		t.Errorf("missed %v with %.3f measured against %.3f predicted", names, m.bad.share(), f.Predicted)
	}
	f.Predicted = 0.9
	if names, _ := missed(t, l, f); !slices.Equal(names, []string{"success_bad"}) {
		t.Errorf("missed %v, want success_bad alone", names)
	}
}

func TestJoinRefusesHalfARun(t *testing.T) {
	for name, harm := range map[string]func(*logs){
		"empty":           func(l *logs) { l.attempts = nil },
		"strange payment": func(l *logs) { l.pay("rf-9999", 1) },
		"strange step":    func(l *logs) { l.step("rf-9999", 1, bad, refund.Began) },
		"beyond policy":   func(l *logs) { l.attempts[0].AmountCents = refund.TrueLimitCents + 1 },
	} {
		l := healthy()
		harm(l)
		if _, err := join(l.attempts, l.ledger, l.journal); err == nil {
			t.Errorf("%s: joined", name)
		}
	}
}

// write puts a story where run reads it.
func write(t *testing.T, l *logs) options {
	t.Helper()
	dir := t.TempDir()
	o := options{
		client: filepath.Join(dir, "client.jsonl"), ledger: filepath.Join(dir, "ledger.jsonl"), journals: filepath.Join(dir, "agents"),
		facts: filepath.Join(dir, "facts.json"), out: filepath.Join(dir, "demo.json"), plot: filepath.Join(dir, "demo.svg"),
	}
	if err := os.Mkdir(o.journals, 0o755); err != nil {
		t.Fatal(err)
	}
	writeLog(t, o.client, l.attempts)
	writeLog(t, o.ledger, l.ledger)
	writeLog(t, filepath.Join(o.journals, "agent-1.jsonl"), l.journal)
	if err := storyFacts().Write(o.facts); err != nil {
		t.Fatal(err)
	}
	return o
}

func writeLog[T any](t *testing.T, path string, rows []T) {
	t.Helper()
	log, err := refund.OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for _, r := range rows {
		if err := log.Append(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRunWritesWhatItJudged(t *testing.T) {
	l := healthy()
	o := write(t, l)
	var report bytes.Buffer
	if err := run(o, &report); err != nil {
		t.Fatalf("%v\n%s", err, report.String())
	}
	text, err := os.ReadFile(o.out)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"effective_ms", "proxies", "success_before", "success_bad", "success_after", "failed_under_bad", "retried_ok", "lost",
		"paid_twice", "completed", "handed_over", "cancelled", "postmortem", "seed",
	} {
		if _, ok := fields[key]; !ok {
			t.Errorf("%s lacks %q", text, key)
		}
	}
	if len(fields) != 14 {
		t.Errorf("%d fields, want 14: %s", len(fields), text)
	}
	checkPlot(t, o.plot)
}

func checkPlot(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	decoder := xml.NewDecoder(bytes.NewReader(text))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the plot is not XML: %v", err)
		}
	}
	for _, want := range []string{good, bad, "rollback", "14:00", "14:25", "polyline"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the plot lacks %q", want)
		}
	}
	if strings.Contains(string(text), "NaN") {
		t.Error("the plot has a coordinate that is not a number")
	}
}

func TestRunFailsAndStillWrites(t *testing.T) {
	l := healthy()
	l.pay(l.paid(33, 33.5, good), 33.6)
	o := write(t, l)
	err := run(o, io.Discard)
	if !errors.Is(err, errHeldNot) || !strings.Contains(err.Error(), "paid_twice") {
		t.Errorf("error %v, want one that names paid_twice", err)
	}
	var r result
	text, err := os.ReadFile(o.out)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &r); err != nil || r.PaidTwice != 1 {
		t.Errorf("result %s: paid_twice is %d, want 1 (%v)", text, r.PaidTwice, err)
	}
}
