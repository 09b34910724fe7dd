package proxy_test

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

// fencedRig is fenced, and its agent must not be reached.
func fencedRig(t *testing.T, addresses ...string) *rig {
	t.Helper()
	r := newRig(t, completes, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		t.Errorf("the abandoned version got new work: %s", req.URL.Path)
	}))
	r.fence(addresses...)
	return r
}

func TestNewWorkOnAFencedSidecarIsRedirected(t *testing.T) {
	r := fencedRig(t)
	for _, body := range []string{"", "x", strings.Repeat("x", 1024)} {
		res := r.do(r.request("POST", "/work?x=1", body))
		if res.StatusCode != 307 || res.Header.Get("Location") != "http://customer-service.agents/work?x=1" || res.Header.Get("X-Spec-Pin") != "pin203" ||
			res.Header.Get("X-Spec-Hop") != "1" || res.Header.Get("X-Spec-Origin") != "" {
			t.Errorf("got %d %v", res.StatusCode, res.Header)
		}
	}
	if n := r.proxy.PassedOn(); n != 3 {
		t.Errorf("passed on %d", n)
	}
	if totals := r.ledger.Totals(); totals != (drain.Totals{}) {
		t.Errorf("the ledger counts %+v", totals)
	}
}

// Envoy can replay a request only after its end.
func TestTheRedirectWaitsForTheRequestsEnd(t *testing.T) {
	r := fencedRig(t)
	body, write := io.Pipe()
	req := r.request("POST", "/", "")
	req.Body = body
	answered := r.later(req)
	if _, err := io.WriteString(write, "first"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(write, "second"); err != nil {
		t.Fatal(err)
	}
	select {
	case res := <-answered:
		t.Fatalf("answered %d before the request had ended", res.StatusCode)
	default:
	}
	_ = write.Close()
	if res := get(t, "redirect", answered); res.StatusCode != 307 {
		t.Errorf("got %d", res.StatusCode)
	}
}

func TestWorkOfAHandOverKeepsItsOrigin(t *testing.T) {
	r := fencedRig(t)
	res := r.do(r.request("POST", "/", "x", "X-Spec-Hop", "2", "X-Spec-Origin", "x1.begun"))
	if res.StatusCode != 307 || res.Header.Get("X-Spec-Hop") != "3" || res.Header.Get("X-Spec-Origin") != "x1.begun" {
		t.Errorf("got %d %v", res.StatusCode, res.Header)
	}
}

func TestTooManyHops(t *testing.T) {
	r := fencedRig(t)
	res := r.do(r.request("POST", "/", "x", "X-Spec-Hop", "4"))
	if res.StatusCode != 503 || res.Header.Get("X-Should-Retry") != "true" || res.Header.Get("X-Spec-Rollback") != "from=2.1.0, to=2.0.3, effects=none" {
		t.Errorf("got %d %v", res.StatusCode, res.Header)
	}
}

func TestArrivalByHandOverIsCounted(t *testing.T) {
	h := newHeld()
	r := newRig(t, completes, h)
	answered := r.later(r.request("POST", "/", "x", "X-Spec-Hop", "1", "X-Spec-Origin", "x1.begun"))
	get(t, "request", h.reached)
	h.answer <- reply("ok")
	get(t, "answer", answered)
	if row := r.endedRow(); row.HandedOverFrom != "x1.begun" {
		t.Errorf("ledger %+v", row)
	}
	if totals := r.ledger.Totals(); totals.Arrived != 1 {
		t.Errorf("totals %+v", totals)
	}
}

// target is a sidecar of the version that takes over.
func target(t *testing.T, name string) (addr string, got chan *http.Request) {
	t.Helper()
	got = make(chan *http.Request, 100)
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		got <- req
		if req.Header.Get("Upgrade") != "" {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			line, _ := rw.ReadString('\n')
			_, _ = io.WriteString(conn, name+" "+line)
			return
		}
		body, _ := io.ReadAll(req.Body)
		w.Header().Set("X-Spec-Pin", "pin203")
		w.Header().Set("X-Served-By", name)
		_, _ = io.WriteString(w, name+" "+string(body))
	})), got
}

func TestWhatCannotBeRedirectedIsForwarded(t *testing.T) {
	addr, got := target(t, "a")
	r := fencedRig(t, addr)
	large := strings.Repeat("x", 2000)
	for name, req := range map[string]*http.Request{
		"past Envoy":                  r.request("POST", "/", "body", "X-Spec-Buffer", ""),
		"larger than Envoy's buffer":  r.request("POST", "/", large),
		"of unknown length and large": func() *http.Request { q := r.request("POST", "/", large); q.ContentLength = -1; return q }(),
	} {
		t.Run(name, func(t *testing.T) {
			want := "a body"
			if req.ContentLength != 4 {
				want = "a " + large
			}
			res := r.do(req)
			if body := read(t, res); res.StatusCode != 200 || body != want || res.Header.Get("X-Spec-Pin") != "pin203" {
				t.Errorf("got %d, %d bytes, %v", res.StatusCode, len(body), res.Header)
			}
			if h := get(t, "the target's request", got).Header; h.Get("X-Spec-Hop") != "1" || h.Get("X-Spec-Buffer") != "" || h.Get("X-Spec-Origin") != "" {
				t.Errorf("the target got %v", h)
			}
		})
	}
}

// An Envoy that still routes by an older generation long after the order may not know where the target is by now.
func TestWhatAnEnvoySendsThatIsCutOffIsForwarded(t *testing.T) {
	addr, _ := target(t, "a")
	r := fencedRig(t, addr) // by generation 7
	status := func(route string) int { return r.do(r.request("POST", "/", "body", "X-Spec-Route", route)).StatusCode }
	if got := status("6"); got != 307 {
		t.Errorf("right after the order: %d, want a redirect", got)
	}
	r.ahead.Store(int64(time.Minute))
	r.fence(addr, "127.0.0.1:1") // the same order, with the addresses of now
	for route, want := range map[string]int{"6": 200, "7": 307, "8": 307, "": 307} {
		if got := status(route); got != want {
			t.Errorf("by generation %q a minute later: %d, want %d", route, got, want)
		}
	}
	led := func(known string) int { return r.do(r.request("POST", "/", "body", "X-Spec-Target", known)).StatusCode }
	if before, now := led("6"), led("7"); before != 200 || now != 307 {
		t.Errorf("led here by a header, by an Envoy of before the order and one of after it: %d and %d, want 200 and 307", before, now)
	}
	r.fence()
	if got := status("6"); got != 307 {
		t.Errorf("with no address to forward to: %d, want a redirect", got)
	}
}

func TestUpgradesAreForwarded(t *testing.T) {
	addr, _ := target(t, "a")
	r := fencedRig(t, addr)
	conn := dial(t, r.addr)
	_, _ = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: customer-service.agents\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Spec-Buffer: 1024\r\n\r\n")
	in := bufio.NewReader(conn)
	if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("got %v %v", res, err)
	}
	_, _ = io.WriteString(conn, "hi\n")
	if line, _ := in.ReadString('\n'); line != "a hi\n" {
		t.Errorf("got %q", line)
	}
}

func TestForwardingTakesTurnsAndPassesOverDeadAddresses(t *testing.T) {
	a, gotA := target(t, "a")
	b, gotB := target(t, "b")
	r := fencedRig(t, a, "127.0.0.1:1", b)
	for i := range 12 {
		res := r.do(r.request("POST", "/", "body", "X-Spec-Buffer", ""))
		if body := read(t, res); res.StatusCode != 200 || !strings.HasSuffix(body, " body") {
			t.Fatalf("request %d: %d %q", i, res.StatusCode, body)
		}
	}
	if len(gotA) < 4 || len(gotB) < 4 || len(gotA)+len(gotB) != 12 {
		t.Errorf("a got %d, b got %d", len(gotA), len(gotB))
	}
}

func TestNoTargetIsARetrySignal(t *testing.T) {
	for _, addresses := range [][]string{nil, {"127.0.0.1:1", "127.0.0.1:2"}} {
		r := fencedRig(t, addresses...)
		res := r.do(r.request("POST", "/", "x", "X-Spec-Buffer", ""))
		if res.StatusCode != 503 || res.Header.Get("X-Should-Retry") != "true" || res.Header.Get("Retry-After") != "3" {
			t.Errorf("got %d %v", res.StatusCode, res.Header)
		}
	}
}

// What may have begun is not sent again.
func TestForwardingRepeatsNothingThatWasSent(t *testing.T) {
	hits := make(chan struct{}, 10)
	broken := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		hits <- struct{}{}
		panic(http.ErrAbortHandler)
	}))
	r := fencedRig(t, broken, broken)
	res := r.do(r.request("POST", "/", "x", "X-Spec-Buffer", ""))
	if res.StatusCode != 502 || len(hits) != 1 || res.Header.Get("X-Should-Retry") != "" {
		t.Errorf("got %d after %d attempts", res.StatusCode, len(hits))
	}
}

func TestLiftedFenceTakesNewWorkAgain(t *testing.T) {
	h := newHeld()
	r := newRig(t, completes, h)
	r.fence()
	if res := r.do(r.request("GET", "/", "")); res.StatusCode != 307 {
		t.Fatalf("got %d", res.StatusCode)
	}
	r.state(nil)
	answered := r.later(r.request("GET", "/", ""))
	get(t, "request", h.reached)
	h.answer <- reply("ok")
	if res := get(t, "answer", answered); res.StatusCode != 200 {
		t.Errorf("got %d", res.StatusCode)
	}
}
