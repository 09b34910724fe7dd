package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/controlplane"
)

// scrape reads a page as a scraper would.
func scrape(t *testing.T, url string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestControlPlaneShowsMetrics(t *testing.T) {
	admin := freeAddress(t)
	w := startPlane(t, func(o *controlplane.Options) { o.Admin, o.Version = admin, "v9" })
	for _, page := range []string{w.api, admin} {
		code, body := scrape(t, "http://"+page+"/metrics")
		if code != http.StatusOK || !strings.Contains(body, `specproxy_build_info{program="xds",version="v9"} 1`) {
			t.Errorf("%s: %d\n%.500s", page, code, body)
		}
	}
	if code, body := scrape(t, "http://"+w.api+"/metrics", "Host", "rebound.example"); code != http.StatusForbidden {
		t.Errorf("a page of another site reads metrics: %d %s", code, body)
	}
	if code, _ := scrape(t, "http://"+admin+"/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: %d", code)
	}
	// No profiles where the network may reach.
	if code, body := scrape(t, "http://"+w.api+"/debug/pprof/heap"); code < 400 {
		t.Errorf("the API's listener serves profiles: %d\n%.200s", code, body)
	}
}

// TestControlPlaneCountsARollback deploys, rolls back and looks at what is shown of it.
func TestControlPlaneCountsARollback(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	if _, err := w.client.Rollback(t.Context(), connect.NewRequest(&operatorv1.RollbackRequest{Targets: []*operatorv1.RollbackTarget{{Spec: "shop"}}})); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`specproxy_route_changes_total{kind="deploy"} 2`, `specproxy_route_changes_total{kind="rollback"} 1`,
		`specproxy_deploys_total{spec="shop"} 2`, `specproxy_deploys_failed_total{spec="shop"} 1`, `specproxy_postmortem_records_total{spec="shop"} 1`,
		`specproxy_rollbacks_caught_total{in="canary",spec="shop"} 0`, `specproxy_rollbacks_caught_total{in="production",spec="shop"} 1`,
		`specproxy_time_to_detect_seconds_count{spec="shop"} 1`, `specproxy_time_to_restore_seconds_count{spec="shop"} 1`, `specproxy_time_to_close_seconds_count{spec="shop"} 0`,
		"specproxy_postmortems_open 1", `specproxy_proxies{state="connected"} 0`, `specproxy_instances{state="silent"} 0`,
	} {
		eventually(t, line, func() error {
			_, body := scrape(t, "http://"+w.api+"/metrics")
			if !strings.Contains("\n"+body, "\n"+line+"\n") {
				return errors.New(body)
			}
			return nil
		})
	}
	w.closePostMortem("PM-1", "false-alarm")
	_, body := scrape(t, "http://"+w.api+"/metrics")
	contains(t, body, `specproxy_postmortem_records_closed{cause="false-alarm",spec="shop"} 1`, `specproxy_time_to_close_seconds_count{spec="shop"} 1`, `specproxy_postmortem_records_open{spec="shop"} 0`)
}

func TestMetricsBeyondLoopbackWantAToken(t *testing.T) {
	id := newIdentity(t)
	const token = "Bearer a-token-that-only-reads-metrics"
	scraper := filepath.Join(folder(t, "token", strings.TrimPrefix(token, "Bearer ")+"\n"), "token")
	w := startSecure(t, id, "--metrics-token-file", scraper)
	pem, err := os.ReadFile(id.cert)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("certificate: %v", err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	for _, c := range []struct {
		method, path, token string
		want                int
	}{
		{http.MethodGet, "/metrics", "", http.StatusUnauthorized},
		{http.MethodGet, "/metrics", "Bearer wrong", http.StatusUnauthorized},
		{http.MethodGet, "/metrics", token, http.StatusOK},
		{http.MethodPost, "/specproxy.operator.v1.OperatorService/ListSpecs", token, http.StatusUnauthorized}, // it opens nothing else
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "https://"+w.api+c.path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", c.token)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("%s %s with %q: %d, want %d", c.method, c.path, c.token, res.StatusCode, c.want)
		}
	}
}
