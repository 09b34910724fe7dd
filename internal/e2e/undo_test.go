package e2e

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/auth"
)

func TestUndo(t *testing.T) {
	w := startPlane(t, nil)
	members := w.staged("shop", "2.0.0", "2.1.0")
	w.ctl(0, nil, "weights", "shop", "2.0.0=30", "2.1.0=70", "--now") // an older version gains, but none loses all
	w.ctl(0, []string{"PM-1"}, "rollback", "shop")
	members["2.1.0"].awaitFence("2.0.0")
	w.ctl(1, []string{"post-mortem PM-9 does not exist", "specctl postmortem list"}, "rollback", "--undo", "PM-9")
	w.ctl(0, []string{"shop: undo", "2.0.0=100 -> 2.0.0=30 2.1.0=70"}, "rollback", "--undo", "PM-1", "--reason", "wrong dashboard")
	members["2.1.0"].awaitFence("")
	w.ctl(0, []string{"had been done before"}, "rollback", "--undo", "PM-1")
	if got := w.version("shop:2.1.0").GetStanding(); got != "candidate" {
		t.Errorf("2.1.0 is %s", got)
	}
	pm := w.record("PM-1")
	if pm.Undone == nil || pm.Undone.Reason != "wrong dashboard" || !strings.HasPrefix(pm.Undone.Actor, "admin (") || !pm.Open() {
		t.Errorf("record: undone %+v, open %v", pm.Undone, pm.Open())
	}
	contains(t, w.postmortem("PM-1").GetMarkdown(), "**Undone:**", "wrong dashboard")
	if s := w.spec("shop"); len(s.GetDrains()) != 1 || s.GetDrains()[0].GetState() != "cancelled" {
		t.Errorf("drains %v", s.GetDrains())
	}
	// What was undone can be rolled back again, and closing the first record then does not touch the version.
	w.ctl(0, []string{"PM-2"}, "rollback", "shop")
	members["2.1.0"].awaitFence("2.0.0")
	w.closePostMortem("PM-1", "spec-error")
	if v := w.version("shop:2.1.0"); v.GetStanding() != "quarantined" || v.GetPostmortem() != "PM-2" {
		t.Errorf("2.1.0 is %s by %s", v.GetStanding(), v.GetPostmortem())
	}
}

func TestUndoIsRefusedOnceSomethingChanged(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	w.rollback("shop")
	w.publish("shop", "2.2.0", completeContract)
	w.member("shop:2.2.0", "shop-2-2-0")
	w.ready("shop", "2.2.0", 1)
	w.deploy("shop", "2.2.0")
	w.ctl(1, []string{"shop was changed since PM-1 (generation 3, now 4)", "specctl get shop"}, "rollback", "--undo", "PM-1")
	if got := w.weights("shop"); got != "2.2.0=10000" {
		t.Errorf("traffic %s", got)
	}
}

func TestUndoIsRefusedOnceTheVersionIsRetired(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	w.rollback("shop")
	w.closePostMortem("PM-1", "implementation")
	w.ctl(1, []string{"PM-1 was closed by admin (tester) as implementation", "retired"}, "rollback", "--undo", "PM-1")
	if got := w.version("shop:2.1.0").GetStanding(); got != "retired" || w.weights("shop") != "2.0.0=10000" {
		t.Errorf("2.1.0 is %s, traffic %s", got, w.weights("shop"))
	}
}

func TestRollbackFreezesTheSpecForAutomation(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	w.rollback("shop")
	w.publish("shop", "2.2.0", completeContract)
	w.member("shop:2.2.0", "shop-2-2-0")
	w.ready("shop", "2.2.0", 1)
	frozen := []string{"shop is frozen for automation", "PM-1", "specctl unfreeze shop"}
	w.ctl(1, frozen, "deploy", "shop:2.2.0", "--automation")
	w.ctl(1, frozen, "weights", "shop", "2.0.0=90", "2.2.0=10", "--automation")
	w.ctl(0, []string{"had been done before"}, "deploy", "shop:2.0.0", "--automation") // changes nothing

	machine := connect.NewRequest(&operatorv1.UnfreezeRequest{Spec: "shop"})
	machine.Header().Set(auth.AutomationHeader, "true")
	_, err := w.client.Unfreeze(t.Context(), machine)
	refused(t, err, connect.CodeFailedPrecondition, "only a person unfreezes shop", "specctl unfreeze shop")
	deploy := connect.NewRequest(&operatorv1.DeployRequest{Refs: []*operatorv1.Ref{{Spec: "shop", Version: "2.2.0"}}})
	deploy.Header().Set(auth.AutomationHeader, "true")
	_, err = w.client.Deploy(t.Context(), deploy)
	refused(t, err, connect.CodeFailedPrecondition, frozen...)

	w.ctl(0, nil, "deploy", "shop:2.2.0") // a person
	// No freeze stands in a rollback's way, whoever asks.
	back := connect.NewRequest(&operatorv1.DeployRequest{Refs: []*operatorv1.Ref{{Spec: "shop", Version: "2.0.0"}}, Automation: true})
	if _, err := w.client.Deploy(t.Context(), back); err != nil {
		t.Errorf("a rollback by automation: %v", err)
	}
	w.ctl(0, nil, "unfreeze", "shop")
	w.ctl(0, nil, "unfreeze", "shop")
	w.ctl(1, []string{"spec nosuch does not exist"}, "unfreeze", "nosuch")
	r := w.record("PM-2")
	if len(r.Unfrozen) != 1 || r.Unfrozen[0].Spec != "shop" || !strings.HasPrefix(r.Unfrozen[0].Actor, "admin (") {
		t.Errorf("unfrozen %+v", r.Unfrozen)
	}
	contains(t, w.postmortem("PM-2").GetMarkdown(), "**Unfrozen:**")
	w.closePostMortem("PM-1", "false-alarm")
	w.ctl(0, nil, "deploy", "shop:2.1.0", "--automation")
}
