//go:build long

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/controlplane"
)

// TestLongAPrometheusJudges has a real Prometheus scrape the control plane, whose own metrics a canary is then judged by.
func TestLongAPrometheusJudges(t *testing.T) {
	binary, err := filepath.Abs("../../.tools/bin/prometheus")
	if err == nil {
		_, err = os.Stat(binary)
	}
	if err != nil {
		t.Fatalf("%v: make .tools/bin/prometheus", err)
	}
	at := freeAddress(t)
	w := startPlane(t, func(o *controlplane.Options) { o.Prometheus = "http://" + at })
	config := filepath.Join(folder(t, "prometheus.yml", fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs: [{job_name: xds, static_configs: [{targets: [%q]}]}]\n", w.api)), "prometheus.yml")
	start(t, nil, binary, "--config.file="+config, "--storage.tsdb.path="+t.TempDir(), "--web.listen-address="+at, "--log.level=warn")
	eventually(t, "Prometheus", func() error {
		res, err := http.Get("http://" + at + "/-/ready")
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", res.Status)
		}
		return nil
	})
	canaries(t, w, map[string]int64{"1.0.0": 0, "1.1.0": 0, "1.2.0": 0})
	least := 1.0
	judged := func(query string) *operatorv1.RolloutPlan {
		return &operatorv1.RolloutPlan{
			Steps: []*operatorv1.RolloutStep{{Weight: 5000, Until: "evidence"}}, PMax: 0.2, MaxHarmed: -1, Rollback: "auto",
			Judges: []*operatorv1.RolloutJudge{{Name: "instances", Prometheus: query, FailBelow: &least, Every: durationpb.New(1e9), Fails: 2}},
		}
	}
	w.startRollout("refunds", "1.1.0", judged(`sum(specproxy_instances{state="ready"})`))
	w.phase("refunds", "promoted")
	w.startRollout("refunds", "1.2.0", judged(`sum(specproxy_instances{state="ready"}) * 0`))
	if r := w.phase("refunds", "aborted"); !strings.Contains(r.GetWhy(), "judge instances: 0 is below 1 (2 failures in a row)") {
		t.Errorf("why: %s", r.GetWhy())
	}
	contains(t, w.ctl(0, nil, "postmortem", "show", "PM-1"), `sum(specproxy_instances{state="ready"}) * 0`)
}
