package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// witness is an agent that answers with its version and remembers what it was told of each request, by the request's path. It fails what its
// version is to fail.
type witness struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string][]http.Header
	held atomic.Int64
	// hold keeps requests for /hold until it is closed.
	hold chan struct{}
}

func newWitness(t *testing.T, version string, fails func(path string) bool) *witness {
	t.Helper()
	w := &witness{seen: map[string][]http.Header{}, hold: make(chan struct{})}
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h := r.Header.Clone()
		h.Set("X-Got-Host", r.Host)
		h.Set("X-Got-Body", string(body[:min(len(body), 10)]))
		h.Set("X-Got-Length", strconv.Itoa(len(body)))
		w.mu.Lock()
		w.seen[r.URL.Path] = append(w.seen[r.URL.Path], h)
		w.mu.Unlock()
		if r.URL.Path == "/hold" && r.Header.Get("X-Spec-Shadow") != "" {
			w.held.Add(1)
			defer w.held.Add(-1)
			select {
			case <-w.hold:
			case <-r.Context().Done():
				return
			}
		}
		switch {
		case strings.HasPrefix(r.URL.Path, "/unknown"):
		case fails(r.URL.Path):
			rw.Header().Set("X-Spec-Outcome", "failure")
		default:
			rw.Header().Set("X-Spec-Outcome", "success")
		}
		fmt.Fprint(rw, version)
	}))
	t.Cleanup(func() { w.CloseClientConnections(); w.Close() })
	return w
}

// got are the headers of the requests for a path.
func (w *witness) got(path string) []http.Header {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]http.Header(nil), w.seen[path]...)
}

func (w *world) shadow(spec string) (*operatorv1.GetShadowResponse, error) {
	res, err := w.client.GetShadow(w.t.Context(), connect.NewRequest(&operatorv1.GetShadowRequest{Spec: spec}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// Copies reach the candidate with the header, clients see the stable version's answers only and can forge nothing, pairs are counted, nothing else
// counts them, and a rollback of the candidate ends them at once.
func TestShadowThroughEnvoy(t *testing.T) {
	w := startPlane(t, nil)
	stable := newWitness(t, "1.0.0", func(path string) bool { return path == "/both" || path == "/request" })
	candidate := newWitness(t, "1.1.0", func(path string) bool { return path == "/both" || strings.HasPrefix(path, "/copy") })
	for version, agent := range map[string]*witness{"1.0.0": stable, "1.1.0": candidate} {
		w.publish("web", version, canaryContract, "shadow: safe")
		w.sidecar("web:"+version, agent.URL)
		w.ready("web", version, 1)
	}
	w.deploy("web", "1.0.0")
	edge := w.envoy("edge").Address
	send := func(path string, headers ...string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+edge+path, strings.NewReader("42"))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "web.agents"
		for i := 0; i+1 < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		for name := range res.Header {
			if strings.Contains(strings.ToLower(name), "shadow") || strings.Contains(strings.ToLower(name), "mirror") {
				t.Errorf("the client is told %s: %s", name, res.Header.Get(name))
			}
		}
		return string(body)
	}
	eventually(t, "first answer", func() error {
		got, err := knockWith(t, edge, "web.agents", "", "")
		if err == nil && got != "1.0.0" {
			err = fmt.Errorf("%q", got)
		}
		return err
	})
	w.ctl(0, []string{"web: shadow", "shadow: 25% of the requests are copied to 1.1.0", "effective: after"}, "shadow", "web:1.1.0", "--percent", "25")
	const sent = 200
	for range sent {
		if got := send("/share"); got != "1.0.0" {
			t.Fatalf("answered by %q", got)
		}
	}
	eventually(t, "pairs of a quarter of the requests", func() error {
		got, err := w.shadow("web")
		copies := len(candidate.got("/share"))
		if err == nil && (got.GetBothSucceeded() != uint64(copies) || got.GetRequests() != uint64(copies)) {
			err = fmt.Errorf("%d copies, %v", copies, got)
		}
		return err
	})
	if n := len(candidate.got("/share")); n < 20 || n > 80 { // five standard deviations
		t.Errorf("%d of %d requests were copied, want about 50", n, sent)
	}
	if n := len(stable.got("/share")); n != sent {
		t.Errorf("%d requests came, want %d", n, sent)
	}
	w.ctl(0, []string{"web: shadow", "shadow: 100% of the requests are copied to 1.1.0", "effective: after"}, "shadow", "web:1.1.0", "--percent", "100", "--reason", "trial")

	// What a client says of it is dropped, for the request and for its copy.
	forged := []string{"X-Spec-Shadow", "true", "X-Spec-Mirror", "1.0.0 1 x"}
	for range 5 {
		for _, path := range []string{"/ok", "/both", "/request", "/copy", "/unknown"} {
			if got := send(path, forged...); got != "1.0.0" {
				t.Fatalf("%s was answered by %q", path, got)
			}
		}
	}
	var got *operatorv1.GetShadowResponse
	eventually(t, "pairs", func() (err error) {
		if got, err = w.shadow("web"); err != nil {
			return err
		}
		if got.GetBothSucceeded() != 5 || got.GetBothFailed() != 5 || got.GetRequestFailed() != 5 || got.GetCopyFailed() != 5 || got.GetUnknown() != 5 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	if got.GetRequests() != 25 || got.GetCopies() != 25 || got.Sign == nil || got.GetSign() < 0.99 || len(got.GetDiscordant()) != 10 || got.GetCounts().GetFailed() != 10 || got.GetCounts().GetActed() != 0 {
		t.Errorf("%v", got)
	}
	for _, h := range stable.got("/ok") {
		if h.Get("X-Spec-Shadow") != "" || h.Get("X-Spec-Mirror") != "" {
			t.Errorf("the request that counts was told %v", h)
		}
	}
	copies := candidate.got("/ok")
	if len(copies) != 5 {
		t.Errorf("%d copies came, want 5", len(copies))
	}
	for _, h := range copies {
		if h.Get("X-Spec-Shadow") != "true" || h.Get("X-Got-Host") != "web.agents" || h.Get("X-Got-Body") != "42" {
			t.Errorf("a copy came with %v", h)
		}
	}

	// A long body goes to both whole.
	const long = 3 << 20
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+edge+"/long", bytes.NewReader(make([]byte, long)))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "web.agents"
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || string(body) != "1.0.0" {
		t.Fatalf("answered by %q, %v", body, err)
	}
	for name, agent := range map[string]*witness{"request": stable, "copy": candidate} {
		eventually(t, name+" with a long body", func() error {
			if got := agent.got("/long"); len(got) != 1 || got[0].Get("X-Got-Length") != strconv.Itoa(long) {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
	}
	var status struct{ CopyFailed string }
	if err := json.Unmarshal([]byte(w.ctl(0, nil, "shadow", "status", "web", "-o", "json")), &status); err != nil || status.CopyFailed != "5" {
		t.Errorf("%v, %v", status, err)
	}
	w.ctl(0, []string{"shadow web:1.1.0 beside 1.0.0", "BOTH SUCCEEDED", "by chance: p = 1"}, "shadow", "status", "web")
	w.ctl(0, []string{"100% of the requests are copied to 1.1.0", "specctl shadow status web"}, "get", "web")

	// Copies are in no count of the version's own: not among outcomes, not in flight, not in a rollout's evidence.
	send("/hold") // its copy is held, and does not hold it up
	eventually(t, "copy that runs", func() error {
		if candidate.held.Load() == 0 {
			return fmt.Errorf("none is held")
		}
		return nil
	})
	eventually(t, "running copy in the counts", func() error {
		got, err := w.shadow("web")
		if err == nil && got.GetCounts().GetInFlight() != 1 {
			err = fmt.Errorf("%v", got)
		}
		return err
	})
	if p := w.version("web:1.1.0").GetPool(); p.GetSucceeded() != 0 || p.GetFailed() != 0 || p.GetUnknown() != 0 || p.GetInFlight() != 0 || p.GetRate() != 0 {
		t.Errorf("copies count among the version's own: %v", p)
	}
	if x, err := w.client.ListExecutions(t.Context(), connect.NewRequest(&operatorv1.ListExecutionsRequest{Spec: "web", Version: "1.1.0"})); err != nil || len(x.Msg.GetExecutions()) != 0 {
		t.Errorf("executions %v, %v", x, err)
	}

	// A header leads testers there meanwhile: theirs are real, and a rollback takes both away and waits for no copy.
	w.ctl(0, []string{"shadow: 100% of the requests"}, "target", "web:1.1.0", "--header", "x-tester=true")
	if got := send("/real", "x-tester", "true"); got != "1.1.0" {
		t.Fatalf("answered by %q", got)
	}
	if h := candidate.got("/real"); len(h) != 1 || h[0].Get("X-Spec-Shadow") != "" {
		t.Errorf("who was led there by a header was told %v", h)
	}
	w.ctl(0, []string{"abandoned: 1.1.0", "effective: after"}, "rollback", "web", "--from", "1.1.0")
	eventually(t, "end of the copy", func() error {
		if n := candidate.held.Load(); n != 0 {
			return fmt.Errorf("%d run", n)
		}
		return nil
	})
	close(candidate.hold)
	eventually(t, "drained pool", func() error {
		if d := w.spec("web").GetDrains(); len(d) != 1 || d[0].GetState() != "drained" || d[0].GetCancelled() != 0 {
			return fmt.Errorf("%v", d)
		}
		return nil
	})
	got, err = w.shadow("web")
	if err != nil || !got.GetEndedAt().IsValid() || !strings.Contains(got.GetEndedBy(), "(rollback) by admin") || w.spec("web").GetShadow() != nil {
		t.Errorf("after the rollback: %v, %v", got, err)
	}
	before := len(candidate.got("/after"))
	for range 5 {
		send("/after")
	}
	if n := len(candidate.got("/after")); n != before {
		t.Errorf("%d copies came after the rollback", n-before)
	}
}

func TestOnlyWhatIsDeclaredSafeIsShadowed(t *testing.T) {
	w := startPlane(t, nil)
	w.publish("shop", "2.0.0", completeContract, "shadow: safe")
	w.ctl(1, []string{"shop has no traffic yet"}, "shadow", "shop:2.0.0", "--percent", "10")
	w.staged("only", "1.0.0")
	w.publish("only", "1.1.0", completeContract)
	w.ctl(1, []string{"the manifest of only:1.1.0 does not say shadow: safe", "publish"}, "shadow", "only:1.1.0", "--percent", "10")
	w.publish("only", "1.2.0", completeContract, "shadow: safe")
	w.ctl(1, []string{"only:1.2.0 has no ready instance"}, "shadow", "only:1.2.0", "--percent", "10")
	w.member("only:1.2.0", "only-1-2-0")
	w.ready("only", "1.2.0", 1)
	w.ctl(2, []string{"--percent"}, "shadow", "only:1.2.0")
	w.ctl(1, []string{"0 % of the requests cannot be copied"}, "shadow", "only:1.2.0", "--percent", "0")
	w.ctl(1, []string{"101 % of the requests cannot be copied"}, "shadow", "only:1.2.0", "--percent", "101")
	if got := w.spec("only"); got.GetGeneration() != 1 || got.GetShadow() != nil {
		t.Fatalf("what was refused changed something: %v", got)
	}
	w.ctl(0, []string{"2.5% of the requests are copied to 1.2.0"}, "shadow", "only:1.2.0", "--percent", "2.5")
	w.ctl(0, []string{"had been done before"}, "shadow", "only:1.2.0", "--percent", "2.5")
	if v := w.version("only:1.2.0"); v.GetWeight() != 0 {
		t.Errorf("weight %d", v.GetWeight())
	}
	w.ctl(1, []string{"only:1.2.0 only gets copies of requests", "specctl shadow stop only"}, "rollback", "only", "--from", "1.2.0")

	// A deploy of the candidate ends it in the same generation; its end comes by itself, too, and by hand.
	change := w.deploy("only", "1.2.0")
	got, err := w.shadow("only")
	if err != nil || got.GetEndedBy() != fmt.Sprintf("generation %d (deploy) by admin (tester)", change.GetGeneration()) || w.spec("only").GetShadow() != nil {
		t.Errorf("after the deploy: %v, %v", got, err)
	}
	w.ctl(1, []string{"only:1.2.0 has traffic of its own"}, "shadow", "only:1.2.0", "--percent", "10")
	w.rollback("only")
	w.ctl(1, []string{"only:1.2.0 is quarantined by PM-1"}, "shadow", "only:1.2.0", "--percent", "10")
	w.publish("only", "1.3.0", completeContract, "shadow: safe")
	w.member("only:1.3.0", "only-1-3-0")
	w.ready("only", "1.3.0", 1)
	w.ctl(0, nil, "policy", "set", "only", "--require-conformance")
	w.ctl(1, []string{"only:1.3.0 must have passed its tests"}, "shadow", "only:1.3.0", "--percent", "10")
	w.ctl(0, nil, "policy", "set", "only", "--none")
	w.ctl(0, nil, "shadow", "only:1.3.0", "--percent", "10", "--for", "1s")
	eventually(t, "end of the shadow", func() error {
		if s := w.spec("only"); s.GetShadow() != nil || s.GetChangedBy() != "end of a shadow" {
			return fmt.Errorf("%v", s)
		}
		return nil
	})
	w.ctl(0, nil, "shadow", "only:1.3.0", "--percent", "10")
	w.ctl(0, []string{"had been done before", "PM-1"}, "rollback", "only")
	w.ctl(0, []string{"no request is copied"}, "shadow", "stop", "only")
	w.ctl(0, []string{"had been done before"}, "shadow", "stop", "only")
}

// A control plane that begins anew is told again what sidecars have kept, and counts no pair twice.
func TestPairsOutliveTheControlPlane(t *testing.T) {
	w := startXDS(t)
	none := func(string) bool { return false }
	for _, version := range []string{"1.0.0", "1.1.0"} {
		w.publish("web", version, canaryContract, "shadow: safe")
		w.sidecar("web:"+version, newWitness(t, version, none).URL)
		w.ready("web", version, 1)
	}
	w.deploy("web", "1.0.0")
	edge := w.envoy("edge").Address
	eventually(t, "first answer", func() error { _, err := knockWith(t, edge, "web.agents", "", ""); return err })
	w.ctl(0, []string{"effective: after"}, "shadow", "web:1.1.0", "--percent", "100")
	pairs := func(n uint64) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d pairs", n), func() error {
			got, err := w.shadow("web")
			if err == nil && (got.GetBothSucceeded() != n || got.GetRequests() != n || got.GetCopies() != n) {
				err = fmt.Errorf("%v", got)
			}
			return err
		})
	}
	send := func(n int) {
		t.Helper()
		for range n {
			if got, err := knockWith(t, edge, "web.agents", "", ""); err != nil || got != "1.0.0" {
				t.Fatalf("%q, %v", got, err)
			}
		}
	}
	send(20)
	pairs(20)
	w.xds.terminate()
	<-w.xds.done
	send(10) // Envoy copies on, and sidecars keep what they cannot tell
	w.restartXDS()
	w.ready("web", "1.0.0", 1)
	send(10)
	pairs(40)
}
