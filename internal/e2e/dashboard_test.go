package e2e

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/auth"
	"github.com/specproxy/specproxy/internal/controlplane"
)

// adminToken reads the first admin's token.
func (w *world) adminToken() string {
	w.t.Helper()
	raw, err := os.ReadFile(filepath.Join(w.dataDir, auth.AdminTokenFile))
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

// visit sends a request as a browser would, without following anything.
func (w *world) visit(method, path string, body url.Values, cookie *http.Cookie) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://"+w.api+path, strings.NewReader(body.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html")
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", "http://"+w.api)
	}
	if cookie != nil {
		req.AddCookie(cookie)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res, string(raw)
}

func TestDashboardOpensToTheTokenAndOnlyForReading(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	w.rollback("shop")
	if res, _ := w.visit("GET", "/", nil, nil); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/dashboard/" {
		t.Errorf("the root leads with %d to %q", res.StatusCode, res.Header.Get("Location"))
	}
	if res, _ := w.visit("GET", "/dashboard/", nil, nil); res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(res.Header.Get("Location"), "/dashboard/login") {
		t.Errorf("a stranger is led with %d to %q", res.StatusCode, res.Header.Get("Location"))
	}
	res, page := w.visit("POST", "/dashboard/login", url.Values{"token": {w.adminToken()}}, nil)
	if res.StatusCode != http.StatusSeeOther || len(res.Cookies()) != 1 {
		t.Fatalf("signing in: %d, %v\n%s", res.StatusCode, res.Cookies(), page)
	}
	session := res.Cookies()[0]
	for path, want := range map[string]string{
		"/dashboard/": "PM-1 is open: 2.1.0 was abandoned for 2.0.0", "/dashboard/specs/shop": "quarantined", "/dashboard/postmortems": "shop 2.1.0 → 2.0.0",
		"/dashboard/postmortems/PM-1": "specctl postmortem answer PM-1 --explanation", "/dashboard/proxies": "No proxy has ever connected", "/dashboard/stats": "Rolled back later",
	} {
		if res, page := w.visit("GET", path, nil, session); res.StatusCode != http.StatusOK || !strings.Contains(page, want) {
			t.Errorf("GET %s: %d, without %q:\n%s", path, res.StatusCode, want, page)
		}
	}
	// The session opens nothing else.
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+w.api+"/specproxy.operator.v1.OperatorService/GetFleet", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.AddCookie(session)
	api, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer api.Body.Close()
	if api.StatusCode != http.StatusUnauthorized {
		t.Errorf("the API with the dashboard's session: %d", api.StatusCode)
	}
}

func TestDashboardCanBeLeftOut(t *testing.T) {
	w := startPlane(t, func(o *controlplane.Options) { o.NoDashboard = true })
	for _, path := range []string{"/", "/dashboard/", "/dashboard/login"} {
		if res, _ := w.visit("GET", path, nil, nil); res.StatusCode != http.StatusUnsupportedMediaType {
			t.Errorf("GET %s: %d", path, res.StatusCode)
		}
	}
}
