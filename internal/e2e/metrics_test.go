package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	admin := reserved(t)
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
