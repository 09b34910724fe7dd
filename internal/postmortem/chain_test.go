package postmortem_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/postmortem"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// written appends one event for each reason, alternately of two records.
func written(t testing.TB, reasons []string) ([]postmortem.Entry, postmortem.Head) {
	t.Helper()
	head := postmortem.Origin()
	var entries []postmortem.Entry
	for i, reason := range reasons {
		id := fmt.Sprintf("PM-%d", 1+i%2)
		var fact postmortem.Fact = postmortem.Alerted{Alert: postmortem.Alert{Name: reason}}
		if i < 2 {
			fact = postmortem.Opened{Specs: []string{"shop"}, Reason: reason}
		}
		event, err := postmortem.NewEvent(id, noon.Add(time.Duration(i)*time.Second), "ada", fact)
		if err != nil {
			t.Fatal(err)
		}
		var entry postmortem.Entry
		if entry, head, err = head.Append(event); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry)
	}
	return entries, head
}

func TestWholeChainVerifies(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		reasons := rapid.SliceOfN(rapid.String(), 0, 20).Draw(rt, "reasons")
		entries, head := written(t, reasons)
		// As it comes back from wherever it was kept, indented or not.
		for _, indent := range []string{"", "  "} {
			raw, err := json.MarshalIndent(entries, "", indent)
			if err != nil {
				rt.Fatal(err)
			}
			var again []postmortem.Entry
			if err := json.Unmarshal(raw, &again); err != nil {
				rt.Fatal(err)
			}
			got, err := postmortem.Verify(postmortem.Head{}, again)
			if err != nil || got != head {
				rt.Fatalf("chain of %d ends at %v (%v), want %v", len(entries), got, err, head)
			}
			if err := postmortem.Witnessed(head, again); err != nil && len(again) > 0 {
				rt.Fatal(err)
			}
		}
	})
}

func TestEveryDamageIsFound(t *testing.T) {
	entries, _ := written(t, []string{"a", "b", "c", "d", "e"})
	for name, damage := range map[string]func(e []postmortem.Entry) []postmortem.Entry{
		"event 3 (PM-1, alert) was altered": func(e []postmortem.Entry) []postmortem.Entry {
			e[2].Event = bytes.Replace(e[2].Event, []byte(`"c"`), []byte(`"x"`), 1)
			return e
		},
		"events are missing or out of order": func(e []postmortem.Entry) []postmortem.Entry { return slices.Delete(e, 1, 2) },
		"event 5 (PM-1, alert) follows event 3": func(e []postmortem.Entry) []postmortem.Entry {
			e[3], e[4] = e[4], e[3]
			return e
		},
		"event 2 (PM-2, opened) does not follow": func(e []postmortem.Entry) []postmortem.Entry {
			e[1].Link = e[2].Link
			return e
		},
	} {
		if _, err := postmortem.Verify(postmortem.Origin(), damage(slices.Clone(entries))); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("damage %q is reported as %v", name, err)
		}
	}
}

// TestRehashedChainIsFound alters an event in the middle and makes everything after it anew: only a head that was kept elsewhere tells.
func TestRehashedChainIsFound(t *testing.T) {
	entries, published := written(t, []string{"a", "b", "c", "d", "e"})
	forged := slices.Clone(entries[:2])
	head, err := postmortem.Verify(postmortem.Origin(), forged)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries[2:] {
		event, err := e.Decode()
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			event.Fact = json.RawMessage(bytes.Replace(event.Fact, []byte(`"c"`), []byte(`"nothing to see"`), 1))
		}
		var again postmortem.Entry
		if again, head, err = head.Append(event); err != nil {
			t.Fatal(err)
		}
		forged = append(forged, again)
	}
	if _, err := postmortem.Verify(postmortem.Origin(), forged); err != nil {
		t.Fatalf("a chain that was made anew is whole in itself: %v", err)
	}
	if err := postmortem.Witnessed(published, forged); err == nil || !strings.Contains(err.Error(), "the chain was rewritten: at event 5") {
		t.Errorf("rewritten behind the published head: %v", err)
	}
	if err := postmortem.Witnessed(published, forged[:3]); err == nil || !strings.Contains(err.Error(), "the chain was cut") {
		t.Errorf("cut before the published head: %v", err)
	}
	if err := postmortem.Witnessed(published, entries); err != nil {
		t.Error(err)
	}
}

func TestRecordIsWhatItsEventsSay(t *testing.T) {
	head := postmortem.Origin()
	var entries []postmortem.Entry
	var record postmortem.Record
	say := func(actor string, fact postmortem.Fact) {
		t.Helper()
		event, err := postmortem.NewEvent("PM-1", noon, actor, fact)
		if err != nil {
			t.Fatal(err)
		}
		entry, next, err := head.Append(event)
		if err != nil {
			t.Fatal(err)
		}
		event.Seq = next.Seq
		if record, err = record.After(event); err != nil {
			t.Fatal(err)
		}
		head, entries = next, append(entries, entry)
	}
	say("ada", postmortem.Opened{Specs: []string{"shop"}, Reason: "refuses", Approval: true, Rollbacks: []postmortem.Rollback{
		{Spec: "shop", Abandoned: []postmortem.Abandoned{{Version: "2.1.0"}}, Target: "2.0.0"},
	}})
	say(postmortem.System, postmortem.Proven{Spec: "shop", Effect: postmortem.Effect{By: "route"}})
	say(postmortem.System, postmortem.Drained{Spec: "shop", Version: "2.1.0", Settled: postmortem.Settled{Arrived: 4}})
	say(postmortem.System, postmortem.Gathered{Spec: "shop"})
	say("ada", postmortem.Answered{Question: postmortem.WhyCanary, Text: "there was none"})
	say("bob", postmortem.Approved{})
	if len(record.Approvals) != 1 {
		t.Errorf("approvals %+v", record.Approvals)
	}
	say("ada", postmortem.Answered{Question: postmortem.Explanation, Text: "the limit had no way beyond it"})
	say("ada", postmortem.Answered{Question: postmortem.WhyCanary, Text: "it saw 12 executions"})
	if len(record.Approvals) != 0 {
		t.Error("an approval outlives a changed answer")
	}
	if got := record.Unanswered(postmortem.SpecError); !slices.Equal(got, []postmortem.Question{postmortem.WhyConformance, postmortem.FixedIn, postmortem.NoAction}) {
		t.Errorf("unanswered: %v", got)
	}
	say("ada", postmortem.Acted{Action: postmortem.Action{ID: record.NextAction(), What: "add a case", Owner: "bob", Due: noon}})
	say("bob", postmortem.Acted{Action: postmortem.Action{ID: "A1", What: "add a case", Owner: "bob", Due: noon, Done: noon, DoneBy: "bob"}})
	say("ada", postmortem.Named{Spec: "shop", Version: "2.2.0", Digest: "sha256:22"})
	if got := record.Unanswered(postmortem.SpecError); !slices.Equal(got, []postmortem.Question{postmortem.WhyConformance}) {
		t.Errorf("unanswered: %v", got)
	}
	say("ada", postmortem.Closed{Cause: postmortem.SpecError, Note: "done", Final: []postmortem.Final{{Spec: "shop", Version: "2.1.0", Failed: 7}}})
	if record.Rollbacks[0].Abandoned[0].Settled.Failed != 7 || record.Open() {
		t.Errorf("closed as %+v", record)
	}
	say("bob", postmortem.Reopened{Reason: "there is more"})
	if !record.Open() || record.Reopenings[0].Was.Cause != postmortem.SpecError {
		t.Errorf("reopened as %+v", record)
	}
	raw, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	var kept []postmortem.Entry
	if err := json.Unmarshal(raw, &kept); err != nil {
		t.Fatal(err)
	}
	again, err := postmortem.Replay(kept)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := json.Marshal(record)
	if got, _ := json.Marshal(again); !bytes.Equal(got, want) {
		t.Errorf("replayed as\n%s\nwant\n%s", got, want)
	}
	// What cannot have happened is refused.
	for _, fact := range []postmortem.Fact{postmortem.Reopened{}, postmortem.Proven{Spec: "other"}, postmortem.Opened{}} {
		event, _ := postmortem.NewEvent("PM-1", noon, "eve", fact)
		if _, err := again.After(event); err == nil {
			t.Errorf("%T was taken", fact)
		}
	}
}
