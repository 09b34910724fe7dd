package sidecar_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"
)

// adminPage turns the admin page on and returns its address once the sidecar has said it.
func (r *rig) adminPage() func() string {
	logs, seen := observer.New(zapcore.InfoLevel)
	r.options.Admin = "127.0.0.1:0"
	r.options.Log = zaptest.NewLogger(r.t, zaptest.WrapOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core { return zapcore.NewTee(c, logs) })))
	return func() string {
		r.t.Helper()
		entries := seen.FilterMessage("admin page").All()
		if len(entries) != 1 {
			r.t.Fatalf("the sidecar names its admin page %d times", len(entries))
		}
		return entries[0].ContextMap()["address"].(string)
	}
}

// page reads one page, of any status.
func page(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := client.Get(url)
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

// awaitPage waits until the page holds every one of the lines.
func awaitPage(t *testing.T, url string, lines ...string) string {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		_, body := page(t, url)
		missing := ""
		for _, line := range lines {
			if !strings.Contains("\n"+body, "\n"+line+"\n") {
				missing = line
			}
		}
		if missing == "" {
			return body
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s does not come to say %q:\n%s", url, missing, body)
		}
	}
}

func TestAdminPage(t *testing.T) {
	r := newRig(t, guarded)
	admin := r.adminPage()
	r.run()
	addr := r.ready()
	base := "http://" + admin()
	for range 3 {
		fetch(t, addr, "/about")
	}
	const labels = `{spec="customer-service",version="2.1.0"}`
	awaitPage(t, base+"/metrics",
		"specproxy_executions_started_total"+labels+" 3",
		`specproxy_executions_ended_total{outcome="unknown",spec="customer-service",version="2.1.0"} 3`,
		"specproxy_executions_in_flight"+labels+" 0",
		"specproxy_ready"+labels+" 1",
		"specproxy_fenced"+labels+" 0",
		"specproxy_control_planes_connected"+labels+" 1",
	)
	awaitPage(t, base+"/readyz", "ok")
	if code, body := page(t, base+"/debug/pprof/cmdline"); code != http.StatusOK || body == "" {
		t.Errorf("pprof: %d", code)
	}
	// Profiles are on the admin page only: on the data path this is the agent's to answer.
	if res, body := fetch(t, addr, "/debug/pprof/cmdline"); res.StatusCode != http.StatusNotFound {
		t.Errorf("/debug/pprof/ of the data path: %d %s", res.StatusCode, body)
	}
}

// TestHostileRequestsAddNoSeries: what a client chooses is in no label, and what is refused is counted by its reason.
func TestHostileRequestsAddNoSeries(t *testing.T) {
	r := newRig(t, guarded)
	admin := r.adminPage()
	r.run()
	addr := r.ready()
	metrics := "http://" + admin() + "/metrics"
	fetch(t, addr, "/about")
	fetch(t, addr, "/nothing")
	const labels = `spec="customer-service",version="2.1.0"`
	const good, missing = `specproxy_requests_total{code="2xx",disposition="none",protocol="http",` + labels + `}`, `specproxy_requests_total{code="4xx",disposition="none",protocol="http",` + labels + `}`
	before := seriesOf(awaitPage(t, metrics, good+" 1", missing+" 1"))
	const requests = 50
	for i := range requests {
		hostile := fmt.Sprintf("hostile%d", i)
		req := request(t, addr, "/"+hostile)
		req.Method, req.Host = strings.ToUpper(hostile), hostile
		for _, h := range []string{"X-Execution-Id", "X-Spec-Version", "X-Spec-Route", "Traceparent", "User-Agent"} {
			req.Header.Set(h, hostile)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	for _, garbage := range []string{
		"GET / HTTP/1.1\nHost: hostile\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: hostile\r\n folded\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "hostile garbage\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, garbage)
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	refused := func(reason string) string { return `specproxy_refused_total{reason="` + reason + `",` + labels + `} 1` }
	body := awaitPage(t, metrics, missing+fmt.Sprintf(" %d", 1+requests), refused("bare_lf"), refused("folded_line"), refused("framing"), refused("malformed"))
	if after := seriesOf(body); !slices.Equal(before, after) {
		t.Errorf("series before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	if strings.Contains(strings.ToLower(body), "hostile") {
		t.Errorf("a client's words are in the metrics:\n%s", body)
	}
}

// seriesOf is the names and labels of our own series.
func seriesOf(page string) (all []string) {
	for line := range strings.Lines(page) {
		if at := strings.LastIndex(line, " "); strings.HasPrefix(line, "specproxy_") {
			all = append(all, line[:at])
		}
	}
	return all
}
