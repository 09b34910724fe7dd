package e2e

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/postmortem/boardtest"
)

func TestQuarantinedVersionIsRefusedByEveryCommand(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	w.rollback("shop")
	w.publish("shop", "2.2.0", completeContract)
	w.member("shop:2.2.0", "shop-2-2-0")
	w.ready("shop", "2.2.0", 1)
	w.deploy("shop", "2.2.0")
	before := w.revision("shop")
	for _, args := range [][]string{
		{"deploy", "shop:2.1.0"},
		{"deploy", "shop:2.1.0", "--now"},
		{"weights", "shop", "2.1.0=10", "2.2.0=90"},
		{"rollback", "shop", "--to", "2.1.0"},
		{"deploy", "shop:2.1.0", "--dry-run"},
		{"deploy", "shop:2.1.0", "--canary"},
	} {
		w.ctl(1, []string{"shop:2.1.0 is quarantined by PM-1", "specctl postmortem show PM-1", "--override PM-1"}, args...)
	}
	// CI or GitOps that repeats what it did before the rollback, once a person has ended the freeze by a deploy.
	w.ctl(1, []string{"shop:2.1.0 is quarantined by PM-1"}, "deploy", "shop:2.1.0", "--automation")
	w.ctl(1, []string{"only a person overrides PM-1", "ask a person to run"}, "deploy", "shop:2.1.0", "--automation", "--override", "PM-1", "--reason", "the pipeline says so")
	w.ctl(1, []string{"quarantined by PM-1, not by PM-2"}, "deploy", "shop:2.1.0", "--override", "PM-2", "--reason", "x")
	w.ctl(1, []string{"needs a reason"}, "deploy", "shop:2.1.0", "--override", "PM-1")
	w.ctl(1, []string{"needs a reason"}, "deploy", "shop:2.1.0", "--override", "PM-1", "--reason", "  ")
	if r := w.record("PM-1"); len(r.Overrides) > 0 {
		t.Errorf("refused overrides are in the record: %+v", r.Overrides)
	}
	if got := w.weights("shop"); got != "2.2.0=10000" || w.revision("shop") != before {
		t.Errorf("refused commands left %s; revision %d, was %d", got, w.revision("shop"), before)
	}
}

func TestClosingSettlesTheStanding(t *testing.T) {
	for cause, standing := range map[string]string{
		"spec-error": "retired", "correct-but-miscommunicated": "retired", "implementation": "retired",
		"environment": "candidate", "false-alarm": "candidate",
	} {
		t.Run(cause, func(t *testing.T) {
			w := startPlane(t, nil)
			members := w.staged("shop", "2.0.0", "2.1.0")
			w.rollback("shop")
			members["2.1.0"].awaitFence("2.0.0")
			w.answered("PM-1")
			w.ctl(0, []string{"PM-1 closed", cause}, "postmortem", "close", "PM-1", "--cause", cause, "--note", "seen by ada")
			v := w.version("shop:2.1.0")
			if v.GetStanding() != standing || !strings.Contains(v.GetStandingReason(), "PM-1 closed as "+cause) {
				t.Errorf("2.1.0 is %s (%s), want %s", v.GetStanding(), v.GetStandingReason(), standing)
			}
			r := w.record("PM-1")
			if r.Closing == nil || string(r.Closing.Cause) != cause || r.Closing.Note != "seen by ada" || !strings.HasPrefix(r.Closing.Actor, "admin (") {
				t.Errorf("closing %+v", r.Closing)
			}
			contains(t, w.ctl(0, nil, "postmortem", "show", "PM-1"), "closed, "+cause, "seen by ada")
			// The same again is done before; another cause is not taken.
			w.ctl(0, []string{"closed before with another note, which stays: seen by ada"}, "postmortem", "close", "PM-1", "--cause", cause, "--note", "again")
			other := "spec-error"
			if cause == other {
				other = "false-alarm"
			}
			w.ctl(1, []string{"PM-1 was closed by admin", "as " + cause}, "postmortem", "close", "PM-1", "--cause", other, "--note", "no")
			if standing == "candidate" {
				members["2.1.0"].awaitFence("")
				w.ctl(0, []string{"2.0.0=100 -> 2.1.0=100"}, "deploy", "shop:2.1.0")
				return
			}
			members["2.1.0"].awaitFence("2.0.0")
			for _, args := range [][]string{{}, {"--override", "PM-1", "--reason", "please"}} {
				w.ctl(1, []string{"shop:2.1.0 is retired", "PM-1", "specctl publish"}, append([]string{"deploy", "shop:2.1.0"}, args...)...)
			}
		})
	}
}

func TestClosingWantsCauseAndNote(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	w.rollback("shop")
	w.ctl(2, []string{"--cause is missing", "spec-error", "false-alarm"}, "postmortem", "close", "PM-1", "--note", "x")
	w.ctl(2, []string{`--cause "bad-luck" is not one of spec-error`}, "postmortem", "close", "PM-1", "--cause", "bad-luck", "--note", "x")
	w.ctl(1, []string{"PM-1 cannot be closed without a note", "--note"}, "postmortem", "close", "PM-1", "--cause", "spec-error")
	w.ctl(1, []string{"PM-1 cannot be closed without a note"}, "postmortem", "close", "PM-1", "--cause", "spec-error", "--note", " ")
	w.ctl(1, []string{"post-mortem PM-5 does not exist", "specctl postmortem list"}, "postmortem", "close", "PM-5", "--cause", "spec-error", "--note", "x")
	w.ctl(1, []string{"post-mortem PM-5 does not exist", "specctl postmortem list"}, "postmortem", "show", "PM-5")
	_, err := w.client.ClosePostMortem(t.Context(), connect.NewRequest(&operatorv1.ClosePostMortemRequest{Id: "PM-1", Cause: "bad-luck", Note: "x"}))
	refused(t, err, connect.CodeInvalidArgument, `"bad-luck" is not one of spec-error`)
	if pm := w.postmortem("PM-1"); pm.GetState() != "open" || w.version("shop:2.1.0").GetStanding() != "quarantined" {
		t.Errorf("PM-1 is %s, 2.1.0 %s", pm.GetState(), w.version("shop:2.1.0").GetStanding())
	}
}

func TestOverrideDeploysAtOnceAndIsLoud(t *testing.T) {
	w := startPlane(t, nil)
	members := w.staged("shop", "2.0.0", "2.1.0")
	w.rollback("shop")
	members["2.1.0"].awaitFence("2.0.0")
	w.ctl(0, []string{"2.0.0=100 -> 2.1.0=100", "effective"}, "deploy", "shop:2.1.0", "--override", "PM-1", "--reason", "2.0.0 is worse today")
	members["2.1.0"].awaitFence("")
	r := w.record("PM-1")
	if len(r.Overrides) != 1 || r.Overrides[0].Version != "2.1.0" || r.Overrides[0].Reason != "2.0.0 is worse today" ||
		!strings.HasPrefix(r.Overrides[0].Actor, "admin (") || !r.Open() {
		t.Errorf("overrides %+v, open %v", r.Overrides, r.Open())
	}
	contains(t, w.ctl(0, nil, "postmortem", "show", "PM-1"), "**OVERRIDDEN:**", "2.0.0 is worse today")
	contains(t, w.ctl(0, nil, "postmortem", "show", "PM-1", "-o", "json"), `"overrides"`, "2.0.0 is worse today")
	if pm := w.postmortem("PM-1"); len(pm.GetOverrides()) != 1 || !strings.Contains(pm.GetOverrides()[0], "2.0.0 is worse today") {
		t.Errorf("overrides %v", pm.GetOverrides())
	}
	if text := w.metrics(); !strings.Contains(text, `specproxy_postmortem_overrides_total{spec="shop"} 1`) {
		t.Errorf("the override is not among the metrics:\n%s", text)
	}
	// The open record does not read as if 2.1.0 were still away, and an answer that blames it does not go unheard.
	contains(t, strings.Join(w.spec("shop").GetTrouble(), "\n"), "PM-1 is open: 2.1.0 was abandoned for 2.0.0, and deployed in spite of it by admin (")
	if md := w.postmortem("PM-1").GetMarkdown(); strings.Contains(md, "until then the abandoned version is refused") {
		t.Errorf("the record says that 2.1.0 is refused:\n%s", md)
	}
	// It can be rolled back again, with a record of its own; the first one's answer is not about it any more.
	w.ctl(0, []string{"PM-2"}, "rollback", "shop")
	w.closePostMortem("PM-1", "false-alarm")
	if v := w.version("shop:2.1.0"); v.GetStanding() != "quarantined" || v.GetPostmortem() != "PM-2" {
		t.Errorf("2.1.0 is %s by %s", v.GetStanding(), v.GetPostmortem())
	}
	w.ctl(1, []string{"quarantined by PM-2, not by PM-1"}, "deploy", "shop:2.1.0", "--override", "PM-1", "--reason", "again")
}

func TestBlamedVersionWithTrafficIsTrouble(t *testing.T) {
	w := startPlane(t, nil)
	members := w.staged("shop", "2.0.0", "2.1.0")
	w.rollback("shop")
	members["2.1.0"].awaitFence("2.0.0")
	w.ctl(0, []string{"2.0.0=100 -> 2.1.0=100"}, "rollback", "--undo", "PM-1")
	contains(t, strings.Join(w.spec("shop").GetTrouble(), "\n"), "PM-1 is open: 2.1.0 was abandoned for 2.0.0, and undone by admin (")
	contains(t, w.postmortem("PM-1").GetMarkdown(), "**Undone:**", ": no reason was given")
	w.closePostMortem("PM-1", "spec-error")
	spec := w.spec("shop")
	contains(t, strings.Join(spec.GetTrouble(), "\n"), "shop:2.1.0 holds 100 % of the traffic although PM-1 was closed as spec-error")
	if spec.GetNext() != "specctl rollback shop" {
		t.Errorf("next: %s", spec.GetNext())
	}
}

// TestRecordTellsTheWholeStory kills the control plane between the rollback and the end of the drain. Its record is asked what a review board asks.
func TestRecordTellsTheWholeStory(t *testing.T) {
	w := startXDS(t)
	good, bad := startDesk(t, "2.0.0"), startDesk(t, "2.1.0")
	digests := map[string]string{}
	addresses := map[string]string{}
	began := map[string]uint64{}
	for _, d := range []*desk{good, bad} {
		digests[d.version] = w.publishLimit("shop", d.version, map[string]string{"2.0.0": "500", "2.1.0": "100"}[d.version])
		w.ctl(0, nil, "attach", "shop:"+d.version, "--conformance", "../../examples/refunds/conformance/refunds.json")
		addresses[d.version] = freeAddress(t)
		d.sidecar(w, "shop", "--listen", addresses[d.version])
		w.ready("shop", d.version, 1)
	}
	w.deploy("shop", "2.0.0")
	ask := func(d *desk, name, amount string) *call {
		began[d.version]++
		return request(t, addresses[d.version], "shop.agents", name, "refund to 4111111111111111, \x1b[2J```<b>",
			"Content-Type", "text/plain", "Idempotency-Key", "key-"+name, "X-Amount", amount, "Authorization", "Bearer of-ada")
	}
	fine := func(d *desk, amount string, times int) {
		for range times {
			ask(d, "fine", amount).answer(http.StatusOK)
		}
	}
	// counted waits until what was asked is known at the control plane, where each change of the weights writes it down.
	counted := func() {
		for version, n := range began {
			w.counted("shop", version, n, 0)
		}
	}
	fine(good, "small", 20)
	fine(good, "large", 10)
	counted()
	w.ctl(0, []string{"2.0.0=95", "2.1.0=5"}, "weights", "shop", "2.0.0=95", "2.1.0=5")
	fine(good, "small", 9)
	fine(good, "large", 5)
	fine(bad, "small", 1)
	counted()
	w.deploy("shop", "2.1.0")
	var failed []string
	for i := range 3 {
		j := bad.job(fmt.Sprintf("refused-%d", i))
		c := ask(bad, fmt.Sprintf("refused-%d", i), "large")
		failed = append(failed, j.begins())
		if i == 0 {
			if status, answer := j.act("irreversible"); status != http.StatusOK {
				t.Errorf("no leave to act: %d %s", status, answer)
			}
		}
		j.do(func(rw http.ResponseWriter) {
			rw.Header().Set("X-Spec-Outcome", `failure; reason="above the limit, and so on"`)
		})
		j.finish()
		c.answer(http.StatusOK)
	}
	running, cancelled := bad.job("running"), bad.job("cancelled")
	runs, cut := ask(bad, "running", "large"), ask(bad, "cancelled", "large")
	running.begins()
	failed = append(failed, cancelled.begins())
	w.inFlight("shop", "2.1.0", 2)
	w.counted("shop", "2.0.0", 44, 0)
	w.counted("shop", "2.1.0", 1, 3)

	w.ctl(0, []string{"complete within 5m", "rule 4: path=/jobs/cancelled*"}, "rollback", "shop", "--reason", "refuses refunds above 100")
	cut.answer(http.StatusServiceUnavailable)
	runs.open()
	w.left("shop", fmt.Sprintf("left: executions of 2.1.0 to do again, which failed or were cancelled: %d; specctl executions shop --on 2.1.0 --failed -o csv > redo.csv", len(failed)),
		"wake someone: if the drain of 2.1.0 is not over in time (1 still run): specctl drain status shop", "wake someone: if shop fails again: specctl rollback shop")
	w.xds.kill()
	running.finish()
	runs.answer(http.StatusOK, "2.1.0 answers running")
	w.restartXDS()

	eventually(t, "settled record", func() error {
		rb := w.record("PM-1").Rollbacks[0]
		if s := rb.Abandoned[0].Settled; s == nil || s.State != drain.Drained || rb.Effect == nil {
			return fmt.Errorf("settled %+v, effect %+v", s, rb.Effect)
		}
		return nil
	})
	r := w.record("PM-1")
	w.checkRecord(r, digests)
	if got := r.Rollbacks[0].Abandoned[0].Settled; got.Counts != (drain.Counts{Completed: 1, Cancelled: 1}) {
		t.Errorf("settled %+v, want 1 completed, 1 cancelled", got)
	}
	w.toRedo("PM-1", len(failed))
	text := w.ctl(0, nil, "postmortem", "show", "PM-1")
	contains(t, text, "refuses refunds above 100", digests["2.0.0"], digests["2.1.0"], "1 completed under it", "1 cancelled with the retry signal",
		"| 2.1.0 | 1 | 3 |", "Why did the canary not catch it?", "Why did conformance pass?", "What fixes it",
		"specctl executions shop --on 2.1.0 --failed -o csv", "**Effective:**")
	w.checkFailed(failed)
	w.checkExport(failed)
}

// publishLimit publishes a version whose limits.yaml says how much its agent may pay, and which counts by amount.
func (w *world) publishLimit(spec, version, limit string) string {
	w.t.Helper()
	dir := w.t.TempDir()
	for name, text := range map[string]string{
		"spec.yaml": fmt.Sprintf("name: %s\nversion: %s\ndocuments: [limits.yaml]\nsegments: [{name: amount, header: x-amount, values: [small, large]}]\ncapture: {request: 2048, response: 2048, redact: [{regex: '\\b\\d{16}\\b', with: '[card]'}]}\ninFlight:\n%s\n",
			spec, version, indent(guardedContract)),
		"limits.yaml": "refund:\n  limit: " + limit + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	w.ctl(0, nil, "publish", dir)
	return w.version(spec + ":" + version).GetDigest()
}

// checkExport closes the record, has its figures computed again from its events, and erases the keys that it names.
func (w *world) checkExport(failed []string) {
	w.t.Helper()
	w.counted("shop", "2.0.0", 44, 0) // which this control plane, too, has to be told before the evidence is gathered
	w.publish("shop", "2.2.0", guardedContract, "fixes: PM-1")
	w.ctl(0, nil, "postmortem", "assign", "PM-1", "--what", "add a case above the limit", "--owner", "policy team", "--due", "14d")
	w.ctl(0, []string{"PM-1 closed"}, "postmortem", "close", "PM-1", "--cause", "spec-error", "--note", "the limit came without a way beyond it",
		"--canary", "it was given by hand and saw small ones only", "--conformance", "no case is above the limit", "--fixed-in", "2.2.0")
	// everything is all that an export holds.
	export := func(flags ...string) (events, personal, everything string) {
		dir := w.recomputed("PM-1", flags...)
		text, err := os.ReadFile(filepath.Join(dir, "PM-1.md"))
		if err != nil {
			w.t.Fatal(err)
		}
		for _, missing := range boardtest.Ask(string(text), boardtest.Story{
			Spec: "shop", Version: "2.1.0", Target: "2.0.0", Actor: "admin", Reason: "refuses refunds above 100", Proof: "fence",
			Place: "POST /jobs/refused-0", Said: "above the limit, and so on", Attribute: "amount", Value: "large", Ended: []string{"1 completed under it", "1 cancelled with the retry signal"},
			Changed: []string{"refund.limit is 100, lowered from 500", "+  limit: 100"}, Cause: "spec-error", Suite: "refund-policy",
			Canary: "it was given by hand and saw small ones only", Conformance: "no case is above the limit", Action: "add a case above the limit", Owner: "policy team", Fix: "2.2.0",
		}) {
			w.t.Errorf("the exported record does not answer: %s", missing)
		}
		// What this control plane was not told before it was killed is said to be missing; what failed is offered as a case to complete.
		contains(w.t, string(text), "what this replica was not told before")
		offered, err := os.ReadFile(filepath.Join(dir, "conformance", "pm-1.shop.1.json"))
		if err != nil {
			w.t.Fatal(err)
		}
		contains(w.t, string(offered), `"postMortem": "PM-1"`, `"reason": "above the limit, and so on"`, `"execution": "`+failed[0]+`"`, `"expect": null`)
		raw, err := os.ReadFile(filepath.Join(dir, "PM-1.events.jsonl"))
		if err != nil {
			w.t.Fatal(err)
		}
		keys, err := os.ReadFile(filepath.Join(dir, "PM-1.personal.json"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.t.Fatal(err)
		}
		var all strings.Builder
		err = fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			content, err := os.ReadFile(filepath.Join(dir, name))
			all.Write(content)
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
		return string(raw), string(keys), all.String()
	}
	events, personal, everything := export()
	const asked, answered = "refund to [card]", "2.1.0 answers refused-0"
	contains(w.t, everything, "````text\n"+asked+", \\x1b[2J```<b>\n````", answered, `"body": "`+asked, `"body": "`+answered)
	if strings.Contains(events, asked) || strings.Contains(events, answered) {
		w.t.Errorf("excerpts are in the chain:\n%s", events)
	}
	for _, never := range []string{"4111111111111111", "of-ada"} {
		if strings.Contains(everything, never) {
			w.t.Errorf("%s left the sidecar", never)
		}
	}
	contains(w.t, w.ctl(0, nil, "postmortem", "show", "PM-1"), asked, answered)
	if _, _, bare := export("--without-personal"); strings.Contains(bare, asked) || strings.Contains(bare, answered) {
		w.t.Errorf("an export without personal data holds an excerpt:\n%s", bare)
	}
	if strings.Contains(events, "key-refused-0") || !strings.Contains(personal, "key-refused-0") {
		w.t.Errorf("keys are in the chain, or not beside it:\n%s\n%s", events, personal)
	}
	for _, id := range failed[:3] { // the last one was cancelled and did not fail
		if !strings.Contains(events, id) {
			w.t.Errorf("%s is not in the evidence", id)
		}
	}
	w.ctl(0, []string{"3 keys are erased, and 4 texts of excerpts"}, "postmortem", "erase", "PM-1", "--reason", "asked for")
	_, personal, everything = export()
	if personal != "" {
		w.t.Errorf("after the erasing there is %s", personal)
	}
	for name, text := range map[string]string{
		"export": everything, "record": w.ctl(0, nil, "postmortem", "show", "PM-1"), "record as JSON": w.ctl(0, nil, "postmortem", "show", "PM-1", "-o", "json"),
	} {
		if strings.Contains(text, asked) || strings.Contains(text, answered) {
			w.t.Errorf("after the erasing an excerpt is in the %s:\n%s", name, text)
		}
	}
	contains(w.t, everything, ": erased.")
	if csv := w.ctl(0, nil, "executions", "shop", "--on", "2.1.0", "--failed", "-o", "csv"); strings.Contains(csv, "key-refused") {
		w.t.Errorf("the list to redo still has keys:\n%s", csv)
	}
	w.ctl(0, []string{"1 record is whole"}, "postmortem", "verify")
}

func TestSettledRecordCountsEveryCancelledExecution(t *testing.T) {
	w := startPlane(t, nil)
	w.publish("shop", "2.0.0", guardedContract)
	w.member("shop:2.0.0", "shop-2-0-0")
	w.ready("shop", "2.0.0", 1)
	w.deploy("shop", "2.0.0")
	bad, address := startDesk(t, "2.1.0"), freeAddress(t)
	w.publish("shop", "2.1.0", guardedContract)
	bad.sidecar(w, "shop", "--listen", address)
	w.ready("shop", "2.1.0", 1)
	w.deploy("shop", "2.1.0")
	const crowd = 40
	var calls []*call
	for i := range crowd {
		name := fmt.Sprintf("cancelled-%d", i)
		j := bad.job(name)
		calls = append(calls, request(t, address, "shop.agents", name, "x"))
		j.begins()
	}
	w.inFlight("shop", "2.1.0", crowd)
	w.rollback("shop")
	for _, c := range calls {
		c.answer(http.StatusServiceUnavailable)
	}
	w.settledRevision("shop")
	if got := w.record("PM-1").Rollbacks[0].Abandoned[0].Settled; got.Counts != (drain.Counts{Cancelled: crowd}) {
		t.Errorf("settled %+v, want %d cancelled", got, crowd)
	}
	w.toRedo("PM-1", crowd)
	w.closePostMortem("PM-1", "environment")
	w.toRedo("PM-1", crowd)
}

// left waits until a hand-over of the spec tells all of this.
func (w *world) left(spec string, lines ...string) {
	w.t.Helper()
	eventually(w.t, "what is left of "+spec+" to the next shift", func() error {
		out, _ := w.specctl("handover", spec, "--dry-run")
		for _, line := range lines {
			if !strings.Contains(out, line) {
				return fmt.Errorf("%q is not in %s", line, out)
			}
		}
		return nil
	})
}

// toRedo waits until a record knows of this many executions to do again: they are told of after their end was counted.
func (w *world) toRedo(id string, n int) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d executions to do again in %s", n, id), func() error {
		if got := w.record(id).Rollbacks[0].Abandoned[0].Settled.Failed; got != n {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
}

// inFlight waits until this many executions of a version are known to run, each by name.
func (w *world) inFlight(spec, version string, n int) []*operatorv1.Execution {
	w.t.Helper()
	var running []*operatorv1.Execution
	eventually(w.t, fmt.Sprintf("%d running executions of %s:%s", n, spec, version), func() error {
		res, err := w.client.ListExecutions(w.t.Context(), connect.NewRequest(&operatorv1.ListExecutionsRequest{Spec: spec, Version: version}))
		if err != nil {
			return err
		}
		if running = res.Msg.GetExecutions(); len(running) != n {
			return fmt.Errorf("%v", running)
		}
		return nil
	})
	return running
}

// counted waits until the control plane was told that so many executions succeeded and failed.
func (w *world) counted(spec, version string, succeeded, failed uint64) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d succeeded, %d failed of %s:%s", succeeded, failed, spec, version), func() error {
		if p := w.pool(spec, version); p.GetSucceeded() != succeeded || p.GetFailed() != failed {
			return fmt.Errorf("%v", p)
		}
		return nil
	})
}

// checkRecord checks what was known at the commit.
func (w *world) checkRecord(r postmortem.Record, digests map[string]string) {
	w.t.Helper()
	rb := r.Rollbacks[0]
	if !strings.HasPrefix(r.Actor, "admin (") || r.Reason != "refuses refunds above 100" || !slices.Equal(r.Specs, []string{"shop"}) {
		w.t.Errorf("actor %q, reason %q, specs %v", r.Actor, r.Reason, r.Specs)
	}
	if rb.Abandoned[0].Version != "2.1.0" || rb.Abandoned[0].Digest != digests["2.1.0"] || rb.Target != "2.0.0" || rb.Digest != digests["2.0.0"] {
		w.t.Errorf("from %+v to %s %s, want digests %v", rb.Abandoned, rb.Target, rb.Digest, digests)
	}
	kinds := []string{}
	for _, s := range rb.Timeline {
		kinds = append(kinds, fmt.Sprintf("%d %s %s", s.Generation, s.Kind, s.By))
	}
	if len(kinds) != 4 || !strings.HasPrefix(kinds[0], "1 deploy admin (") || !strings.HasPrefix(kinds[1], "2 weights admin (") || !strings.HasPrefix(kinds[3], "4 rollback admin (") {
		w.t.Errorf("timeline %q", kinds)
	}
	outcomes := map[string]postmortem.Outcome{}
	for _, o := range rb.Outcomes {
		outcomes[o.Version] = o
	}
	if got := outcomes["2.1.0"]; got.Succeeded != 1 || got.Failed != 3 || got.InFlight != 2 {
		w.t.Errorf("outcome of 2.1.0 %+v, want 1 succeeded, 3 failed, 2 in flight", got)
	}
	if got := outcomes["2.0.0"]; got.Succeeded != 44 || got.Failed != 0 {
		w.t.Errorf("outcome of 2.0.0 %+v, want 44 succeeded", got)
	}
	planned := map[drain.Disposition]int{}
	for _, p := range rb.Plans {
		planned[p.Disposition] += p.Executions
	}
	if len(planned) != 2 || planned[drain.Complete] != 1 || planned[drain.Cancel] != 1 {
		w.t.Errorf("plans %+v", rb.Plans)
	}
	if rb.Effect == nil || rb.Effect.By != "fence" || rb.Effect.FencesAcked != 1 || rb.Effect.LastAdmissionID == "" || rb.Effect.At.Before(rb.CommittedAt) {
		w.t.Errorf("effect %+v", rb.Effect)
	}
}

// checkFailed checks the list of what is to be done again, in each of its forms.
func (w *world) checkFailed(ids []string) {
	w.t.Helper()
	raw := w.ctl(0, nil, "executions", "shop", "--on", "2.1.0", "--failed", "-o", "csv")
	rows, err := csv.NewReader(strings.NewReader(raw)).ReadAll()
	if err != nil {
		w.t.Fatalf("not CSV: %v\n%s", err, raw)
	}
	column := func(name string) int { return slices.Index(rows[0], name) }
	var got []string
	for _, row := range rows[1:] {
		got = append(got, row[column("id")])
		if key := row[column("key")]; !strings.HasPrefix(key, "key-") || row[column("version")] != "2.1.0" {
			w.t.Errorf("row %q", row)
		}
		switch {
		case row[column("disposition")] == "cancel" && row[column("status")] == "503" && row[column("key")] == "key-cancelled":
		case row[column("outcome")] == "failure" && row[column("reason")] == "above the limit, and so on" && row[column("status")] == "200":
		default:
			w.t.Errorf("row %q is neither failed nor cancelled", row)
		}
	}
	if !slices.Equal(got, ids) {
		w.t.Errorf("ids %q, want %q", got, ids)
	}
	var list struct{ Executions []struct{ ID, Key string } }
	if err := json.Unmarshal([]byte(w.ctl(0, nil, "executions", "shop", "--on", "2.1.0", "--failed", "-o", "json")), &list); err != nil || len(list.Executions) != len(ids) || list.Executions[0].ID != ids[0] {
		w.t.Errorf("as JSON: %+v (%v)", list, err)
	}
	w.ctl(0, append([]string{"key=key-refused-0", "above the limit", "cancel"}, ids...), "executions", "shop", "--failed")
	w.ctl(0, []string{"no failed execution is known"}, "executions", "shop", "--on", "2.0.0", "--failed")
	w.ctl(1, []string{"version 7.0.0 of shop is not published", "specctl versions shop"}, "executions", "shop", "--on", "7.0.0", "--failed")
}
