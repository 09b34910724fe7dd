package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/postmortem"
)

// weights writes a spec's present split, such as "2.0.0=10000".
func (w *world) weights(spec string) string {
	w.t.Helper()
	var parts []string
	for _, v := range w.spec(spec).GetVersions() {
		if v.GetWeight() > 0 {
			parts = append(parts, fmt.Sprintf("%s=%d", v.GetVersion(), v.GetWeight()))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

func (w *world) revision(spec string) uint64 {
	w.t.Helper()
	res, err := w.client.GetSpec(w.t.Context(), connect.NewRequest(&operatorv1.GetSpecRequest{Spec: spec}))
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Msg.GetRevision()
}

// record reads the whole post-mortem.
func (w *world) record(id string) postmortem.Record {
	w.t.Helper()
	var r postmortem.Record
	if err := json.Unmarshal([]byte(w.postmortem(id).GetJson()), &r); err != nil {
		w.t.Fatalf("%s as JSON: %v", id, err)
	}
	return r
}

// refused checks that a call was refused with this code, and that the message has every part.
func refused(t *testing.T, err error, code connect.Code, parts ...string) {
	t.Helper()
	if connect.CodeOf(err) != code {
		t.Errorf("error %v, want code %s", err, code)
	}
	contains(t, fmt.Sprint(err), parts...)
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in:\n%s", part, text)
		}
	}
}

// ctl runs specctl and wants this exit code and these parts in what it printed.
func (w *world) ctl(code int, parts []string, args ...string) string {
	w.t.Helper()
	out, got := w.specctl(args...)
	if got != code {
		w.t.Errorf("specctl %s: exit code %d, want %d:\n%s", strings.Join(args, " "), got, code, out)
	}
	contains(w.t, out, parts...)
	return out
}

func TestManyRollbacksAtOnceAreOne(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	seen := w.spec("shop").GetGeneration()
	targets := []*operatorv1.RollbackTarget{
		{Spec: "shop", Generation: seen},
		{Spec: "shop"},
		{Spec: "shop", From: "2.1.0", Generation: seen},
		{Spec: "shop", From: "2.1.0"},
		{Spec: "shop", To: "2.0.0", Generation: seen},
	}
	const crowd = 50
	changes, errs := make([]*operatorv1.Change, crowd), make([]error, crowd)
	var wg sync.WaitGroup
	for i := range crowd {
		wg.Go(func() { changes[i], errs[i] = w.rollbackOf(targets[i%len(targets)]) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	made := 0
	for i, c := range changes {
		if !c.GetAlreadyDone() {
			made++
		}
		if c.GetGeneration() != seen+1 || c.GetPostmortem() != "PM-1" || c.GetTarget() != "2.0.0" {
			t.Errorf("answer %d: generation %d, record %s, target %s", i, c.GetGeneration(), c.GetPostmortem(), c.GetTarget())
		}
	}
	if made != 1 {
		t.Errorf("%d of %d commands changed something, want 1", made, crowd)
	}
	w.oneRollback()
}

// oneRollback checks that 2.1.0 of shop was abandoned for 2.0.0 once.
func (w *world) oneRollback() {
	w.t.Helper()
	if got := w.weights("shop"); got != "2.0.0=10000" {
		w.t.Errorf("traffic %s, want all on 2.0.0", got)
	}
	if got := w.postmortems(); !slices.Equal(got, []string{"PM-1"}) {
		w.t.Errorf("records %v, want PM-1 alone", got)
	}
	if got := w.version("shop:2.0.0").GetStanding(); got != "good" {
		w.t.Errorf("2.0.0 is %s, want good", got)
	}
	if got := w.version("shop:2.1.0").GetStanding(); got != "quarantined" {
		w.t.Errorf("2.1.0 is %s, want quarantined", got)
	}
}

func TestTwoPeopleRollBackAtOnceAndAgainLater(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	var wg sync.WaitGroup
	var out [2]string
	var code [2]int
	for i := range out {
		wg.Go(func() { out[i], code[i] = w.specctl("rollback", "shop", "--reason", "refuses refunds") })
	}
	wg.Wait()
	done := 0
	for i := range out {
		if code[i] != 0 {
			t.Errorf("exit code %d:\n%s", code[i], out[i])
		}
		contains(t, out[i], "PM-1", "2.0.0")
		if strings.Contains(out[i], "had been done before") {
			done++
		}
	}
	if done != 1 {
		t.Errorf("%d of 2 found it done:\n%s\n%s", done, out[0], out[1])
	}
	again := w.ctl(0, []string{"had been done before", "generation 3", "PM-1", "specctl rollback shop --from 2.0.0"}, "rollback", "shop")
	if !strings.Contains(again, "2.1.0=100 -> 2.0.0=100") {
		t.Errorf("the existing rollback is not told:\n%s", again)
	}
	w.oneRollback()
}

func TestRetryIsAnsweredWithItsOwnRecordWhateverCameSince(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	retry := &operatorv1.RollbackTarget{Spec: "shop", From: "2.1.0", Generation: 2}
	first, err := w.rollbackOf(retry)
	if err != nil {
		t.Fatal(err)
	}
	same := func(when string) {
		t.Helper()
		before := w.weights("shop")
		for _, target := range []*operatorv1.RollbackTarget{retry, {Spec: "shop", Generation: 2}, {Spec: "shop", To: "2.0.0", Generation: 2}} {
			again, err := w.rollbackOf(target)
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			if !again.GetAlreadyDone() || again.GetGeneration() != first.GetGeneration() || again.GetPostmortem() != "PM-1" {
				t.Errorf("%s: %v", when, again)
			}
		}
		if after := w.weights("shop"); after != before {
			t.Errorf("%s: the retry moved %s to %s", when, before, after)
		}
	}
	same("at once")
	w.closePostMortem("PM-1", "false-alarm")
	same("after the record was closed")
	w.deploy("shop", "2.1.0")
	same("after 2.1.0 was deployed again")
	// What the retry saw was 2.1.0: another version's rollback is no answer to it.
	w.publish("shop", "2.2.0", completeContract)
	w.member("shop:2.2.0", "shop-2-2-0")
	w.ready("shop", "2.2.0", 1)
	w.deploy("shop", "2.2.0")
	if c := w.rollback("shop"); c.GetPostmortem() != "PM-2" || c.GetTarget() != "2.1.0" {
		t.Fatalf("rollback of 2.2.0: %v", c)
	}
	same("after 2.2.0 was rolled back to 2.1.0")
	if c, err := w.rollbackOf(&operatorv1.RollbackTarget{Spec: "shop", From: "2.1.0"}); err != nil || c.GetPostmortem() != "PM-3" {
		t.Fatalf("rollback of 2.1.0, asked for anew: %v %v", c, err)
	}
	same("after 2.1.0 was rolled back again")
}

func TestStaleRollbackOfReplacedVersionIsRefused(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0", "2.2.0")
	_, err := w.rollbackOf(&operatorv1.RollbackTarget{Spec: "shop", Generation: 2}) // that is, of 2.1.0
	refused(t, err, connect.CodeFailedPrecondition, "shop:2.1.0", "2.2.0=100", "nothing to abandon", "specctl get shop")
	if got := w.weights("shop"); got != "2.2.0=10000" {
		t.Errorf("traffic %s", got)
	}
}

func TestGoingFurtherMustBeNamed(t *testing.T) {
	for name, further := range map[string][]string{"from": {"--from", "2.0.0"}, "to": {"--to", "1.9.0"}} {
		t.Run(name, func(t *testing.T) {
			w := startPlane(t, nil)
			w.staged("shop", "1.9.0", "2.0.0", "2.1.0")
			w.rollback("shop")
			w.ctl(0, []string{"had been done before"}, "rollback", "shop")
			if got := w.weights("shop"); got != "2.0.0=10000" {
				t.Fatalf("traffic %s", got)
			}
			w.ctl(0, []string{"2.0.0=100 -> 1.9.0=100", "PM-2"}, append([]string{"rollback", "shop"}, further...)...)
			w.ctl(0, []string{"had been done before", "PM-2"}, append([]string{"rollback", "shop"}, further...)...)
			if got := w.weights("shop"); got != "1.9.0=10000" {
				t.Errorf("traffic %s", got)
			}
			if got := len(w.postmortems()); got != 2 {
				t.Errorf("%d records, want 2", got)
			}
		})
	}
}

func TestEveryWayBackIsTheSameRollback(t *testing.T) {
	w := startPlane(t, nil)
	commands := map[string][]string{
		"rollback": {"rollback", "a"},
		"deploy":   {"deploy", "b:2.0.0"},
		"weights":  {"weights", "c", "2.0.0=100"},
	}
	for kind, args := range commands {
		spec := string("abc"[slices.Index([]string{"rollback", "deploy", "weights"}, kind)])
		members := w.staged(spec, "2.0.0", "2.1.0")
		out := w.ctl(0, []string{spec + ": rollback", "abandoned: 2.1.0", "target: 2.0.0", "effective", "by fence", "fences: 1 of 1", "specctl postmortem show"}, args...)
		members["2.1.0"].awaitFence("2.0.0")
		if v := w.version(spec + ":2.1.0"); v.GetStanding() != "quarantined" || !v.GetPool().GetFenced() || !strings.Contains(out, v.GetPostmortem()) {
			t.Errorf("%s: 2.1.0 is %v", kind, v)
		}
		r := w.record(w.version(spec + ":2.1.0").GetPostmortem())
		rb := r.Rollbacks[0]
		if rb.Command != kind || rb.Target != "2.0.0" || rb.TargetWhy == "" || rb.Abandoned[0].Version != "2.1.0" || rb.Generation != 3 {
			t.Errorf("%s: record %+v", kind, rb)
		}
		s := w.spec(spec)
		if s.GetFreeze().GetPostmortem() != r.ID || len(s.GetDrains()) != 1 || s.GetDrains()[0].GetPostmortem() != r.ID {
			t.Errorf("%s: freeze %v, drains %v", kind, s.GetFreeze(), s.GetDrains())
		}
		w.ctl(0, []string{"had been done before", r.ID}, args...)
	}
	if got := len(w.postmortems()); got != len(commands) {
		t.Errorf("%d records for %d rollbacks", got, len(commands))
	}
}

func TestSeveralSpecsInOneTransactionHaveOneRecord(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("billing", "1.0.0", "1.1.0")
	w.staged("shop", "2.0.0", "2.1.0")
	w.staged("alone", "1.0.0") // has no way back
	both := func(specs ...string) ([]*operatorv1.Change, error) {
		req := &operatorv1.RollbackRequest{Reason: "one release"}
		for _, s := range specs {
			req.Targets = append(req.Targets, &operatorv1.RollbackTarget{Spec: s})
		}
		res, err := w.client.Rollback(t.Context(), connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		return res.Msg.GetChanges(), nil
	}
	_, err := both("shop", "alone", "billing")
	refused(t, err, connect.CodeFailedPrecondition, "alone has no earlier good version than 1.0.0")
	_, err = both("shop", "shop")
	refused(t, err, connect.CodeFailedPrecondition, "shop is named twice")
	if got := w.postmortems(); len(got) != 0 || w.weights("shop") != "2.1.0=10000" || w.weights("billing") != "1.1.0=10000" {
		t.Fatalf("a refused transaction left records %v, shop %s, billing %s", got, w.weights("shop"), w.weights("billing"))
	}
	changes, err := both("shop", "billing")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		if c.GetPostmortem() != "PM-1" || c.GetAlreadyDone() {
			t.Errorf("%v", c)
		}
	}
	r := w.record("PM-1")
	if !slices.Equal(r.Specs, []string{"billing", "shop"}) || len(r.Rollbacks) != 2 || r.Reason != "one release" {
		t.Errorf("record of %v, %d rollbacks, reason %q", r.Specs, len(r.Rollbacks), r.Reason)
	}
	if got := w.postmortems(); len(got) != 1 {
		t.Errorf("records %v", got)
	}
	w.closePostMortem("PM-1", "spec-error")
	for _, ref := range []string{"shop:2.1.0", "billing:1.1.0"} {
		if got := w.version(ref).GetStanding(); got != "retired" {
			t.Errorf("%s is %s after its record was closed", ref, got)
		}
	}
}

func TestCanaryRollback(t *testing.T) {
	w := startPlane(t, nil)
	members := w.staged("shop", "2.0.0")
	w.publish("shop", "2.1.0", completeContract)
	canary := w.member("shop:2.1.0", "shop-2-1-0")
	w.ready("shop", "2.1.0", 1)
	w.ctl(0, []string{"2.0.0=100 -> 2.0.0=90 2.1.0=10"}, "weights", "shop", "2.0.0=90", "2.1.0=10")
	w.ctl(0, []string{"2.0.0=90 2.1.0=10 -> 2.0.0=100", "abandoned: 2.1.0", "it holds 90 % of the traffic now", "PM-1"}, "rollback", "shop")
	canary.awaitFence("2.0.0")
	members["2.0.0"].awaitFence("")
	if got := w.version("shop:2.1.0").GetStanding(); got != "quarantined" {
		t.Errorf("the canary is %s", got)
	}
	w.ctl(0, []string{"had been done before", "PM-1"}, "rollback", "shop")
	w.ctl(1, []string{"shop:2.1.0 is quarantined by PM-1", "specctl postmortem show PM-1"}, "weights", "shop", "2.0.0=90", "2.1.0=10")
}

func TestLoweringCanaryIsNoRollback(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0")
	w.publish("shop", "2.1.0", completeContract)
	w.member("shop:2.1.0", "shop-2-1-0")
	w.ready("shop", "2.1.0", 1)
	w.ctl(0, nil, "weights", "shop", "2.0.0=50", "2.1.0=50")
	w.ctl(0, []string{"shop: weights"}, "weights", "shop", "2.0.0=95", "2.1.0=5")
	if got := w.postmortems(); len(got) != 0 {
		t.Errorf("records %v: the canary still holds weight", got)
	}
}

func TestRollbackWithoutGoodVersionListsCandidates(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("only", "1.0.0")
	w.ctl(1, []string{"only has no earlier good version than 1.0.0: none held traffic before it", "specctl versions only"}, "rollback", "only")

	// 1.0.0 never held all the traffic, so nothing proves it good; a person may name it.
	for _, v := range []string{"1.0.0", "1.1.0", "1.2.0"} {
		w.publish("shop", v, completeContract)
		w.member("shop:"+v, "shop-"+v)
		w.ready("shop", v, 1)
	}
	w.ctl(0, nil, "weights", "shop", "1.0.0=50", "1.1.0=50")
	w.ctl(1, []string{"shop has no earlier good version than 1.1.0", "candidates: 1.0.0 (candidate)", "specctl rollback shop --to VERSION"}, "rollback", "shop")
	w.ctl(1, []string{"version 9.9.9 of shop is not published", "specctl versions shop"}, "rollback", "shop", "--to", "9.9.9")
	w.ctl(1, []string{"shop:1.2.0 first held traffic later than 1.1.0 (or never)", "specctl deploy shop:1.2.0"}, "rollback", "shop", "--to", "1.2.0")
	w.ctl(0, []string{"abandoned: 1.1.0", "you named it"}, "rollback", "shop", "--to", "1.0.0")

	w.publish("fresh", "1.0.0", completeContract)
	w.ctl(1, []string{"fresh has no traffic: nothing was ever deployed", "specctl deploy fresh:1.0.0"}, "rollback", "fresh")
}

func TestRollbackWithOnlyBadVersionsBehindSaysSo(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "1.0.0", "1.1.0")
	w.rollback("shop")
	w.ctl(1, []string{"no earlier good version than 1.0.0: none held traffic before it"}, "rollback", "shop", "--from", "1.0.0")
	w.publish("shop", "1.2.0", completeContract)
	w.member("shop:1.2.0", "shop-1-2-0")
	w.ready("shop", "1.2.0", 1)
	w.deploy("shop", "1.2.0")
	w.ctl(0, []string{"target: 1.0.0"}, "rollback", "shop") // past 1.1.0, which is quarantined
}

func TestRollbackToEmptyPoolNamesWarmOne(t *testing.T) {
	w := startPlane(t, nil)
	members := w.staged("shop", "1.8.0", "1.9.0", "2.0.0", "2.1.0")
	members["2.0.0"].leave()
	members["1.9.0"].leave()
	w.ready("shop", "2.0.0", 0)
	w.ready("shop", "1.9.0", 0)
	if s := w.spec("shop"); s.GetExit() != "" || !strings.Contains(s.GetExitReason(), "2.0.0 would be it") {
		t.Errorf("exit %q: %s", s.GetExit(), s.GetExitReason())
	}
	w.ctl(0, []string{"exit: none", "next: specproxy --spec shop:2.0.0"}, "get", "shop")
	w.ctl(1, []string{"shop:2.0.0 has no ready instance", "specctl rollback shop --to 1.8.0", "--now"}, "rollback", "shop")
	if got := w.weights("shop"); got != "2.1.0=10000" || len(w.postmortems()) != 0 {
		t.Errorf("the refused rollback left %s and %v", got, w.postmortems())
	}
	w.ctl(0, []string{"target: 2.0.0", "no ready instance"}, "rollback", "shop", "--now")
	if got := w.weights("shop"); got != "2.0.0=10000" {
		t.Errorf("traffic %s", got)
	}
	w.ctl(0, []string{"holds 100 % of the traffic and has no ready instance"}, "get", "shop")
}

func TestColdDeployIsRefusedWithAHintThatMovesNothingElse(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0")
	w.publish("shop", "2.1.0", completeContract)
	out := w.ctl(1, []string{"shop:2.1.0 has no ready instance", "specproxy --spec shop:2.1.0", "repeat the command with --now"}, "weights", "shop", "2.0.0=90", "2.1.0=10")
	if strings.Contains(out, "specctl deploy") {
		t.Errorf("a canary of 10 %% is told to take all the traffic:\n%s", out)
	}
	w.ctl(0, []string{"warning: shop:2.1.0 has no ready instance"}, "weights", "shop", "2.0.0=90", "2.1.0=10", "--now")
}

func TestDryRunChangesNothing(t *testing.T) {
	w := startPlane(t, nil)
	members := w.staged("shop", "2.0.0", "2.1.0")
	before := w.revision("shop")
	for _, args := range [][]string{
		{"rollback", "shop", "--dry-run"},
		{"rollback", "shop", "--to", "2.0.0", "--dry-run"},
		{"deploy", "shop:2.0.0", "--dry-run"},
		{"weights", "shop", "2.0.0=100", "--dry-run"},
	} {
		w.ctl(0, []string{"shop: rollback (dry run, nothing changed)", "abandoned: 2.1.0", "target: 2.0.0", "capacity: 1 instance ready"}, args...)
	}
	w.ctl(0, []string{"shop: weights (dry run, nothing changed)"}, "weights", "shop", "2.0.0=10", "2.1.0=90", "--dry-run")
	if after := w.revision("shop"); after != before {
		t.Errorf("the store moved from revision %d to %d", before, after)
	}
	w.rollback("shop")
	members["2.1.0"].awaitFence("2.0.0")
	before = w.settledRevision("shop")
	w.ctl(1, []string{"not by PM-7"}, "deploy", "shop:2.1.0", "--override", "PM-7", "--reason", "x", "--dry-run")
	w.ctl(1, []string{"needs a reason"}, "deploy", "shop:2.1.0", "--override", "PM-1", "--dry-run")
	w.ctl(0, []string{"dry run"}, "deploy", "shop:2.1.0", "--override", "PM-1", "--reason", "x", "--dry-run")
	if after := w.revision("shop"); after != before {
		t.Errorf("the store moved from revision %d to %d", before, after)
	}
	members["2.1.0"].awaitFence("2.0.0")
}

// settledRevision is the revision once a rollback has been proven and drained: nothing more is written by itself.
func (w *world) settledRevision(spec string) uint64 {
	w.t.Helper()
	eventually(w.t, "settled record", func() error {
		for _, id := range w.postmortems() {
			for _, rb := range w.record(id).Rollbacks {
				if rb.Effect == nil || rb.Abandoned[0].Settled == nil {
					return fmt.Errorf("%s: effect %v, settled %v", id, rb.Effect, rb.Abandoned[0].Settled)
				}
			}
		}
		return nil
	})
	return w.revision(spec)
}

func TestChainOfRollbacksFencesTheFirstPoolForTheLastTarget(t *testing.T) {
	w := startPlane(t, nil)
	members := w.staged("shop", "2.0.0", "2.1.0", "2.2.0")
	w.rollback("shop")
	first := members["2.2.0"].awaitFence("2.1.0")
	w.ctl(0, []string{"2.1.0=100 -> 2.0.0=100"}, "rollback", "shop", "--from", "2.1.0")
	last := members["2.2.0"].awaitFence("2.0.0")
	members["2.1.0"].awaitFence("2.0.0")
	if last.GetGeneration() != first.GetGeneration() || last.GetTargetPin() == first.GetTargetPin() || len(last.GetTargetAddresses()) != 1 {
		t.Errorf("the fence was %v and is %v", first, last)
	}
	// A later call on what both left behind changes nothing.
	w.ctl(0, []string{"had been done before", "PM-1"}, "rollback", "shop", "--from", "2.2.0")
	w.ctl(0, []string{"had been done before", "PM-2"}, "rollback", "shop", "--from", "2.1.0")
	// 2.1.0 was good after all: 2.2.0's leftovers follow it again.
	w.closePostMortem("PM-2", "environment")
	w.deploy("shop", "2.1.0")
	members["2.2.0"].awaitFence("2.1.0")
}

func TestRollbackReachesARealSidecarPastEveryProxy(t *testing.T) {
	w := startPlane(t, nil)
	old, bad := startAgent(t, "2.0.0", newFlips()), startAgent(t, "2.1.0", newFlips())
	address := freeAddress(t)
	w.publish("shop", "2.0.0", completeContract)
	w.publish("shop", "2.1.0", completeContract)
	w.sidecar("shop:2.0.0", old.url)
	w.sidecar("shop:2.1.0", bad.url, "--listen", address)
	w.ready("shop", "2.0.0", 1)
	w.ready("shop", "2.1.0", 1)
	w.deploy("shop", "2.0.0")
	w.deploy("shop", "2.1.0")
	ask := func(want string) {
		t.Helper()
		tr := newTraffic(t, "shop.agents", address, newFlips(), nil)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if got, err := tr.unary(ctx, "hello"); err != nil || got != want {
			t.Errorf("answered by %q (%v), want %s", got, err, want)
		}
	}
	ask("2.1.0")
	effect := w.effective("shop", w.rollback("shop").GetGeneration())
	if effect.GetBy() != "fence" || effect.GetFencesAcked() != 1 {
		t.Errorf("effect %v", effect)
	}
	// A client, or an Envoy that has heard nothing, still calls the abandoned instance.
	ask("2.0.0")
}
