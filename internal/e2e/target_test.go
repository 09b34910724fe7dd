package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// versioned is an agent that succeeds and answers with its version.
func versioned(t *testing.T, version string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Spec-Outcome", "success")
		fmt.Fprint(w, version)
	}))
	t.Cleanup(s.Close)
	return s
}

// knockWith sends one request through an Envoy, with a header if it has a name, and returns the answer's body.
func knockWith(t *testing.T, envoy, host, header, value string) (string, error) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+envoy+"/refund", strings.NewReader("42"))
	if err != nil {
		return "", err
	}
	req.Host = host
	if header != "" {
		req.Header.Set(header, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", res.StatusCode, body)
	}
	return string(body), err
}

// Testers and a tenant get the new version while it has no weight and nobody else does; in a canary they are no evidence; a rollback takes them back.
func TestHeadersLeadToAVersionThroughEnvoy(t *testing.T) {
	w := startPlane(t, nil)
	for _, version := range []string{"1.0.0", "1.1.0"} {
		w.publish("web", version, canaryContract)
		w.sidecar("web:"+version, versioned(t, version).URL)
		w.ready("web", version, 1)
	}
	w.deploy("web", "1.0.0")
	edge := w.envoy("edge").Address
	expect := func(header, value, version string) {
		t.Helper()
		for range 10 {
			if got, err := knockWith(t, edge, "web.agents", header, value); err != nil || got != version {
				t.Fatalf("with %s=%s: %q, %v; want %s", header, value, got, err, version)
			}
		}
	}
	eventually(t, "first answer", func() error { _, err := knockWith(t, edge, "web.agents", "", ""); return err })
	expect("x-tester", "true", "1.0.0")

	w.ctl(0, []string{"web: target", "headers: x-tester: true -> 1.1.0, x-tenant: acme -> 1.1.0", "effective: after"},
		"target", "web:1.1.0", "--header", "X-Tester=true", "--header", "x-tenant=acme", "--reason", "acme tries it")
	expect("x-tester", "true", "1.1.0")
	expect("x-tenant", "acme", "1.1.0")
	expect("x-tenant", "ACME", "1.0.0")
	expect("", "", "1.0.0")

	// A canary of the version begins, and goes on when a header is taken away. Nobody but those led by a header comes meanwhile.
	begun, err := w.rollouts.StartRollout(t.Context(), connect.NewRequest(&operatorv1.StartRolloutRequest{
		Spec: "web", Version: "1.1.0", Impossible: true, // at this traffic it would not come to its end by itself
		Plan: &operatorv1.RolloutPlan{Steps: []*operatorv1.RolloutStep{{Weight: 1, Until: "manual"}}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	w.effective("web", begun.Msg.GetChange().GetGeneration())
	w.ctl(0, []string{"headers: x-tester: true -> 1.1.0", "effective: after"}, "target", "remove", "web", "--header", "x-tenant=acme")
	counted := w.version("web:1.1.0").GetPool().GetSucceeded()
	const led = 40
	for range led {
		if got, err := knockWith(t, edge, "web.agents", "x-tester", "true"); err != nil || got != "1.1.0" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	eventually(t, "outcomes of who was led by a header", func() error {
		if got := w.version("web:1.1.0").GetPool().GetSucceeded(); got < counted+led {
			return fmt.Errorf("%d of %d", got-counted, led)
		}
		return nil
	})
	r := w.phase("web", "stepping")
	if m := r.GetVerdict().GetMetrics()[0]; m.GetCanaryEnded() != 0 || r.GetShare() >= 0 {
		t.Errorf("who is led by a header counts in the canary's evidence: %v, share %v", m, r.GetShare())
	}

	change := w.rollback("web")
	if len(change.GetHeaderTargets()) != 0 || len(w.spec("web").GetHeaderTargets()) != 0 {
		t.Errorf("after the rollback: %v", change.GetHeaderTargets())
	}
	expect("x-tester", "true", "1.0.0")
	expect("x-tenant", "acme", "1.0.0")
	w.ctl(0, []string{"**Header that led there:** `x-tester: true`"}, "postmortem", "show", change.GetPostmortem())
}

// A version that only headers lead to is abandoned like any other: fenced, quarantined, on record; an undo brings its headers back.
func TestAVersionThatOnlyHeadersLeadToIsRolledBack(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0")
	w.publish("shop", "2.1.0", completeContract)
	canary := w.member("shop:2.1.0", "shop-2-1-0")
	w.ready("shop", "2.1.0", 1)
	w.ctl(0, []string{"headers: x-tester: true -> 2.1.0"}, "target", "shop:2.1.0", "--header", "x-tester=true")
	if v := w.version("shop:2.1.0"); v.GetStanding() != "candidate" || v.GetWeight() != 0 {
		t.Errorf("2.1.0 is %s with %d", v.GetStanding(), v.GetWeight())
	}
	w.ctl(0, []string{"traffic: 2.0.0=100\n", "abandoned: 2.1.0", "target: 2.0.0: it holds 100 % of the traffic, and only headers led to 2.1.0", "PM-1"},
		"rollback", "shop", "--from", "2.1.0")
	canary.awaitFence("2.0.0")
	if got := w.version("shop:2.1.0").GetStanding(); got != "quarantined" {
		t.Errorf("2.1.0 is %s", got)
	}
	w.ctl(0, []string{"had been done before", "PM-1"}, "rollback", "shop", "--from", "2.1.0")
	w.ctl(0, []string{"had been done before", "PM-1"}, "rollback", "shop")
	w.ctl(1, []string{"shop:2.1.0 is quarantined by PM-1"}, "target", "shop:2.1.0", "--header", "x-tester=true")
	w.ctl(0, []string{"shop: undo", "headers: x-tester: true -> 2.1.0"}, "rollback", "--undo", "PM-1")
	canary.awaitFence("")
	if got := w.spec("shop").GetHeaderTargets(); len(got) != 1 || got[0].GetVersion() != "2.1.0" {
		t.Errorf("after the undo %v lead somewhere", got)
	}
	// An older version that headers lead to has nothing older to be abandoned for: its headers are taken away.
	w.publish("shop", "2.2.0", completeContract)
	w.member("shop:2.2.0", "shop-2-2-0")
	w.ready("shop", "2.2.0", 1)
	w.deploy("shop", "2.2.0")
	w.ctl(0, nil, "target", "shop:2.0.0", "--header", "x-tenant=acme")
	w.ctl(1, []string{"shop:2.2.0 first held traffic later than 2.0.0", "specctl target remove shop"}, "rollback", "shop", "--from", "2.0.0")
}

func TestHeaderTargetsAreAdmittedListedBoundedAndEnd(t *testing.T) {
	w := startPlane(t, nil)
	w.publish("shop", "2.0.0", completeContract)
	w.ctl(1, []string{"shop has no traffic yet", "specctl deploy shop:2.0.0"}, "target", "shop:2.0.0", "--header", "x-tester=true")
	w.staged("shop", "2.0.0")
	w.publish("shop", "2.1.0", completeContract)
	w.ctl(1, []string{"shop:2.1.0 has no ready instance"}, "target", "shop:2.1.0", "--header", "x-tester=true")
	w.ctl(1, []string{"version 2.2.0 of shop is not published"}, "target", "shop:2.2.0", "--header", "x-tester=true")
	w.ctl(2, []string{"write NAME=VALUE"}, "target", "shop:2.1.0", "--header", "x-tester")
	w.ctl(2, []string{"--header NAME=VALUE"}, "target", "shop:2.1.0")
	w.ctl(1, []string{"header x-spec-pin", "is dropped"}, "target", "shop:2.1.0", "--header", "x-spec-pin=1")
	if got := w.spec("shop"); got.GetGeneration() != 1 || len(got.GetHeaderTargets()) != 0 {
		t.Fatalf("what was refused changed something: %v", got)
	}
	w.member("shop:2.1.0", "shop-2-1-0")
	w.ready("shop", "2.1.0", 1)
	w.ctl(0, []string{"dry run"}, "target", "shop:2.1.0", "--header", "x-tester=true", "--dry-run")
	w.ctl(0, []string{"generation 2"}, "target", "shop:2.1.0", "--header", "x-tester=true", "--reason", "trial")
	w.ctl(0, []string{"had been done before"}, "target", "shop:2.1.0", "--header", "x-tester=true", "--reason", "trial")
	w.ctl(0, []string{"x-tester: true", "2.1.0", "trial"}, "target", "list", "shop")
	w.ctl(0, []string{"target x-tester: true -> 2.1.0", "HEADER"}, "get", "shop")
	var listed struct {
		HeaderTargets []struct{ Header, Value, Version string }
	}
	if err := json.Unmarshal([]byte(w.ctl(0, nil, "target", "list", "shop", "-o", "json")), &listed); err != nil || len(listed.HeaderTargets) != 1 || listed.HeaderTargets[0].Version != "2.1.0" {
		t.Errorf("%v, %v", listed, err)
	}
	args := []string{"target", "shop:2.1.0"}
	for i := range 16 {
		args = append(args, "--header", fmt.Sprintf("x-tenant=%d", i))
	}
	w.ctl(1, []string{"17 header targets are too many: a spec has at most 16"}, args...)

	// It ends by itself, in a generation of its own, and the others stay.
	w.ctl(0, nil, "target", "shop:2.1.0", "--header", "x-tenant=acme", "--for", "1s")
	eventually(t, "end of a header target", func() error {
		if got := w.spec("shop").GetHeaderTargets(); len(got) != 1 || got[0].GetHeader() != "x-tester" {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	if by := w.spec("shop").GetChangedBy(); by != "end of a header target" {
		t.Errorf("ended by %s", by)
	}

	// A rollback of others leaves it; the same rollback again, after headers were changed, is still the same one.
	w.publish("shop", "2.2.0", completeContract)
	w.member("shop:2.2.0", "shop-2-2-0")
	w.ready("shop", "2.2.0", 1)
	w.deploy("shop", "2.2.0")
	w.rollback("shop")
	w.ctl(1, []string{"shop is frozen for automation"}, "target", "shop:2.1.0", "--header", "x-tenant=acme", "--automation")
	w.ctl(0, nil, "target", "shop:2.1.0", "--header", "x-tenant=acme")
	w.ctl(0, []string{"had been done before", "PM-1"}, "rollback", "shop")
	if got := w.spec("shop").GetHeaderTargets(); len(got) != 2 {
		t.Errorf("%v lead somewhere, want both", got)
	}
	w.ctl(0, []string{"headers: no header leads to a version"}, "target", "remove", "shop", "--all")
	res, err := w.client.ListDrains(t.Context(), connect.NewRequest(&operatorv1.ListDrainsRequest{Spec: "shop"}))
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]string{}
	for _, d := range res.Msg.GetDrains() {
		kinds[d.GetVersion()] = d.GetKind()
	}
	if kinds["2.1.0"] != "promote" || kinds["2.2.0"] != "rollback" {
		t.Errorf("drains %v", kinds)
	}
}
