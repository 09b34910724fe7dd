//go:build long

package e2e

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// Raising a canary's weight only adds sessions to it: 10,000 sessions through a real Envoy, each with an id of its own that its requests carry.
func TestLongRaisingAWeightOnlyAddsSessionsToTheCanary(t *testing.T) {
	const sessions = 10_000
	w := startPlane(t, nil)
	for _, version := range []string{"1.0.0", "1.1.0"} {
		agent := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, version) }))
		t.Cleanup(agent.Close)
		w.publish("sticky", version, canaryContract)
		w.sidecar("sticky:"+version, agent.URL)
		w.ready("sticky", version, 1)
	}
	w.deploy("sticky", "1.0.0")
	edge := w.envoy("edge").Address
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	visit := func(session int) (version string, err error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+edge+"/", nil)
		if err != nil {
			return "", err
		}
		req.Host = "sticky.agents"
		req.Header.Set("X-Execution-Id", fmt.Sprintf("session-%d", session))
		res, err := client.Do(req)
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
	eventually(t, "first answer", func() error { _, err := visit(0); return err })

	before := make([]string, sessions)
	for _, weight := range []uint32{500, 1000, 2500, 5000, 10_000} {
		set, err := w.client.SetWeights(t.Context(), connect.NewRequest(&operatorv1.SetWeightsRequest{Spec: "sticky", Weights: []*operatorv1.Weight{
			{Version: "1.0.0", BasisPoints: 10_000 - weight}, {Version: "1.1.0", BasisPoints: weight},
		}}))
		if err != nil {
			t.Fatal(err)
		}
		w.effective("sticky", set.Msg.GetChange().GetGeneration())
		after := make([]string, sessions)
		var g errgroup.Group
		g.SetLimit(16)
		for i := range sessions {
			g.Go(func() (err error) { after[i], err = visit(i); return err })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		canary, left := 0, 0
		for i, version := range after {
			if version == "1.1.0" {
				canary++
			} else if before[i] == "1.1.0" {
				left++
			}
		}
		share, want := float64(canary)/sessions, float64(weight)/10_000
		tolerance := 3 * math.Sqrt(want*(1-want)/sessions)
		t.Logf("set %.2f %%, actual %.2f %% (within %.2f), %d sessions left the canary", 100*want, 100*share, 100*tolerance, left)
		if left > 0 {
			t.Errorf("at %v: %d sessions left the canary", want, left)
		}
		if math.Abs(share-want) > tolerance {
			t.Errorf("at %v the canary got %v of the sessions", want, share)
		}
		before = after
	}
}
