package telemetry_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/specproxy/specproxy/internal/telemetry"
)

func TestAdmin(t *testing.T) {
	reg := telemetry.NewRegistry("specproxy", "v1.2.3")
	promauto.With(reg).NewCounter(prometheus.CounterOpts{Name: "specproxy_things_total", Help: "Things."}).Inc()
	var down error
	page := telemetry.Admin(reg, func() error { return down })
	get := func(path, host string) (int, string) {
		r := httptest.NewRequest(http.MethodGet, "http://"+host+path, nil)
		w := httptest.NewRecorder()
		page.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	const here = "127.0.0.1:9901"
	for path, want := range map[string]string{
		"/metrics": "specproxy_things_total 1\n", "/healthz": "ok\n", "/readyz": "ok\n", "/debug/pprof/": "goroutine", "/debug/pprof/heap?debug=1": "heap profile",
	} {
		if code, body := get(path, here); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d\n%.300s", path, code, body)
		}
	}
	if _, body := get("/metrics", here); !strings.Contains(body, `specproxy_build_info{program="specproxy",version="v1.2.3"} 1`) || !strings.Contains(body, "go_goroutines ") {
		t.Errorf("the metrics of build and runtime are missing:\n%s", body)
	}
	down = errors.New("the agent does not answer")
	if code, body := get("/readyz", here); code != http.StatusServiceUnavailable || body != down.Error()+"\n" {
		t.Errorf("/readyz while not ready: %d %s", code, body)
	}
	if code, _ := get("/healthz", here); code != http.StatusOK {
		t.Errorf("/healthz while not ready: %d", code)
	}
	if code, _ := get("/debug/pprof/heap", "rebound.example"); code != http.StatusForbidden {
		t.Errorf("a page of another site reads profiles: %d", code)
	}
	if code, _ := get("/", here); code != http.StatusNotFound {
		t.Errorf("/: %d", code)
	}
}
