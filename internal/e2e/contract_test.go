package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
)

// guarded is a world with two guarded versions behind real sidecars and an Envoy, 2.1.0 deployed.
type guarded struct {
	*world
	good, bad *desk
	envoy     string
}

func startGuarded(t *testing.T) *guarded {
	t.Helper()
	w := startPlane(t, nil)
	g := &guarded{world: w, good: startDesk(t, "2.0.0"), bad: startDesk(t, "2.1.0")}
	for _, d := range []*desk{g.good, g.bad} {
		w.publish("shop", d.version, guardedContract)
		d.sidecar(w, "shop")
		w.ready("shop", d.version, 1)
		w.deploy("shop", d.version)
	}
	g.envoy = w.envoy("edge-1").Address
	return g
}

// begin sends a request through Envoy and waits until 2.1.0's agent has it.
func (g *guarded) begin(name, body string) (*job, *call) {
	g.t.Helper()
	j := g.bad.job(name)
	c := request(g.t, g.envoy, "shop.agents", name, body, "Idempotency-Key", "key-"+name)
	j.begins()
	return j, c
}

// byName finds an execution among those of 2.1.0, running or, with failed, to do again.
func (g *guarded) byName(failed bool) map[string]*operatorv1.Execution {
	g.t.Helper()
	res, err := g.client.ListExecutions(g.t.Context(), connect.NewRequest(&operatorv1.ListExecutionsRequest{Spec: "shop", Version: "2.1.0", Failed: failed}))
	if err != nil {
		g.t.Fatal(err)
	}
	out := map[string]*operatorv1.Execution{}
	for _, x := range res.Msg.GetExecutions() {
		out[strings.TrimPrefix(x.GetPath(), "/jobs/")] = x
	}
	return out
}

func TestContractSettlesEveryKindOfRunningExecution(t *testing.T) {
	g := startGuarded(t)
	large := strings.Repeat("twelve bytes", 40_000) // 480 KB: less than Envoy keeps of a body
	running := map[string]*job{}
	calls := map[string]*call{}
	for name, body := range map[string]string{
		"plain": "x", "handed": large, "cancelled": "x", "held": "x", "late": "x", "cancelled-paid": "x", "handed-read": "x",
	} {
		running[name], calls[name] = g.begin(name, body)
	}
	if status, answer := running["cancelled-paid"].act("irreversible"); status != http.StatusOK || !strings.Contains(answer, `"granted":true`) {
		t.Fatalf("before the decision: %d %s", status, answer)
	}
	if status, answer := running["handed-read"].act("readonly"); status != http.StatusOK {
		t.Fatalf("before the decision: %d %s", status, answer)
	}
	g.inFlight("shop", "2.1.0", len(running))
	g.rollback("shop")

	// Handed over: one answer, from the other version, and nothing of the body lost on the way.
	running["handed"].isCut()
	handed := calls["handed"].answer(http.StatusOK)
	if handed.body != "2.0.0 answers handed: "+large || handed.header.Get("X-Spec-Version") != "shop:2.0.0" {
		t.Errorf("handed over: %d bytes from %s", len(handed.body), handed.header.Get("X-Spec-Version"))
	}
	checkSignal(t, calls["cancelled"], running["cancelled"].id, "7", "none")
	checkSignal(t, calls["late"], running["late"].id, "3", "none")
	// Its rule names effects=none, so what has read goes on under the default.
	calls["handed-read"].open()
	g.refusesActs(running["cancelled"], running["handed"], running["late"])

	// What completes may still act; what is held is shown and never cut.
	if status, answer := running["plain"].act("irreversible"); status != http.StatusOK {
		t.Errorf("an execution that completes asked to act: %d %s", status, answer)
	}
	eventually(t, "held execution", func() error {
		if x := g.byName(false)["held"]; x.GetDisposition() != "hold" {
			return fmt.Errorf("%v", x)
		}
		return nil
	})
	g.inFlight("shop", "2.1.0", 4)
	now := g.byName(false)
	for _, name := range []string{"plain", "cancelled-paid", "handed-read"} {
		if x := now[name]; x.GetDisposition() != "complete" || x.GetWhy() == "" || x.GetId() != running[name].id {
			t.Errorf("%s: %v", name, x)
		}
	}
	for _, name := range []string{"plain", "cancelled-paid", "handed-read"} {
		running[name].finish()
		if c := calls[name].answer(http.StatusOK, "2.1.0 answers "+name); c.header.Get("X-Spec-Version") != "shop:2.1.0" {
			t.Errorf("%s: answered by %s", name, c.header.Get("X-Spec-Version"))
		}
	}
	g.awaitDrain("held")
	contains(t, g.ctl(0, nil, "get", "shop"), "shop:2.1.0: 1 held for a person to look at", "next: specctl executions shop --on 2.1.0")
	contains(t, g.ctl(0, nil, "executions", "shop", "--on", "2.1.0"), "hold", running["held"].id)
	calls["held"].open()
	running["held"].finish()
	calls["held"].answer(http.StatusOK, "2.1.0 answers held")
	g.awaitDrain("drained")
	g.checkSettled(running)
}

// checkSignal checks the retry signal: status, every header, and the document.
func checkSignal(t *testing.T, c *call, execution, retryAfter, effects string) {
	t.Helper()
	c.answer(http.StatusServiceUnavailable)
	for name, want := range map[string]string{
		"Retry-After": retryAfter, "Retry-After-Ms": retryAfter + "000", "X-Should-Retry": "true", "X-Spec-Rollback": "from=2.1.0, to=2.0.0, effects=" + effects,
		"Content-Type": "application/problem+json", "Cache-Control": "no-store", "X-Spec-Version": "shop:2.1.0", "X-Execution-Id": execution, "X-Spec-Pin": "",
	} {
		if got := c.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	var problem struct {
		Type, Code, Spec, From, To, Effects, Execution, PostMortem, Why string
		Status                                                          int
		Retry                                                           bool
	}
	if err := json.Unmarshal([]byte(c.body), &problem); err != nil {
		t.Fatalf("problem document %q: %v", c.body, err)
	}
	if problem.Status != 503 || problem.Code != "SPEC_VERSION_ROLLED_BACK" || problem.From != "2.1.0" || problem.To != "2.0.0" || !problem.Retry ||
		problem.Effects != effects || problem.Execution != execution || problem.PostMortem != "PM-1" || problem.Why == "" {
		t.Errorf("problem document %+v", problem)
	}
}

// refusesActs checks that an agent that did not hear it was cut is not let act any more.
func (g *guarded) refusesActs(jobs ...*job) {
	g.t.Helper()
	for _, j := range jobs {
		j.isCut()
		if status, answer := j.act("irreversible"); status < 400 || !strings.Contains(answer, `"granted":false`) {
			g.t.Errorf("after the decision: %d %s", status, answer)
		}
	}
}

// awaitDrain waits for the state of 2.1.0's drain.
func (g *guarded) awaitDrain(state string) {
	g.t.Helper()
	eventually(g.t, "drain that is "+state, func() error {
		if d := g.spec("shop").GetDrains(); len(d) != 1 || d[0].GetState() != state {
			return fmt.Errorf("%v", d)
		}
		return nil
	})
}

// checkSettled checks what the record says became of the executions.
func (g *guarded) checkSettled(running map[string]*job) {
	g.t.Helper()
	var rb postmortem.Rollback
	eventually(g.t, "record of the effect", func() error {
		if rb = g.record("PM-1").Rollbacks[0]; rb.Effect == nil {
			return errors.New("none")
		}
		return nil
	})
	planned := map[string]int{}
	for _, p := range rb.Plans {
		planned[p.Rule+": "+string(p.Disposition)] += p.Executions
	}
	want := map[string]int{
		"default: complete": 2, "rule 1: path=/jobs/held: complete": 1, "rule 2: path=/jobs/late*: complete": 1, "rule 3: effects=irreversible: complete": 1,
		"rule 4: path=/jobs/cancelled*: cancel": 1, "rule 5: effects=none, path=/jobs/handed*: handover": 1,
	}
	if fmt.Sprint(planned) != fmt.Sprint(want) {
		g.t.Errorf("plans %v, want %v", planned, want)
	}
	if got := rb.Abandoned[0].Settled; got.State != drain.Drained || got.Counts != (drain.Counts{Completed: 4, HandedOver: 1, Cancelled: 2}) {
		g.t.Errorf("settled %+v, want 4 completed, 1 handed over, 2 cancelled, none held any more", got)
	}
	g.toRedo("PM-1", 2)
	failed := g.byName(true)
	if len(failed) != 2 || failed["late"].GetKey() != "key-late" || failed["cancelled"].GetKey() != "key-cancelled" ||
		failed["late"].GetId() != running["late"].id || failed["cancelled"].GetDisposition() != "cancel" || failed["cancelled"].GetStatus() != 503 {
		g.t.Errorf("to do again: %v", failed)
	}
	if status := rb.Effect; status == nil || status.By == "" || status.Proxies != 1 {
		g.t.Errorf("effect %+v", status)
	}
}

// TestGuardAndRollbackNeverBothHaveAnExecution lets agents ask while the rollback comes: what was granted an irreversible act ends under
// 2.1.0, everything else is done by 2.0.0, and nothing by both.
func TestGuardAndRollbackNeverBothHaveAnExecution(t *testing.T) {
	g := startGuarded(t)
	const n = 24
	jobs, calls, granted := make([]*job, n), make([]*call, n), make([]bool, n)
	for i := range n {
		jobs[i], calls[i] = g.begin(fmt.Sprintf("handed-%d", i), "x")
	}
	ask := func(i int) {
		status, _ := jobs[i].act("irreversible")
		granted[i] = status == http.StatusOK
	}
	ask(0)
	var wg sync.WaitGroup
	for i := 1; i < n-1; i++ {
		wg.Go(func() {
			for range i { // spreads the questions over the time that the rollback takes
				jobs[i].desk.get("/v1/executions/" + jobs[i].id)
			}
			ask(i)
		})
	}
	g.rollback("shop")
	ask(n - 1)
	wg.Wait()
	under := map[bool]int{}
	for i := range n {
		jobs[i].finish()
		version := "2.0.0"
		if granted[i] {
			version = "2.1.0"
		}
		calls[i].answer(http.StatusOK, version+" answers")
		under[granted[i]]++
	}
	if under[true] == 0 || under[false] == 0 {
		t.Errorf("granted %d, refused %d: both must be seen", under[true], under[false])
	}
	t.Logf("granted %d, refused %d", under[true], under[false])
}
