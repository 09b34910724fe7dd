package agent_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/specproxy/specproxy/internal/sidecar/agent"
)

// watched looks at an agent until the test ends.
func watched(t *testing.T, e agent.Endpoint, h agent.Health) (told chan error) {
	t.Helper()
	told = make(chan error, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.Watch(ctx, h, func(_ bool, err error) { told <- err })
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return told
}

// expect waits for the next change; why is a part of the reason, empty if the agent is to answer.
func expect(t *testing.T, told <-chan error, why string) {
	t.Helper()
	select {
	case err := <-told:
		if (err == nil) != (why == "") || err != nil && !strings.Contains(err.Error(), why) {
			t.Fatalf("told %v, want %q", err, why)
		}
	case <-time.After(patience):
		t.Fatalf("not told %q", why)
	}
}

func TestSilenceAtTheBeginningIsTold(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	told := watched(t, agent.Endpoint{Network: "tcp", Address: l.Addr().String()}, agent.Health{Interval: 20 * time.Millisecond, Timeout: patience})
	expect(t, told, "refused")
	if l, err = net.Listen("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	expect(t, told, "")
}

func TestProbeByPath(t *testing.T) {
	var sick atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if sick.Load() || r.URL.Path != "/base/healthz" || r.URL.RawQuery != "deep=1" || r.Method != http.MethodGet {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	e, err := agent.ParseEndpoint(s.URL + "/base")
	if err != nil {
		t.Fatal(err)
	}
	told := watched(t, e, agent.Health{Interval: 10 * time.Millisecond, Timeout: patience, Probe: "/healthz?deep=1", Failures: 3})
	expect(t, told, "")
	sick.Store(true)
	expect(t, told, "503")
	sick.Store(false)
	expect(t, told, "")
}

func TestProbeByGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, state := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, state)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	e := agent.Endpoint{Network: "tcp", Address: l.Addr().String()}
	state.SetServingStatus("agent", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	told := watched(t, e, agent.Health{Interval: 10 * time.Millisecond, Timeout: patience, Probe: "grpc:agent"})
	expect(t, told, "NOT_SERVING")
	state.SetServingStatus("agent", grpc_health_v1.HealthCheckResponse_SERVING)
	expect(t, told, "")
	expect(t, watched(t, e, agent.Health{Interval: 10 * time.Millisecond, Timeout: patience, Probe: "grpc"}), "")
	expect(t, watched(t, e, agent.Health{Interval: 10 * time.Millisecond, Timeout: patience, Probe: "grpc:other"}), "unknown service")
}

// TestAStalledAgentMustShowThatItLives: one whose connections are accepted by the kernel alone does not; any answer will do.
func TestAStalledAgentMustShowThatItLives(t *testing.T) {
	var stalled atomic.Bool
	stall := func() (int, time.Duration, bool) { return 2, time.Minute, stalled.Load() }
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	h := agent.Health{Interval: 10 * time.Millisecond, Timeout: patience, Stalled: stall, SignTimeout: 100 * time.Millisecond}
	told := watched(t, agent.Endpoint{Network: "tcp", Address: l.Addr().String()}, h)
	expect(t, told, "")
	stalled.Store(true)
	expect(t, told, "2 requests wait for it, nothing has come for 1m0s")
	stalled.Store(false)
	expect(t, told, "")

	busy := httptest.NewServer(http.NotFoundHandler())
	defer busy.Close()
	e, err := agent.ParseEndpoint(busy.URL)
	if err != nil {
		t.Fatal(err)
	}
	stalled.Store(true)
	h.SignTimeout = patience
	expect(t, watched(t, e, h), "")
}

func TestCheckProbe(t *testing.T) {
	for probe, good := range map[string]bool{"": true, "/healthz": true, "grpc": true, "grpc:a.B": true, "healthz": false, "http://x": false, "grpcs": false} {
		if err := agent.CheckProbe(probe); (err == nil) != good {
			t.Errorf("%q: %v", probe, err)
		}
	}
}
