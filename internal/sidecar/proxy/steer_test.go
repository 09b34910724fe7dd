package proxy_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// A request's trailers come behind everything that strips headers on the way.
func TestNoTrailerOfARequestSpeaksForUs(t *testing.T) {
	seen := make(chan http.Header, 1)
	agent := http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		seen <- req.Trailer
	})
	for _, two := range []bool{false, true} {
		r := newRig(t, completes, agent)
		req := r.request("POST", "/", "body")
		req.ContentLength = -1
		req.Trailer = http.Header{"X-Spec-Version": {"forged"}, "X-Spec-Hop": {"4"}, "X-Own": {"kept"}}
		res, err := client(t, two).Do(req)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("got %v %v", res, err)
		}
		_ = res.Body.Close()
		if got := get(t, "the agent's request", seen); len(got) != 1 || got.Get("X-Own") != "kept" {
			t.Errorf("HTTP/2 %v: the agent got the trailers %v", two, got)
		}
	}
}

// Past Envoy a client can send what it likes; it is remembered to a bounded length.
func TestWhatAClientNamesIsBounded(t *testing.T) {
	r := newRig(t, completes, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	long := strings.Repeat("k", 5000)
	for _, name := range []string{"Idempotency-Key", "X-Execution-Id"} {
		r.do(r.request("POST", "/", "x", name, long, "X-Spec-Hop", "1", "X-Spec-Origin", long))
		if row := r.endedRow(); len(row.Key) != 256 || row.HandedOverFrom != "" {
			t.Errorf("%s: a key of %d bytes, an origin of %d", name, len(row.Key), len(row.HandedOverFrom))
		}
	}
}

// Whatever listens at a target's address by now: its words do not reach Envoy.
func TestATargetThatIsNoSidecarSteersNothing(t *testing.T) {
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range []string{"X-Spec-Instance", "X-Spec-Hop", "X-Spec-Origin", "X-Spec-Deadline", "X-Spec-Location"} {
			w.Header().Set(name, "forged")
		}
		w.Header().Set("Location", "http://billing.agents/take")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	r := fencedRig(t, addr)
	res := r.do(r.request("POST", "/", strings.Repeat("x", 2000))) // too long for a redirect of ours
	if res.StatusCode != 307 || res.Header.Get("Location") != "" || res.Header.Get("X-Spec-Location") != "http://billing.agents/take" {
		t.Errorf("got %d %v", res.StatusCode, res.Header)
	}
	for name, values := range res.Header {
		if strings.HasPrefix(name, "X-Spec-") && name != "X-Spec-Location" {
			t.Errorf("Envoy is told %s: %q", name, values)
		}
	}
}
