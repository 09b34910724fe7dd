package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/drain"
)

// drains reads the drains of a spec, newest order first.
func (w *world) drains(spec string) []*operatorv1.Drain {
	w.t.Helper()
	res, err := w.client.ListDrains(w.t.Context(), connect.NewRequest(&operatorv1.ListDrainsRequest{Spec: spec}))
	if err != nil {
		w.t.Fatalf("drains of %s: %v", spec, err)
	}
	return res.Msg.GetDrains()
}

// drainOf waits until a version's drain is as check wants it.
func (w *world) drainOf(spec, version, what string, check func(*operatorv1.Drain) bool) *operatorv1.Drain {
	w.t.Helper()
	var found *operatorv1.Drain
	eventually(w.t, fmt.Sprintf("drain of %s:%s that %s", spec, version, what), func() error {
		for _, d := range w.drains(spec) {
			if d.GetVersion() == version && check(d) {
				found = d
				return nil
			}
		}
		return fmt.Errorf("%v", w.drains(spec))
	})
	return found
}

func inState(state string) func(*operatorv1.Drain) bool {
	return func(d *operatorv1.Drain) bool { return d.GetState() == state }
}

func TestPreviewSaysWhatTheRollbackThenDoes(t *testing.T) {
	g := startGuarded(t)
	names := []string{"plain", "handed", "cancelled", "held", "late"}
	jobs, calls := map[string]*job{}, map[string]*call{}
	for _, name := range names {
		jobs[name], calls[name] = g.begin(name, "x")
	}
	g.inFlight("shop", "2.1.0", len(names))
	// The sidecar tells of an execution when it has grown old enough, and of the end of its request after that: the preview is as good as what
	// was told.
	previewed := map[string]*operatorv1.PreviewedExecution{}
	eventually(t, "preview that knows everything", func() error {
		res, err := g.client.PreviewDrain(t.Context(), connect.NewRequest(&operatorv1.PreviewDrainRequest{Spec: "shop"}))
		if err != nil {
			return err
		}
		for _, p := range res.Msg.GetExecutions() {
			previewed[p.GetExecution().GetId()] = p
		}
		if c := res.Msg.GetChange(); len(previewed) != len(names) || res.Msg.GetUnseen() != 0 || !c.GetDryRun() || c.GetTarget() != "2.0.0" {
			return fmt.Errorf("preview of %d executions, %d unseen: %v", len(previewed), res.Msg.GetUnseen(), c)
		}
		for name, want := range map[string]string{"handed": "handover", "cancelled": "cancel", "late": "complete"} {
			if got := previewed[jobs[name].id].GetDisposition(); got != want {
				return fmt.Errorf("%s was previewed as %s, want %s", name, got, want)
			}
		}
		return nil
	})
	out := g.ctl(0, []string{"rollback of shop would abandon 2.1.0 for 2.0.0", "rule 4 (path=/jobs/cancelled*): cancel"}, "drain", "preview", "shop")
	contains(t, out, jobs["cancelled"].id, jobs["held"].id)
	if len(g.drains("shop")) > 1 || g.version("shop:2.1.0").GetStanding() == "quarantined" {
		t.Fatal("a preview changed something")
	}

	g.rollback("shop")
	calls["handed"].answer(http.StatusOK, "2.0.0 answers handed")
	calls["cancelled"].answer(http.StatusServiceUnavailable)
	calls["late"].answer(http.StatusServiceUnavailable)
	eventually(t, "decisions as previewed", func() error {
		now := g.byName(false)
		for _, name := range []string{"plain", "held"} {
			p, x := previewed[jobs[name].id], now[name]
			if held := name == "held" && x.GetDisposition() == "hold"; !held && x.GetDisposition() != p.GetDisposition() || !strings.HasPrefix(x.GetWhy(), p.GetWhy()) {
				return fmt.Errorf("%s: %s by %q, previewed %s by %q", name, x.GetDisposition(), x.GetWhy(), p.GetDisposition(), p.GetWhy())
			}
		}
		return nil
	})
	d := g.drainOf("shop", "2.1.0", "counted its hand-over at both ends", func(d *operatorv1.Drain) bool {
		return d.GetHandedOver() == 1 && d.GetArrived() == 1 && d.GetCancelled() == 2 && d.GetHeld() == 1 && strings.Contains(d.GetEtaUnknown(), "held")
	})
	if d.GetKind() != "rollback" || d.GetOldest().GetId() == "" || d.GetEta() != nil || d.GetDefaultWithin().AsDuration() <= 0 {
		t.Errorf("status %v", d)
	}
	g.ctl(0, []string{"shop:2.1.0 -> 2.0.0: rollback", "1 handed over (1 arrived), 2 cancelled", "ends", "not known: what is held waits for a person"}, "drain", "status", "shop")
	for _, name := range []string{"plain", "held"} {
		jobs[name].finish()
		calls[name].answer(http.StatusOK)
	}
	g.drainOf("shop", "2.1.0", "is drained", inState("drained"))
	if got := g.record("PM-1").Rollbacks[0].Abandoned[0].Settled; got == nil || got.Arrived != 1 || got.Counts.HandedOver != 1 {
		t.Errorf("the record says %+v", got)
	}
	contains(t, g.postmortem("PM-1").GetMarkdown(), "1 handed over to 2.0.0 (1 arrived there)")
}

// openContract gives no deadline, so that the pool's own durations do; they may be very short.
const openContract = `effects: guarded
default: {onRollback: complete}
defaultWithin: 1ms-20s`

func TestDefaultDeadlineIsTheSameWhereverItIsSaid(t *testing.T) {
	w := startPlane(t, nil)
	desks := map[string]*desk{}
	for _, version := range []string{"2.0.0", "2.1.0"} {
		d := startDesk(t, version)
		desks[version] = d
		w.publish("shop", version, openContract)
		d.sidecar(w, "shop")
		w.ready("shop", version, 1)
		w.deploy("shop", version)
	}
	g := &guarded{world: w, good: desks["2.0.0"], bad: desks["2.1.0"], envoy: w.envoy("edge-1").Address}
	job, call := g.begin("long", "x")
	g.inFlight("shop", "2.1.0", 1)
	dry := func() *operatorv1.Plan {
		res, err := w.client.Rollback(t.Context(), connect.NewRequest(&operatorv1.RollbackRequest{Targets: []*operatorv1.RollbackTarget{{Spec: "shop"}}, DryRun: true}))
		if err != nil || len(res.Msg.GetChanges()[0].GetPlans()) != 1 {
			t.Fatalf("%v, %v", res, err)
		}
		return res.Msg.GetChanges()[0].GetPlans()[0]
	}
	// Of a pool that has ended nothing nothing is known.
	if p := dry(); p.GetWithin().AsDuration() != 20*time.Second || p.GetThen() != "hold" || p.GetDisposition() != "complete" {
		t.Errorf("plan without a duration: %v", p)
	}
	for i := range 5 {
		request(t, g.envoy, "shop.agents", fmt.Sprint("short-", i), "x").answer(http.StatusOK)
	}
	eventually(t, "durations of what has ended", func() error {
		if v := g.version("shop:2.1.0").GetPool(); v.GetSucceeded() != 5 || v.GetInFlight() != 1 {
			return fmt.Errorf("%v", v)
		}
		return nil
	})
	plan := dry()
	within := plan.GetWithin().AsDuration()
	if within <= 0 || within > 20*time.Second {
		t.Fatalf("plan %v", plan)
	}
	words := "complete within " + drain.Duration(within).String() + ", then hold"
	preview, err := w.client.PreviewDrain(t.Context(), connect.NewRequest(&operatorv1.PreviewDrainRequest{Spec: "shop"}))
	if err != nil || len(preview.Msg.GetExecutions()) != 1 {
		t.Fatalf("%v, %v", preview, err)
	}
	p := preview.Msg.GetExecutions()[0]
	if p.GetThen() != "hold" || p.GetWhy() != "default: "+words {
		t.Errorf("preview %v, want %s", p, words)
	}
	g.ctl(0, []string{words}, "drain", "preview", "shop")
	w.rollback("shop")
	d := w.drainOf("shop", "2.1.0", "is held", inState("held"))
	if got := d.GetDefaultWithin().AsDuration(); got != within {
		t.Errorf("the order gives %s, the dry run said %s", got, within)
	}
	if x := g.byName(false)["long"]; x.GetDisposition() != "hold" || !strings.HasPrefix(x.GetWhy(), p.GetWhy()) {
		t.Errorf("%s by %q, previewed as %q", x.GetDisposition(), x.GetWhy(), p.GetWhy())
	}
	if got := g.record("PM-1").Rollbacks[0].Plans; len(got) != 1 || got[0].Within != within || got[0].Then != "hold" {
		t.Errorf("the record planned %+v", got)
	}
	contains(t, g.postmortem("PM-1").GetMarkdown(), words)
	job.finish()
	call.answer(http.StatusOK)
	w.drainOf("shop", "2.1.0", "is drained", inState("drained"))
}

func TestOperatorsDecideOverSingleExecutions(t *testing.T) {
	g := startGuarded(t)
	jobs, calls := map[string]*job{}, map[string]*call{}
	for _, name := range []string{"paid", "plain", "other", "held"} {
		jobs[name], calls[name] = g.begin(name, "x")
	}
	if status, answer := jobs["paid"].act("irreversible"); status != http.StatusOK {
		t.Fatalf("%d %s", status, answer)
	}
	g.inFlight("shop", "2.1.0", len(jobs))
	pin := request(t, g.envoy, "shop.agents", "nobody-prepared", "x").answer(http.StatusOK).header.Get("X-Spec-Pin")
	g.ctl(1, []string{"its version is not being drained"}, "execution", "complete", jobs["plain"].id, "--reason", "why not")
	g.rollback("shop")
	g.drainOf("shop", "2.1.0", "holds one", func(d *operatorv1.Drain) bool { return d.GetHeld() == 1 })
	// The pin of what drains goes on working; to new work it leads no more.
	for answer, header := range map[string][]string{"2.1.0 answers next": {"X-Execution-Id", jobs["held"].id}, "2.0.0 answers next": nil} {
		request(t, g.envoy, "shop.agents", "next", "x", append(header, "X-Spec-Pin", pin)...).answer(http.StatusOK, answer)
	}
	// Whoever takes over is told what waits for a person, what to redo and to undo, and when to wake somebody.
	g.left("shop", "wake someone: now, executions of 2.1.0 that are held and wait for a person: 1; specctl executions shop --on 2.1.0",
		"left: acts of 2.1.0 to look at, and to undo where they should not have been: 1; specctl effects shop --on 2.1.0 -o csv > undo.csv",
		"left: PM-1 asks: Why did the canary not catch it? specctl postmortem answer PM-1 --canary", "locked: shop:2.1.0 gets no new work until PM-1 is closed")
	// Nothing has ended yet, so no record is kept: what runs is shown all the same, each with its rule.
	g.ctl(0, []string{jobs["held"].id, "why: "}, "executions", "shop", "--decided")

	g.ctl(2, []string{"--reason is required"}, "execution", "cancel", jobs["plain"].id)
	g.ctl(1, []string{"is not running", "specctl executions SPEC"}, "execution", "cancel", "nobody", "--reason", "why not")
	g.ctl(1, []string{"known irreversible effect", "irreversible refund.issue r-17", "--despite-effects"}, "execution", "cancel", jobs["paid"].id, "--reason", "hangs")
	g.ctl(1, []string{"effects are irreversible"}, "execution", "handover", jobs["paid"].id, "--reason", "hangs", "--despite-effects")
	calls["paid"].open()

	g.ctl(0, []string{"done", "(PM-1)"}, "execution", "handover", jobs["plain"].id, "--reason", "do it under 2.0.0")
	calls["plain"].answer(http.StatusOK, "2.0.0 answers plain")
	g.ctl(0, []string{"done"}, "execution", "cancel", jobs["other"].id, "--reason", "customer hung up")
	calls["other"].answer(http.StatusServiceUnavailable)
	contains(t, calls["other"].body, "operator: ", "customer hung up")
	g.ctl(0, []string{"IN SPITE OF ITS EFFECTS (irreversible)"}, "execution", "cancel", jobs["paid"].id, "--reason", "paid by hand", "--despite-effects")
	// Its client is told not to repeat what has been done.
	calls["paid"].answer(http.StatusServiceUnavailable)
	if h := calls["paid"].header; h.Get("X-Should-Retry") != "false" || h.Get("X-Spec-Rollback") != "from=2.1.0, to=2.0.0, effects=irreversible" {
		t.Errorf("signal %v", h)
	}
	g.ctl(0, []string{"done"}, "execution", "complete", jobs["held"].id, "--reason", "I asked the team")
	d := g.drainOf("shop", "2.1.0", "holds nothing any more", func(d *operatorv1.Drain) bool { return d.GetHeld() == 0 && d.GetInFlight() == 1 })
	if len(d.GetInterventions()) != 4 {
		t.Errorf("interventions %v", d.GetInterventions())
	}
	jobs["held"].finish()
	calls["held"].answer(http.StatusOK, "2.1.0 answers held")
	g.drainOf("shop", "2.1.0", "is drained", inState("drained"))

	record := g.record("PM-1")
	if len(record.Interventions) != 4 {
		t.Fatalf("record %+v", record.Interventions)
	}
	for _, i := range record.Interventions {
		if i.Actor == "" || i.Reason == "" || i.Version != "2.1.0" || i.DespiteEffects != (i.Execution == jobs["paid"].id) || i.Refusal != "" {
			t.Errorf("%+v", i)
		}
	}
	contains(t, g.postmortem("PM-1").GetMarkdown(), "**INTERVENTION** IV-1", "IN SPITE OF WHAT IT HAD DONE", "paid by hand")
	g.ctl(0, []string{"IV-4", "complete " + jobs["held"].id}, "drain", "status", "shop")
}

// promotedContract hands over on a promotion what has done nothing, and lets it complete on the shutdown of an instance.
const promotedContract = `effects: guarded
default: {onRollback: cancel}
onPromote: {disposition: handover, else: complete}
onShutdown: {disposition: handover, else: complete}`

func TestPromotionSettlesByItsOwnSectionAndFencesNothing(t *testing.T) {
	w := startPlane(t, nil)
	good, bad := startDesk(t, "2.0.0"), startDesk(t, "2.1.0")
	for _, d := range []*desk{good, bad} {
		w.publish("shop", d.version, promotedContract)
		d.sidecar(w, "shop")
		w.ready("shop", d.version, 1)
	}
	w.deploy("shop", "2.0.0")
	envoy := w.envoy("edge-1").Address
	begin := func(name string) (*job, *call) {
		j := good.job(name)
		c := request(t, envoy, "shop.agents", name, "x")
		j.begins()
		return j, c
	}
	_, fresh := begin("fresh")
	acted, paid := begin("acted")
	acted.act("irreversible")
	pin := request(t, envoy, "shop.agents", "nobody-prepared", "x").answer(http.StatusOK).header.Get("X-Spec-Pin")
	w.inFlight("shop", "2.0.0", 2)

	w.deploy("shop", "2.1.0")
	fresh.answer(http.StatusOK, "2.1.0 answers fresh")
	paid.open()
	d := w.drainOf("shop", "2.0.0", "waits for what acted", func(d *operatorv1.Drain) bool {
		return d.GetState() == "draining" && d.GetSettling() == 1 && d.GetHandedOver() == 1 && d.GetArrived() == 1
	})
	if d.GetKind() != "promote" || d.GetPostmortem() != "" || d.GetAcked() != 1 {
		t.Errorf("drain %v", d)
	}
	if v := w.version("shop:2.0.0"); v.GetStanding() != "good" || v.GetPool().GetFenced() {
		t.Errorf("the replaced version is %s, fenced %v", v.GetStanding(), v.GetPool().GetFenced())
	}
	// What is pinned to it goes on, and does not keep the drain from its end.
	pinned := good.job("pinned")
	later := request(t, envoy, "shop.agents", "pinned", "x", "X-Spec-Pin", pin)
	pinned.begins()
	acted.finish()
	paid.answer(http.StatusOK, "2.0.0 answers acted")
	w.drainOf("shop", "2.0.0", "is drained", inState("drained"))
	// By what each was decided stays readable.
	eventually(t, "the rules that decided", func() error {
		res, err := w.client.ListExecutions(t.Context(), connect.NewRequest(&operatorv1.ListExecutionsRequest{Spec: "shop", Version: "2.0.0", Decided: true}))
		if err != nil {
			return err
		}
		whys := map[string]string{}
		for _, x := range res.Msg.GetExecutions() {
			whys[x.GetPath()] = x.GetDisposition() + " by " + x.GetWhy()
		}
		if len(whys) != 2 || whys["/jobs/fresh"] != "handover by onPromote: handover to 2.1.0" || !strings.HasPrefix(whys["/jobs/acted"], "complete by onPromote: handover is impossible") {
			return fmt.Errorf("%q", whys)
		}
		return nil
	})
	w.ctl(0, []string{"onPromote: handover to 2.1.0"}, "executions", "shop", "--decided")
	later.open()
	// And a rollback finds it open.
	w.rollback("shop")
	pinned.finish()
	later.answer(http.StatusOK, "2.0.0 answers pinned")
	w.drainOf("shop", "2.0.0", "is superseded", inState("superseded"))
	request(t, envoy, "shop.agents", "again", "x").answer(http.StatusOK, "2.0.0 answers again")
}

// shutdownOf waits until the record of an instance's shutdown is as check wants it.
func (w *world) shutdownOf(spec, what string, check func(*operatorv1.Drain) bool) *operatorv1.Drain {
	w.t.Helper()
	return w.drainOf(spec, "2.0.0", what, func(d *operatorv1.Drain) bool { return d.GetKind() == "shutdown" && check(d) })
}

func TestShutdownHandsOverToAnotherInstance(t *testing.T) {
	w := startXDS(t)
	w.publish("shop", "2.0.0", promotedContract)
	first, second := startDesk(t, "2.0.0"), startDesk(t, "2.0.0")
	address := freeAddress(t)
	leaving := first.sidecar(w, "shop", "--instance", "first", "--listen", address)
	w.ready("shop", "2.0.0", 1)
	w.deploy("shop", "2.0.0")
	envoy := w.envoy("edge-1").Address
	begin := func(name, through string) (*job, *call) {
		j := first.job(name)
		c := request(t, through, "shop.agents", name, "x")
		j.begins()
		return j, c
	}
	_, fresh := begin("fresh", envoy)
	_, direct := begin("direct", address) // no proxy would follow a redirect of it: it is forwarded
	acted, paid := begin("acted", envoy)
	acted.act("irreversible")
	second.sidecar(w, "shop")
	w.ready("shop", "2.0.0", 2)
	again, forwarded := second.job("fresh"), second.job("direct")
	leaving.terminate()
	again.begins()
	forwarded.begins()
	d := w.shutdownOf("shop", "waits for what acted", func(d *operatorv1.Drain) bool {
		return d.GetState() == "draining" && d.GetInFlight() == 1 && d.GetHandedOver() == 2 && d.GetArrived() == 2 && d.GetOldest().GetId() == acted.id
	})
	if d.GetInstance() != "first" || d.GetTarget() != "2.0.0" || d.GetAcked() != 1 || d.GetEtaUnknown() == "" {
		t.Errorf("drain %v", d)
	}
	w.ctl(0, []string{"instance first of shop:2.0.0 -> 2.0.0: shutdown draining, 1 running", "2 handed over (2 arrived)"}, "drain", "status")
	again.finish()
	forwarded.finish()
	fresh.answer(http.StatusOK, "2.0.0 answers fresh")
	direct.answer(http.StatusOK, "2.0.0 answers direct")
	paid.open()
	acted.finish()
	paid.answer(http.StatusOK, "2.0.0 answers acted")
	await(t, "end of the sidecar", leaving.done)
	ended := func(d *operatorv1.Drain) bool {
		return d.GetState() == "drained" && d.GetCompleted() == 1 && d.GetHandedOver() == 2 && d.GetArrived() == 2 && d.GetLost() == 0
	}
	w.shutdownOf("shop", "has ended", ended)
	w.ctl(0, []string{"nothing drains"}, "drain", "status")
	// The record outlives the instance, and the control plane's memory.
	w.xds.kill()
	w.restartXDS()
	w.connect()
	w.shutdownOf("shop", "has ended, after a restart", ended)
}

func TestShutdownOfTheLastInstanceCutsAtTheDrainTimeout(t *testing.T) {
	w := startPlane(t, nil)
	w.publish("shop", "2.0.0", promotedContract)
	desk := startDesk(t, "2.0.0")
	leaving := desk.sidecar(w, "shop", "--instance", "last", "--drain-timeout", "300ms")
	w.ready("shop", "2.0.0", 1)
	w.deploy("shop", "2.0.0")
	envoy := w.envoy("edge-1").Address
	job := desk.job("fresh")
	call := request(t, envoy, "shop.agents", "fresh", "x")
	job.begins()
	leaving.terminate()
	call.answer(http.StatusServiceUnavailable, "its drain timeout of 300ms has passed") // and no hand-over to nobody
	await(t, "end of the sidecar", leaving.done)
	w.shutdownOf("shop", "has ended", func(d *operatorv1.Drain) bool {
		return d.GetState() == "drained" && d.GetCancelled() == 1 && d.GetHandedOver() == 0 && d.GetCompleted() == 0
	})
	var why string
	eventually(t, "the record of what was cut", func() error {
		res, err := w.client.ListExecutions(t.Context(), connect.NewRequest(&operatorv1.ListExecutionsRequest{Spec: "shop", Version: "2.0.0", Failed: true}))
		if err != nil {
			return err
		}
		if n := len(res.Msg.GetExecutions()); n != 1 {
			return fmt.Errorf("%d executions are listed, want 1", n)
		}
		why = res.Msg.GetExecutions()[0].GetWhy()
		return nil
	})
	contains(t, why, "onShutdown: handover is impossible (no other instance of 2.0.0 is ready), so complete", "its drain timeout of 300ms has passed: cancel")
}

func TestCountsOutliveInstancesAndTheControlPlane(t *testing.T) {
	w := startXDS(t)
	good, bad, other := startDesk(t, "2.0.0"), startDesk(t, "2.1.0"), startDesk(t, "2.1.0")
	at := map[*desk]string{good: freeAddress(t), bad: freeAddress(t)}
	sidecars := map[*desk]*process{}
	for _, d := range []*desk{good, bad} {
		w.publish("shop", d.version, guardedContract)
		sidecars[d] = d.sidecar(w, "shop", "--listen", at[d])
		w.ready("shop", d.version, 1)
		w.deploy("shop", d.version)
	}
	begin := func(d *desk, name, through string) (*job, *call) {
		j := d.job(name)
		c := request(t, through, "shop.agents", name, "x")
		j.begins()
		return j, c
	}
	_, cancelled := begin(bad, "cancelled", at[bad])
	_, handed := begin(bad, "handed", at[bad])
	otherAt := freeAddress(t)
	other.sidecar(w, "shop", "--listen", otherAt)
	w.ready("shop", "2.1.0", 2)
	plain, runs := begin(other, "plain", otherAt)
	w.inFlight("shop", "2.1.0", 3)
	arrived := good.job("handed")
	w.rollback("shop")
	cancelled.answer(http.StatusServiceUnavailable)
	arrived.begins()
	arrived.finish()
	handed.answer(http.StatusOK, "2.0.0 answers handed")
	counted := func(d *operatorv1.Drain) bool {
		return d.GetInFlight() == 1 && d.GetCancelled() == 1 && d.GetHandedOver() == 1 && d.GetArrived() == 1
	}
	w.drainOf("shop", "2.1.0", "counted both", counted)
	w.xds.terminate() // it stores what it counted; else that takes a second
	await(t, "end of xds", w.xds.done)
	sidecars[bad].kill()
	sidecars[good].kill()
	w.restartXDS()
	w.connect()
	// Whoever takes the address of an instance says that it is gone.
	good.sidecar(w, "shop", "--listen", at[good])
	bad.sidecar(w, "shop", "--listen", at[bad])
	w.drainOf("shop", "2.1.0", "still knows", func(d *operatorv1.Drain) bool { return d.GetAcked() == 2 && d.GetInstances() == 2 && counted(d) })
	runs.open()
	plain.finish()
	runs.answer(http.StatusOK)
	d := w.drainOf("shop", "2.1.0", "is drained", inState("drained"))
	if d.GetCompleted() != 1 || d.GetCancelled() != 1 || d.GetHandedOver() != 1 || d.GetArrived() != 1 {
		t.Errorf("drain %v", d)
	}
}

func TestDrainGoesOnAfterARestartOfTheControlPlane(t *testing.T) {
	w := startXDS(t)
	good, bad := startDesk(t, "2.0.0"), startDesk(t, "2.1.0")
	for _, d := range []*desk{good, bad} {
		w.publish("shop", d.version, guardedContract)
		d.sidecar(w, "shop")
		w.ready("shop", d.version, 1)
		w.deploy("shop", d.version)
	}
	g := &guarded{world: w, good: good, bad: bad, envoy: w.envoy("edge-1").Address}
	jobs, calls := map[string]*job{}, map[string]*call{}
	for _, name := range []string{"plain", "cancelled", "gone"} {
		jobs[name], calls[name] = g.begin(name, "x")
	}
	g.inFlight("shop", "2.1.0", len(jobs))
	w.rollback("shop")
	calls["cancelled"].answer(http.StatusServiceUnavailable)
	w.drainOf("shop", "2.1.0", "is draining", inState("draining"))
	w.xds.kill()
	// What ends meanwhile is told afterwards.
	jobs["gone"].finish()
	calls["gone"].answer(http.StatusOK)
	w.restartXDS()
	w.connect()
	d := w.drainOf("shop", "2.1.0", "waits for one", func(d *operatorv1.Drain) bool {
		return d.GetState() == "draining" && d.GetInFlight() == 1 && d.GetCompleted() == 1 && d.GetCancelled() == 1
	})
	if d.GetPostmortem() != "PM-1" || d.GetTarget() != "2.0.0" {
		t.Errorf("drain %v", d)
	}
	calls["plain"].open()
	jobs["plain"].finish()
	calls["plain"].answer(http.StatusOK, "2.1.0 answers plain")
	w.drainOf("shop", "2.1.0", "is drained", inState("drained"))
	if got := w.record("PM-1").Rollbacks[0].Abandoned[0].Settled; got == nil || got.Counts.Completed != 2 || got.Counts.Cancelled != 1 {
		t.Errorf("the record says %+v", got)
	}
}

func TestRollForwardDuringADrainSupersedesIt(t *testing.T) {
	g := startGuarded(t)
	plain, call := g.begin("plain", "x")
	late, soon := g.begin("held", "x")
	_, gone := g.begin("cancelled", "x")
	g.inFlight("shop", "2.1.0", 3)
	g.rollback("shop")
	gone.answer(http.StatusServiceUnavailable)
	g.drainOf("shop", "2.1.0", "holds one and has cut one", func(d *operatorv1.Drain) bool { return d.GetHeld() == 1 && d.GetCancelled() == 1 })
	g.ctl(0, []string{"2.1.0"}, "rollback", "--undo", "PM-1", "--reason", "false alarm")
	if d := g.drainOf("shop", "2.1.0", "is cancelled", inState("cancelled")); d.GetCancelled() != 1 || len(d.GetLaggards()) != 0 || d.GetOldest() != nil {
		t.Errorf("the drain that was taken back says %v", d)
	}
	// Its fence is down, what runs stays, and nothing is held any more.
	request(t, g.envoy, "shop.agents", "fresh", "x").answer(http.StatusOK, "2.1.0 answers fresh")
	eventually(t, "executions without an order", func() error {
		if v := g.version("shop:2.1.0").GetPool(); v.GetHeld() != 0 || v.GetInFlight() != 2 || v.GetFenced() {
			return fmt.Errorf("%v", v)
		}
		return nil
	})
	// A new rollback decides anew.
	g.rollback("shop")
	g.drainOf("shop", "2.1.0", "holds one again", func(d *operatorv1.Drain) bool { return d.GetHeld() == 1 && d.GetPostmortem() == "PM-2" })
	plain.finish()
	late.finish()
	call.answer(http.StatusOK, "2.1.0 answers plain")
	soon.answer(http.StatusOK, "2.1.0 answers held")
	g.drainOf("shop", "2.1.0", "is drained", inState("drained"))
}

func TestChainOfRollbacksEndsOnTheFinalTarget(t *testing.T) {
	w := startPlane(t, nil)
	desks := map[string]*desk{}
	var envoy string
	for _, version := range []string{"2.0.0", "2.1.0", "2.2.0"} {
		d := startDesk(t, version)
		desks[version] = d
		w.publish("shop", version, guardedContract)
		d.sidecar(w, "shop")
		w.ready("shop", version, 1)
		w.deploy("shop", version)
	}
	envoy = w.envoy("edge-1").Address
	plain := desks["2.2.0"].job("plain")
	call := request(t, envoy, "shop.agents", "plain", "the body", "Idempotency-Key", "key-1")
	plain.begins()
	pin := request(t, envoy, "shop.agents", "early", "x").answer(http.StatusOK).header.Get("X-Spec-Pin")
	w.inFlight("shop", "2.2.0", 1)
	for _, from := range []string{"2.2.0", "2.1.0"} {
		res, err := w.rollbackOf(&operatorv1.RollbackTarget{Spec: "shop", From: from})
		if err != nil {
			t.Fatal(err)
		}
		w.effective("shop", res.GetGeneration())
	}
	if got := w.weights("shop"); got != "2.0.0=10000" {
		t.Fatalf("traffic %s", got)
	}
	// Neither new work nor a hand-over stops at 2.1.0, which is abandoned itself.
	eventually(t, "new work on the final target", func() error {
		if c := request(t, envoy, "shop.agents", "new", "x", "X-Spec-Pin", pin).answer(http.StatusOK); c.header.Get("X-Spec-Version") != "shop:2.0.0" {
			return fmt.Errorf("answered by %s", c.header.Get("X-Spec-Version"))
		}
		return nil
	})
	w.ctl(0, []string{"shop:2.2.0 -> 2.1.0: ", "now to: 2.0.0, since 2.1.0 was abandoned too"}, "drain", "status", "shop")
	arrived := desks["2.0.0"].job("plain")
	w.ctl(0, []string{"done"}, "execution", "handover", plain.id, "--reason", "finish it where it is right")
	arrived.begins()
	arrived.finish()
	if c := call.answer(http.StatusOK, "2.0.0 answers plain: the body"); c.header.Get("X-Spec-Version") != "shop:2.0.0" {
		t.Errorf("answered by %s", c.header.Get("X-Spec-Version"))
	}
	w.drainOf("shop", "2.2.0", "counted its hand-over at both ends", func(d *operatorv1.Drain) bool {
		return d.GetState() == "drained" && d.GetHandedOver() == 1 && d.GetArrived() == 1
	})
	if got := w.version("shop:2.1.0").GetPool(); got.GetHandedOver() != 0 || got.GetInFlight() != 0 {
		t.Errorf("2.1.0 saw the hand-over: %v", got)
	}
}
