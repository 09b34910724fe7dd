package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// TestWorklistAfterARollback: what ran under the abandoned version and touched the world is listed with keys and compensations, whether it
// failed, succeeded or still runs, and the post-mortem counts it.
func TestWorklistAfterARollback(t *testing.T) {
	g := startGuarded(t)
	done, doneCall := g.begin("done", "x")
	running, runningCall := g.begin("running", "x")
	reader, readerCall := g.begin("reader", "x")
	for _, j := range []*job{done, running} {
		if status, answer := j.act("irreversible"); status != http.StatusOK {
			t.Fatalf("act: %d %s", status, answer)
		}
	}
	if status, answer := reader.act("readonly"); status != http.StatusOK {
		t.Fatalf("act: %d %s", status, answer)
	}
	done.finish()
	doneCall.answer(http.StatusOK)
	reader.finish()
	readerCall.answer(http.StatusOK)
	g.inFlight("shop", "2.1.0", 1)
	g.rollback("shop")

	var list *operatorv1.ListEffectsResponse
	eventually(t, "both acts in the worklist", func() error {
		res, err := g.client.ListEffects(t.Context(), connect.NewRequest(&operatorv1.ListEffectsRequest{Spec: "shop", Version: "2.1.0"}))
		if err != nil {
			return err
		}
		if list = res.Msg; len(list.GetEffects()) != 2 {
			return fmt.Errorf("%v", list)
		}
		return nil
	})
	seen := map[bool]*operatorv1.Effect{}
	for _, e := range list.GetEffects() {
		seen[e.GetRunning()] = e
		if e.GetTool() != "refund.issue" || e.GetClass() != "irreversible" || e.GetKey() != "r-17" || e.GetSource() != "guarded" || e.GetInstance() == "" {
			t.Errorf("%v", e)
		}
	}
	if seen[true].GetExecution() != running.id || seen[false].GetExecution() != done.id || seen[false].GetOutcome() != "success" || seen[false].GetExecutionKey() != "key-done" {
		t.Errorf("%v", list)
	}
	contains(t, g.ctl(0, nil, "effects", "shop", "--on", "2.1.0", "-o", "csv"), "class,tool,key", "irreversible,refund.issue,r-17", done.id, running.id)
	contains(t, g.ctl(0, nil, "postmortem", "show", "PM-1"), "| 2.1.0 | irreversible | 2 | 2 |", "specctl effects shop --on 2.1.0 -o csv")
	running.finish()
	runningCall.answer(http.StatusOK)
}

// TestAnIncompatibleExitIsRefusedAtDeployTime: a version that hands over, but not to the version that a rollback would go to, gets no traffic.
// Once it has some, a rollback to wherever is never refused for that.
func TestAnIncompatibleExitIsRefusedAtDeployTime(t *testing.T) {
	w := startPlane(t, nil)
	const handsOver = "effects: guarded\ndefault: {onRollback: handover, else: cancel}\ncompatibleWith: %q"
	w.publish("shop", "1.0.0", "default: {onRollback: cancel}")
	w.publish("shop", "2.0.0", fmt.Sprintf(handsOver, ">=1.0.0 <3.0.0"))
	w.publish("shop", "3.0.0", fmt.Sprintf(handsOver, ">=3.0.0"))
	deploy := func(version string) error {
		_, err := w.client.Deploy(t.Context(), connect.NewRequest(&operatorv1.DeployRequest{Refs: []*operatorv1.Ref{{Spec: "shop", Version: version}}, Now: true}))
		return err
	}
	for _, version := range []string{"1.0.0", "2.0.0"} {
		if err := deploy(version); err != nil {
			t.Fatal(err)
		}
	}
	err := deploy("3.0.0")
	if err == nil || !strings.Contains(err.Error(), "only to versions in \">=3.0.0\", and a rollback would go to 2.0.0") {
		t.Fatalf("deploy of 3.0.0: %v, want a refusal with its reason", err)
	}
	w.publish("shop", "2.1.0", fmt.Sprintf(handsOver, "~2.0"))
	if err := deploy("2.1.0"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Rollback(t.Context(), connect.NewRequest(&operatorv1.RollbackRequest{
		Targets: []*operatorv1.RollbackTarget{{Spec: "shop", To: "1.0.0"}}, Now: true,
	})); err != nil {
		t.Errorf("a rollback past what is compatible: %v", err)
	}
}

// What an execution did is told by the next process if the sidecar was killed between its end and its report; and how it ended.
func TestActsOfWhatSucceededSurviveAKill(t *testing.T) {
	w := startXDS(t)
	d, address, state := startDesk(t, "2.0.0"), freeAddress(t), t.TempDir()
	w.publish("shop", "2.0.0", guardedContract)
	sidecar := d.sidecar(w, "shop", "--listen", address, "--state-dir", state)
	w.ready("shop", "2.0.0", 1)
	w.deploy("shop", "2.0.0")
	j := d.job("paid")
	c := request(t, address, "shop.agents", "paid", "x")
	j.begins()
	if status, answer := j.act("irreversible"); status != http.StatusOK {
		t.Fatalf("%d %s", status, answer)
	}
	w.xds.kill() // nobody is there to be told
	j.finish()
	c.answer(http.StatusOK)
	sidecar.kill()
	w.restartXDS()
	w.connect()
	d.sidecar(w, "shop", "--listen", address, "--state-dir", state)
	eventually(t, "the act of an execution that had succeeded", func() error {
		res, err := w.client.ListEffects(t.Context(), connect.NewRequest(&operatorv1.ListEffectsRequest{Spec: "shop"}))
		if err != nil {
			return err
		}
		for _, e := range res.Msg.GetEffects() {
			if e.GetExecution() == j.id && e.GetKey() == "r-17" && e.GetOutcome() == "success" && !e.GetRunning() {
				return nil
			}
		}
		return fmt.Errorf("%v", res.Msg.GetEffects())
	})
}
