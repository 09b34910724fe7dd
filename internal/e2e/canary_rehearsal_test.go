package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/loopback"
)

const oneManualStep = "rollout: {steps: [{weight: 10%, until: manual}]}"

// Before a canary gets traffic, synthetic executions go to it and back through every Envoy, one that has never heard of the spec too; what that took is
// kept with the rollout and shown. No agent sees one, no client can have the route, and a return to an older version rehearses nothing.
func TestTheWayBackIsRehearsed(t *testing.T) {
	w := startPlane(t, nil)
	canaries(t, w, map[string]int64{"1.0.0": 0})
	silent := watchful(t)
	w.publish("refunds", "1.1.0", canaryContract, oneManualStep)
	w.sidecar("refunds:1.1.0", silent.URL)
	w.ready("refunds", "1.1.0", 1)
	reached := envoytest.Start(t, envoytest.Config{Node: "edge-2", Listen: freeAddress(t), Servers: []string{w.grpc}})
	out, code := w.specctl("deploy", "refunds:1.1.0", "--impossible")
	if code != 0 || !strings.Contains(out, "this deploy can be undone in ") || !strings.Contains(out, "as rehearsed at 2 proxies") || !strings.Contains(out, "refunds: deploy") {
		t.Fatalf("exit %d:\n%s", code, out)
	}
	r := w.phase("refunds", "stepping")
	h := r.GetRehearsal()
	if r.GetWeight() != 1000 || h.GetUndo().AsDuration() <= 0 || len(h.GetProxies()) != 2 || h.GetEndedAt() == nil {
		t.Fatalf("%v", r)
	}
	nodes := map[string]bool{}
	for _, p := range h.GetProxies() {
		nodes[p.GetNode()] = true
		// The first was told to listen on any port, so nobody can send executions through it.
		if through := p.GetNode() == "edge-2"; p.GetThere() == nil || p.GetAcked() == nil || (p.GetSeen() != nil) != through || (p.GetNote() == "") != through {
			t.Errorf("%v", p)
		}
		if max(p.GetAcked().AsDuration(), p.GetSeen().AsDuration()) > h.GetUndo().AsDuration() {
			t.Errorf("%v took longer than the whole: %v", p, h.GetUndo().AsDuration())
		}
	}
	if !nodes["edge"] || !nodes["edge-2"] {
		t.Errorf("rehearsed at %v", nodes)
	}
	// A client that knows the path is told the version, as by any answer; it cannot pretend to be a rehearsal.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+reached.Address+"/.well-known/specproxy/rehearsal", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "refunds.agents"
	req.Header.Set("X-Spec-Rehearsal", "2")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNoContent || res.Header.Get("X-Spec-Version") == "" || res.Header.Get("X-Spec-Rehearsal") != "" {
		t.Errorf("a client is answered %s, %v", res.Status, res.Header)
	}
	for _, args := range [][]string{{"canary", "status", "refunds"}, {"get", "refunds", "-o", "json"}, {"get", "refunds"}} {
		if out, code := w.specctl(args...); code != 0 || !strings.Contains(out, "this deploy can be undone in ") {
			t.Errorf("specctl %v: exit %d\n%s", args, code, out)
		}
	}
	w.rollback("refunds")
	eventually(t, "the rehearsed time beside the real one", func() error {
		if out, code := w.specctl("postmortem", "show", "PM-1"); code != 0 || !strings.Contains(out, "this deploy can be undone in ") || !strings.Contains(out, "it was proven after") {
			return fmt.Errorf("exit %d:\n%s", code, out)
		}
		return nil
	})
	if kept := w.phase("refunds", "aborted").GetRehearsal(); kept.GetUndo().AsDuration() != h.GetUndo().AsDuration() {
		t.Errorf("it became %v", kept)
	}
	// Going back needs no rehearsal, and has none.
	w.publish("refunds", "1.2.0", canaryContract)
	w.sidecar("refunds:1.2.0", silent.URL)
	w.ready("refunds", "1.2.0", 1)
	if out, code := w.specctl("deploy", "refunds:1.2.0"); code != 0 {
		t.Fatalf("exit %d:\n%s", code, out)
	}
	back, err := w.rollouts.StartRollout(t.Context(), connect.NewRequest(&operatorv1.StartRolloutRequest{Spec: "refunds", Version: "1.0.0", Reason: "back"}))
	if err != nil || back.Msg.GetRollout() != nil || back.Msg.GetChange().GetKind() != "rollback" {
		t.Errorf("a return to an older version: %v, %v", back, err)
	}
}

// An Envoy that does not answer refuses the deploy by its name, and nothing has taken traffic; a rollback meanwhile is as immediate as ever, and takes the
// rehearsal away. In an emergency a person may go by it, with a reason.
func TestABlackHoledEnvoyRefusesTheDeploy(t *testing.T) {
	t.Parallel() // it mostly waits
	w := startPlane(t, nil)
	for _, version := range []string{"0.9.0", "1.0.0"} {
		w.publish("refunds", version, canaryContract)
		w.sidecar("refunds:"+version, failing(t, 0).URL)
		w.ready("refunds", version, 1)
		w.deploy("refunds", version)
	}
	w.publish("refunds", "1.1.0", canaryContract, oneManualStep)
	w.sidecar("refunds:1.1.0", failing(t, 0).URL)
	w.ready("refunds", "1.1.0", 1)
	hole := w.envoy("edge-2")
	for _, e := range []*envoytest.Envoy{w.envoy("edge-1"), hole} {
		answers(t, e, "refunds", "done\n")
	}
	before := w.spec("refunds").GetGeneration()
	if err := syscall.Kill(hole.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	out, code := w.specctl("deploy", "refunds:1.1.0", "--impossible")
	if code != 1 || !strings.Contains(out, "refunds:1.1.0 gets no traffic: its way back is not proven") || !strings.Contains(out, "proxy edge-2: ") ||
		strings.Contains(out, "proxy edge-1") || !strings.Contains(out, "specctl proxies") || !strings.Contains(out, "--no-rehearsal --reason") {
		t.Fatalf("exit %d:\n%s", code, out)
	}
	if r := w.phase("refunds", "refused"); r.GetWeight() != 0 || r.GetRehearsal().GetUndo() != nil || len(r.GetRehearsal().GetFailures()) == 0 {
		t.Errorf("%v", r)
	}
	if now := w.spec("refunds").GetGeneration(); now != before {
		t.Errorf("a refused deploy made generation %d", now)
	}
	// A rollback while it is rehearsed.
	deployed := make(chan string, 1)
	go func() {
		out, code := w.specctl("deploy", "refunds:1.1.0", "--impossible")
		deployed <- fmt.Sprintf("exit %d: %s", code, out)
	}()
	w.phase("refunds", "rehearsing")
	// It does not wait for the rehearsal, which would be refused then.
	if out, code := w.specctl("rollback", "refunds", "--to", "0.9.0", "--timeout", "1ms"); code != 0 && code != 3 {
		t.Fatalf("exit %d:\n%s", code, out)
	}
	w.phase("refunds", "superseded")
	if out := <-deployed; !strings.Contains(out, "exit 1") || !strings.Contains(out, "its rollout is superseded") {
		t.Errorf("%s", out)
	}
	if out, code := w.specctl("deploy", "refunds:1.1.0", "--impossible", "--no-rehearsal"); code != 1 || !strings.Contains(out, "needs a reason") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if out, code := w.specctl("deploy", "refunds:1.1.0", "--impossible", "--no-rehearsal", "--reason", "edge-2 burns", "--timeout", "1ms"); code != 3 || !strings.Contains(out, "not rehearsed, by ") || !strings.Contains(out, "edge-2 burns") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if r := w.phase("refunds", "stepping"); r.GetRehearsal().GetSkipped() != "edge-2 burns" || !strings.Contains(r.GetHistory()[0].GetWhy(), "NOT REHEARSED") {
		t.Errorf("%v", r)
	}
}

// The leader is killed while one Envoy keeps the rehearsal waiting. Its successor rehearses anew, with the Envoys of all replicas, and who asked for the
// deploy at the other replica is told; no Envoy keeps a trace.
func TestTheNextLeaderRehearsesAnew(t *testing.T) {
	r := startReplicas(t, "a", "b")
	leader, other := r.leader("a", 2), "a"
	if leader == "a" {
		other = "b"
	}
	first, w := r.all[leader], r.all[other]
	for _, version := range []string{"1.0.0", "1.1.0", "1.2.0"} {
		w.publish("refunds", version, canaryContract)
		w.sidecarVia(w.grpc+","+first.grpc, "refunds:"+version, failing(t, 0).URL)
		w.ready("refunds", version, 1)
		first.ready("refunds", version, 1)
	}
	w.deploy("refunds", "1.0.0")
	edges := []*envoytest.Envoy{
		envoytest.Start(t, envoytest.Config{Node: "edge-both", Listen: freeAddress(t), Servers: []string{first.grpc, w.grpc}}),
		envoytest.Start(t, envoytest.Config{Node: "edge-other", Listen: freeAddress(t), Servers: []string{w.grpc}}),
	}
	for _, e := range edges {
		answers(t, e, "refunds", "done\n")
	}
	rehearsed := func() {
		t.Helper()
		if h := w.phase("refunds", "stepping").GetRehearsal(); h.GetUndo() == nil || len(h.GetProxies()) != 2 || h.GetProxies()[0].GetSeen() == nil || h.GetProxies()[1].GetSeen() == nil {
			t.Errorf("%v", h)
		}
	}
	manual := &operatorv1.RolloutPlan{Steps: []*operatorv1.RolloutStep{{Weight: 1000, Until: "manual"}}}
	start := func(version string) error {
		_, err := w.rollouts.StartRollout(t.Context(), connect.NewRequest(&operatorv1.StartRolloutRequest{Spec: "refunds", Version: version, Plan: manual, Impossible: true}))
		return err
	}
	if err := start("1.1.0"); err != nil {
		t.Fatal(err)
	}
	rehearsed()
	// No client came, and synthetic executions count nowhere.
	if p := w.version("refunds:1.1.0").GetPool(); p.GetSucceeded()+p.GetFailed()+p.GetUnknown()+p.GetInFlight() != 0 {
		t.Errorf("the rehearsal counts: %v", p)
	}
	w.rollback("refunds")

	if err := syscall.Kill(edges[1].PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	deployed := make(chan error, 1)
	go func() { deployed <- start("1.2.0") }()
	w.phase("refunds", "rehearsing")
	eventually(t, "a round of the rehearsal at the Envoy that answers", func() error { return traces(t, edges[0], true) })
	first.xds.kill()
	if err := syscall.Kill(edges[1].PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := <-deployed; err != nil {
		t.Fatalf("the deploy: %v", err)
	}
	if r := w.phase("refunds", "stepping"); r.GetCanary() != "1.2.0" {
		t.Errorf("%v", r)
	}
	rehearsed()
	for _, e := range edges {
		eventually(t, "no trace at "+e.Node, func() error { return traces(t, e, false) })
	}
}

// watchful is an agent that must not see what only its sidecar is to see.
func watchful(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "rehearsal") {
			t.Errorf("the agent was sent %s %s", r.Method, r.URL)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Spec-Outcome", "success")
	}))
	t.Cleanup(s.Close)
	return s
}

// traces says whether an Envoy has the route of a rehearsal, as it should or should not.
func traces(t *testing.T, e *envoytest.Envoy, want bool) error {
	t.Helper()
	dump, err := e.Get(t.Context(), "/config_dump")
	if err != nil {
		return err
	}
	if has := strings.Contains(string(dump), "x-spec-rehearsal"); has != want {
		return fmt.Errorf("the rehearsal's route is there: %t", has)
	}
	return nil
}

// Without a proxy nobody can say how executions come back, so nothing is proven; and a stable pool of which most instances are away could not take
// them back. Once there is a proxy and the pool is whole again the same deploy goes through.
func TestARehearsalWantsAProxyAndAWarmPool(t *testing.T) {
	t.Parallel() // it mostly waits
	w := startPlane(t, nil)
	w.publish("refunds", "1.0.0", canaryContract)
	w.publish("refunds", "1.1.0", canaryContract, oneManualStep)
	agent := failing(t, 0).URL
	for _, version := range []string{"1.0.0", "1.1.0"} {
		w.sidecar("refunds:"+version, agent)
		w.ready("refunds", version, 1)
	}
	w.deploy("refunds", "1.0.0")
	nobody, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	deploy := func(code int, parts ...string) {
		t.Helper()
		out, got := w.specctl("deploy", "refunds:1.1.0", "--impossible", "--reason", "try")
		if got != code {
			t.Errorf("exit %d, want %d", got, code)
		}
		contains(t, out, parts...)
	}
	waiting := []*process{w.sidecar("refunds:1.0.0", "http://"+nobody), w.sidecar("refunds:1.0.0", "http://"+nobody)}
	eventually(t, "two instances that wait for their agents", func() error {
		if n := w.version("refunds:1.0.0").GetPool().GetInstances(); n != 3 {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})
	deploy(1, "pool refunds:1.0.0: only 1 of its 3 instances are ready to take the traffic back", "specctl get refunds")
	w.phase("refunds", "refused")
	for _, p := range waiting {
		p.terminate()
	}
	eventually(t, "the instances to be gone", func() error {
		if n := w.version("refunds:1.0.0").GetPool().GetInstances(); n != 1 {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})
	deploy(1, "no proxy is connected that could send executions", "specctl proxies")
	w.phase("refunds", "refused")
	answers(t, w.envoy("edge-1"), "refunds", "done\n")
	deploy(0, "this deploy can be undone in ", "as rehearsed at 1 proxy")
}

// A version that was rolled back may be a canary again before its record is closed, if an admin overrides: what was asked for then goes for the first
// weight, which others give once the rehearsal is over.
func TestAnOverrideMayBeACanary(t *testing.T) {
	w := startPlane(t, nil)
	agent := failing(t, 0).URL
	for version, more := range map[string]string{"1.0.0": "", "1.1.0": oneManualStep} {
		w.publish("refunds", version, canaryContract, more)
		w.sidecar("refunds:"+version, agent)
		w.ready("refunds", version, 1)
	}
	w.deploy("refunds", "1.0.0")
	answers(t, w.envoy("edge-1"), "refunds", "done\n")
	w.ctl(0, nil, "deploy", "refunds:1.1.0", "--at-once", "--reason", "hurry")
	w.rollback("refunds")
	w.ctl(1, []string{"is quarantined"}, "deploy", "refunds:1.1.0", "--impossible")
	out, code := w.specctl("deploy", "refunds:1.1.0", "--impossible", "--override", "PM-1", "--reason", "1.0.0 is worse today")
	if code != 0 || !strings.Contains(out, "this deploy can be undone in ") {
		t.Fatalf("exit %d:\n%s", code, out)
	}
	if r := w.phase("refunds", "stepping"); r.GetWeight() != 1000 {
		t.Errorf("%v", r)
	}
	w.ctl(0, []string{"1.0.0 is worse today"}, "postmortem", "show", "PM-1")
}

// Of several canaries one may be refused: it is named, and so is what was done all the same.
func TestOneOfSeveralCanariesIsRefused(t *testing.T) {
	w := startPlane(t, nil)
	agent := failing(t, 0).URL
	for _, spec := range []string{"refunds", "shop"} {
		for version, more := range map[string]string{"1.0.0": "", "1.1.0": oneManualStep} {
			w.publish(spec, version, canaryContract, more)
			if spec == "shop" && version == "1.1.0" {
				continue // nobody runs it
			}
			w.sidecar(spec+":"+version, agent)
			w.ready(spec, version, 1)
		}
		w.deploy(spec, "1.0.0")
	}
	e := w.envoy("edge-1")
	answers(t, e, "refunds", "done\n")
	answers(t, e, "shop", "done\n")
	out, code := w.specctl("deploy", "refunds:1.1.0", "shop:1.1.0", "--impossible", "--now", "--reason", "both")
	if code != 1 {
		t.Errorf("exit %d", code)
	}
	contains(t, out, "shop:1.1.0 gets no traffic: its way back is not proven", "pool shop:1.1.0: has no ready instance", "done all the same: refunds:1.1.0 is stepping", "next: specctl get shop")
	w.phase("refunds", "stepping")
	w.phase("shop", "refused")
}

// A candidate that an Envoy cannot reach is found out before anybody is sent to it, and so is a pool that has gone cold: the stable version's alone would
// be what a rollback goes to.
func TestARehearsalFindsWhatCannotBeReached(t *testing.T) {
	w := startPlane(t, nil)
	w.publish("refunds", "1.0.0", canaryContract)
	w.sidecar("refunds:1.0.0", failing(t, 0).URL)
	w.ready("refunds", "1.0.0", 1)
	w.deploy("refunds", "1.0.0")
	w.publish("refunds", "1.1.0", canaryContract)
	m := w.member("refunds:1.1.0", "deaf") // it takes connections, and answers nobody
	defer m.close()
	w.ready("refunds", "1.1.0", 1)
	e := envoytest.Start(t, envoytest.Config{Node: "edge-1", Listen: freeAddress(t), Servers: []string{w.grpc}})
	answers(t, e, "refunds", "done\n")
	if out, code := w.specctl("deploy", "refunds:1.1.0", "--canary", "--impossible"); code != 1 || !strings.Contains(out, "proxy edge-1: a synthetic execution through it was not answered") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	w.phase("refunds", "refused")
	m.leave()
	if out, code := w.specctl("deploy", "refunds:1.1.0", "--canary", "--impossible", "--now"); code != 1 || !strings.Contains(out, "pool refunds:1.1.0: has no ready instance") || !strings.Contains(out, "specctl get refunds") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if err := traces(t, e, false); err != nil {
		t.Error(err)
	}
}
