package sidecar_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"

	"github.com/specproxy/specproxy/internal/sidecar/fakecontrol"
)

// receiver is an OTLP collector.
type receiver struct {
	collector.UnimplementedTraceServiceServer

	mu    sync.Mutex
	spans map[string]*tracev1.Span // by path
	who   map[string]string        // attributes of the resource
}

func (r *receiver) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, from := range req.GetResourceSpans() {
		for _, a := range from.GetResource().GetAttributes() {
			r.who[a.GetKey()] = a.GetValue().GetStringValue()
		}
		for _, scope := range from.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				r.spans[attribute(span, "url.path")] = span
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func attribute(s *tracev1.Span, key string) string {
	for _, a := range s.GetAttributes() {
		if a.GetKey() == key {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

// startCollector returns a running one and its address.
func startCollector(t *testing.T) (*receiver, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{spans: map[string]*tracev1.Span{}, who: map[string]string{}}
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, r)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return r, "http://" + l.Addr().String()
}

// TestEveryRequestIsCountedLoggedAndTraced follows three requests: one that ends by itself, one that a rollback cancels, one that comes too late.
func TestEveryRequestIsCountedLoggedAndTraced(t *testing.T) {
	r := newRig(t, guarded)
	admin := r.adminPage()
	lines, access := observer.New(zapcore.InfoLevel)
	r.options.Access = zap.New(lines)
	spans, endpoint := startCollector(t)
	r.options.Traces = endpoint
	r.run()
	addr := r.ready()

	const caller, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	req := request(t, addr, "/about")
	req.Header.Set("Traceparent", "00-"+caller+"-"+parent+"-01")
	req.Header.Set("Tracestate", "vendor=1")
	req.Header.Set("X-Spec-Route", "7")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	var saw aboutAgent
	if err := json.NewDecoder(res.Body).Decode(&saw); err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	held := later(t, addr, "/hold")
	r.control.Wait("the held execution", func(v fakecontrol.View) bool { return v.Totals.GetInFlight() == 1 })
	r.control.SetState(fence)
	if got := <-held; got.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("the held request: %s", got.Status)
	}
	fetch(t, addr, "/late")

	const version = `spec="customer-service",version="2.1.0"`
	awaitPage(t, "http://"+admin()+"/metrics",
		`specproxy_requests_total{code="2xx",disposition="none",protocol="http",`+version+`} 1`,
		`specproxy_requests_total{code="5xx",disposition="cancel",protocol="http",`+version+`} 1`,
		`specproxy_requests_total{code="3xx",disposition="passed_on",protocol="http",`+version+`} 1`,
		`specproxy_request_duration_seconds_count{disposition="cancel",`+version+`} 1`,
		`specproxy_executions_decided_total{disposition="cancel",`+version+`} 1`,
		`specproxy_fenced{`+version+`} 1`,
	)

	logged := map[string]map[string]any{}
	for _, e := range access.All() {
		logged[e.ContextMap()["path"].(string)] = e.ContextMap()
	}
	if l := logged["/about"]; l["status"] != int64(200) || l["disposition"] != "none" || l["version"] != "customer-service:2.1.0" || l["route_generation"] != uint64(7) ||
		l["execution"] != res.Header.Get("X-Execution-Id") || l["trace"] != caller {
		t.Errorf("access log of /about: %v", l)
	}
	if l := logged["/hold"]; l["status"] != int64(503) || l["disposition"] != "cancel" || l["cause"] == "" || !strings.HasPrefix(l["execution"].(string), "x1.2.1.0.") {
		t.Errorf("access log of /hold: %v", l)
	}
	if l := logged["/late"]; l["disposition"] != "passed_on" || l["execution"] != "" {
		t.Errorf("access log of /late: %v", l)
	}

	r.signals <- syscall.SIGTERM // what waits to be sent is sent at the end
	if err := r.ended(); err != nil {
		t.Error(err)
	}
	spans.mu.Lock()
	defer spans.mu.Unlock()
	about := spans.spans["/about"]
	if got := about.GetTraceId(); len(spans.spans) != 3 || hex.EncodeToString(got) != caller || hex.EncodeToString(about.GetParentSpanId()) != parent || about.GetTraceState() != "vendor=1" {
		t.Errorf("%d spans; that of /about: %v", len(spans.spans), about)
	}
	if want := "00-" + caller + "-" + hex.EncodeToString(about.GetSpanId()) + "-01"; saw.Headers.Get("Traceparent") != want || saw.Headers.Get("Tracestate") != "vendor=1" {
		t.Errorf("the agent got %q %q, want %q", saw.Headers.Get("Traceparent"), saw.Headers.Get("Tracestate"), want)
	}
	if s := spans.spans["/hold"]; attribute(s, "specproxy.disposition") != "cancel" || attribute(s, "specproxy.version") != "2.1.0" ||
		s.GetStatus().GetCode() != tracev1.Status_STATUS_CODE_ERROR || s.GetEndTimeUnixNano() <= s.GetStartTimeUnixNano() {
		t.Errorf("span of /hold: %v", s)
	}
	if spans.who["service.name"] != "specproxy" || spans.who["service.instance.id"] == "" {
		t.Errorf("the spans come from %v", spans.who)
	}
}

// TestTracesAreOffByDefault: the caller's context reaches the agent as it came.
func TestTracesAreOffByDefault(t *testing.T) {
	r := newRig(t, guarded)
	r.run()
	req := request(t, r.ready(), "/about")
	const context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	req.Header.Set("Traceparent", context)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var saw aboutAgent
	if err := json.NewDecoder(res.Body).Decode(&saw); err != nil || saw.Headers.Get("Traceparent") != context {
		t.Errorf("the agent got %q, %v", saw.Headers.Get("Traceparent"), err)
	}
}

// TestCollectorThatIsAwayCostsNothing: requests and the end of the sidecar wait for nobody.
func TestCollectorThatIsAwayCostsNothing(t *testing.T) {
	r := newRig(t, guarded)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.options.Traces = "http://" + l.Addr().String()
	l.Close()
	r.run()
	addr := r.ready()
	for range 20 {
		if res, _ := fetch(t, addr, "/about"); res.StatusCode != http.StatusOK {
			t.Errorf("status %d", res.StatusCode)
		}
	}
	began := time.Now()
	r.signals <- syscall.SIGTERM
	if err := r.ended(); err != nil || time.Since(began) > patience/2 {
		t.Errorf("it ended after %s with %v", time.Since(began), err)
	}
}
