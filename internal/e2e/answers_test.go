package e2e

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// as runs specctl as somebody else.
func (w *world) as(who string, code int, want []string, args ...string) string {
	w.t.Helper()
	was := w.actor
	w.actor = who
	defer func() { w.actor = was }()
	return w.ctl(code, want, args...)
}

func TestRecordClosesOnlyWhenEveryQuestionIsAnswered(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	w.rollback("shop")
	pm := func(code int, want []string, args ...string) {
		w.ctl(code, want, append([]string{"postmortem"}, args...)...)
	}
	pm(0, []string{"PM-1", "open", "shop 2.1.0 -> 2.0.0"}, "list")
	pm(1, []string{"PM-1 has questions that nobody has answered", "Why did the canary not catch it?", "Why did conformance pass?", "in which version?",
		"What is to be done, by whom and when?", "specctl postmortem answer PM-1 --canary"}, "close", "PM-1", "--cause", "spec-error", "--note", "no way beyond the limit")
	pm(0, []string{"still asked", "--canary", "--fixed-in"}, "answer", "PM-1", "--explanation", "no way beyond the limit", "--conformance", "no case above it")
	pm(1, []string{"Why did the canary"}, "close", "PM-1", "--cause", "spec-error", "--note", "x")
	pm(0, nil, "answer", "PM-1", "--canary", "there was none")
	pm(1, []string{"cannot be due in the past"}, "assign", "PM-1", "--what", "add a case", "--owner", "bob", "--due", "2020-01-01")
	pm(1, []string{"PM-1 cannot be due in the past (2020-01-01)"}, "assign", "PM-1", "--owner", "bob", "--due", "2020-01-01")
	pm(2, []string{"neither a date"}, "assign", "PM-1", "--what", "add a case", "--owner", "bob", "--due", "soon")
	pm(1, []string{"who does it, and by when"}, "assign", "PM-1", "--what", "add a case", "--owner", "bob")
	pm(0, []string{"A1 for bob"}, "assign", "PM-1", "--what", "add a case", "--owner", "bob", "--due", "14d")
	pm(0, []string{"carol looks after it"}, "assign", "PM-1", "--owner", "carol", "--due", "3d")
	// A fault outside the version needs no fixing version; one within does.
	pm(1, []string{"in which version?"}, "close", "PM-1", "--cause", "spec-error", "--note", "x")
	w.publish("shop", "2.2.0", completeContract, "fixes: PM-1")
	pm(0, []string{"every question is answered"}, "answer", "PM-1")
	w.ctl(0, []string{`left: PM-1 is answered and waits to be closed: specctl postmortem close PM-1 --cause CAUSE --note "…"`}, "handover", "shop", "--dry-run")
	text := w.ctl(0, nil, "postmortem", "show", "PM-1")
	contains(t, text, "there was none", "no case above it", "add a case", "bob", "carol", "shop:2.2.0")
	contains(t, w.ctl(0, nil, "show", "shop:2.2.0"), "PM-1")
	pm(0, []string{"PM-1 closed"}, "close", "PM-1", "--cause", "spec-error", "--note", "x")
	pm(1, []string{"PM-1 was closed", "specctl postmortem reopen PM-1"}, "answer", "PM-1", "--canary", "too late")
	pm(0, []string{"A1 is done"}, "assign", "PM-1", "--done", "A1")

	pm(2, []string{"--reason is missing"}, "reopen", "PM-1")
	pm(0, []string{"PM-1 is open"}, "reopen", "PM-1", "--reason", "there is more")
	if v := w.version("shop:2.1.0"); v.GetStanding() != "quarantined" || v.GetPostmortem() != "PM-1" {
		t.Errorf("2.1.0 is %s by %s after the reopening", v.GetStanding(), v.GetPostmortem())
	}
	w.ctl(1, []string{"quarantined by PM-1"}, "deploy", "shop:2.1.0")
	pm(0, []string{"PM-1 closed"}, "close", "PM-1", "--cause", "environment", "--note", "the ledger was down")
	if v := w.version("shop:2.1.0"); v.GetStanding() != "candidate" {
		t.Errorf("2.1.0 is %s", v.GetStanding())
	}
}

func TestSecondPersonApprovesWhereThePolicySaysSo(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	w.ctl(0, []string{"second person"}, "policy", "set", "shop", "--require-approval")
	w.rollback("shop")
	w.as("ada", 1, []string{"no answers yet"}, "postmortem", "approve", "PM-1")
	answer := func(canary string) {
		w.as("ada", 0, nil, "postmortem", "answer", "PM-1", "--explanation", "e", "--canary", canary, "--conformance", "c", "--fixed-in", "none", "--no-action", "n")
	}
	answer("none ran")
	closing := []string{"postmortem", "close", "PM-1", "--cause", "spec-error", "--note", "x"}
	w.as("ada", 1, []string{"wants a second person", "specctl postmortem approve PM-1"}, closing...)
	w.as("ada", 1, []string{"a second person approves"}, "postmortem", "approve", "PM-1")
	w.as("bob", 0, []string{"approved"}, "postmortem", "approve", "PM-1")
	answer("it saw nothing") // takes the approval back
	w.as("ada", 1, []string{"wants a second person"}, closing...)
	w.as("bob", 0, nil, "postmortem", "approve", "PM-1")
	w.as("ada", 0, []string{"PM-1 closed"}, closing...)
	contains(t, w.ctl(0, nil, "postmortem", "show", "PM-1"), "Approved", "bob")
}

func TestOldOpenRecordKeepsNewVersionsOut(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	w.ctl(0, []string{"keep new versions out"}, "policy", "set", "shop", "--postmortem-open-for", "1ms")
	w.rollback("shop")
	for _, v := range []string{"2.2.0", "2.3.0"} {
		w.publish("shop", v, completeContract, map[string]string{"2.3.0": "fixes: PM-1"}[v])
		w.member("shop:"+v, "shop-"+strings.ReplaceAll(v, ".", "-"))
		w.ready("shop", v, 1)
	}
	w.ctl(1, []string{"PM-1 has been open for", "--override PM-1"}, "deploy", "shop:2.2.0")
	w.ctl(1, []string{"PM-1 has been open for"}, "weights", "shop", "2.2.0=10", "2.0.0=90")
	w.ctl(0, []string{"2.0.0=100 -> 2.2.0=100"}, "deploy", "shop:2.2.0", "--override", "PM-1", "--reason", "it cannot wait")
	if r := w.record("PM-1"); len(r.Overrides) != 1 || r.Overrides[0].Version != "2.2.0" || r.Overrides[0].Reason != "it cannot wait" {
		t.Errorf("overrides %+v", r.Overrides)
	}
	w.ctl(0, []string{"2.2.0=100 -> 2.3.0=100"}, "deploy", "shop:2.3.0") // it names the record
	w.ctl(0, []string{"PM-2"}, "rollback", "shop")                       // a way back is never gated
}

// metrics reads what the control plane shows to whoever scrapes it.
func (w *world) metrics() string {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "http://"+w.api+"/metrics", http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	var own []string
	for line := range strings.SplitSeq(string(raw), "\n") {
		if strings.HasPrefix(line, "specproxy_postmortem") {
			own = append(own, line)
		}
	}
	return strings.Join(own, "\n")
}

func TestRecordsAreExportedAndVerified(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	w.staged("till", "1.0.0", "1.1.0")
	w.rollback("shop")
	w.rollback("till")
	eventually(t, "both proofs in the records", func() error {
		for _, id := range []string{"PM-1", "PM-2"} {
			if w.record(id).Rollbacks[0].Effect == nil {
				return os.ErrNotExist
			}
		}
		return nil
	})
	dir := filepath.Join(t.TempDir(), "pm")
	out := w.ctl(0, []string{"PM-1.md", "PM-1.json", "PM-1.events.jsonl", "head: "}, "postmortem", "export", "PM-1", "--out", dir)
	raw, err := os.ReadFile(filepath.Join(dir, "PM-1.events.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(raw), `"record":"PM-1"`); n < 2 || strings.Contains(string(raw), `"record":"PM-2"`) {
		t.Errorf("%d events of PM-1, or some of PM-2:\n%s", n, raw)
	}
	head := strings.TrimSpace(out[strings.LastIndex(out, "head: ")+len("head: "):])
	w.ctl(0, []string{"2 records are whole"}, "postmortem", "verify", "--head", head)
	w.ctl(2, []string{"is not SEQ:LINK"}, "postmortem", "verify", "--head", "7")
	seq, link, _ := strings.Cut(head, ":")
	if text := w.metrics(); !strings.Contains(text, `specproxy_postmortem_records_open{spec="shop"} 1`) ||
		!strings.Contains(text, `specproxy_postmortem_chain_events{link="`+link+`"} `+seq) {
		t.Errorf("the head %s or the open record is not among the metrics:\n%s", head, text)
	}
	w.ctl(1, []string{"the chain was rewritten: at event " + seq}, "postmortem", "verify", "--head", seq+":"+strings.Repeat("a", 64))
	w.ctl(1, []string{"the chain was cut"}, "postmortem", "verify", "--head", "999:"+strings.Repeat("a", 64))
}

func TestHandoverSaysWhatIsLeft(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	w.ctl(0, []string{"no post-mortem is open"}, "handover", "shop", "--to", "day-team")
	w.ctl(0, []string{"kept for a record"}, "postmortem", "alert", "shop", "--source", "pager", "--name", "QueueGrows", "--summary", "400 wait")
	w.rollback("shop")
	w.ctl(0, []string{"written into PM-1"}, "postmortem", "alert", "shop", "--source", "pager", "--name", "QueueShrinks")
	w.ctl(2, []string{"--to NAME"}, "handover", "shop")
	w.ctl(0, []string{"would change hands"}, "handover", "shop", "--dry-run")
	if r := w.record("PM-1"); r.Owner != nil {
		t.Errorf("a dry run made %+v the owner", r.Owner)
	}
	w.ctl(0, []string{"PM-1 for day-team", "shop:2.1.0 gets no new work until PM-1 is closed", "frozen for automation", "specctl unfreeze shop",
		"Why did the canary not catch it?", "specctl rollback shop"}, "handover", "shop", "--to", "day-team", "--note", "all is drained")
	r := w.record("PM-1")
	if r.Owner == nil || r.Owner.Name != "day-team" || r.Owner.Note != "all is drained" || r.Owner.Due.IsZero() {
		t.Errorf("owner %+v", r.Owner)
	}
	contains(t, w.ctl(0, nil, "postmortem", "show", "PM-1"), "day-team", "QueueGrows: 400 wait", "QueueShrinks")
	w.ctl(1, []string{"what is open of shop cannot be due in the past (2020-01-01)"}, "handover", "shop", "--to", "day-team", "--due", "2020-01-01")
	w.ctl(1, []string{"spec nobody does not exist"}, "handover", "nobody", "--to", "x")
	// A rollback that an instance has not confirmed wakes somebody.
	w.staged("till", "1.0.0", "1.1.0")["1.1.0"].close()
	if _, err := w.rollbackOf(&operatorv1.RollbackTarget{Spec: "till"}); err != nil {
		t.Fatal(err)
	}
	w.left("till", "wake someone: now: the rollback of PM-2 is not proven to have taken effect: specctl get till")

	w.ctl(0, []string{"deploys: 2, 1 of them rolled back later (50 %)", "1 with all the traffic", "open: 1", "time to restore"}, "stats", "shop")
	w.closePostMortem("PM-1", "false-alarm")
	w.ctl(0, []string{"shop", "false-alarm 1", "time to close"}, "stats")
	w.ctl(2, []string{"more than 0"}, "stats", "--since", "-1h")
	w.ctl(1, []string{"spec nobody does not exist"}, "stats", "nobody")
	w.ctl(2, []string{"--reason is missing"}, "postmortem", "erase", "PM-1")
	w.ctl(0, []string{"nothing is left to erase"}, "postmortem", "erase", "PM-1", "--reason", "none is there")
}
