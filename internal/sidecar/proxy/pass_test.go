package proxy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/execid"
)

func TestAgentSeesTheRequestAndOursAlone(t *testing.T) {
	seen := make(chan *http.Request, 1)
	r := newRig(t, completes, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		req.Body = io.NopCloser(strings.NewReader(string(body)))
		seen <- req
	}))
	res := r.do(r.request("POST", "/a%2Fb/c?q=1;2&x=%zz", "hello",
		"X-Spec-Route", "17", "X-Spec-Outcome", "success", "X-Spec-Anything", "x", "X-Forwarded-For", "10.1.1.1", "X-Forwarded-Proto", "https", "X-Own", "kept"))
	got := get(t, "the agent's request", seen)
	body, _ := io.ReadAll(got.Body)
	id := got.Header.Get("X-Execution-Id")
	if version, instance, ok := execid.Verify([]byte("key"), id); !ok || version != "2.1.0" || instance != "one" {
		t.Errorf("execution id %q does not verify", id)
	}
	for name, want := range map[string]string{
		"X-Spec-Version": "customer-service:2.1.0", "X-Spec-Digest": "sha256:feed", "X-Own": "kept",
		"X-Forwarded-For": "10.1.1.1", "X-Forwarded-Proto": "https",
		"X-Spec-Route": "", "X-Spec-Outcome": "", "X-Spec-Anything": "", "X-Spec-Buffer": "",
	} {
		if have := got.Header.Get(name); have != want {
			t.Errorf("the agent got %s: %q, want %q", name, have, want)
		}
	}
	if got.Host != "customer-service.agents" || got.RequestURI != "/a%2Fb/c?q=1;2&x=%zz" || string(body) != "hello" {
		t.Errorf("the agent got %s %s %q", got.Host, got.RequestURI, body)
	}
	if res.Header.Get("X-Spec-Version") != "customer-service:2.1.0" || res.Header.Get("X-Spec-Pin") != "pin210" || res.Header.Get("X-Execution-Id") != id {
		t.Errorf("the client got %v", res.Header)
	}
	if row := r.endedRow(); row.ID != id || row.RouteGeneration != 17 || row.Status != 200 || row.Outcome != "" || row.Path != "/a/b/c" {
		t.Errorf("the ledger has %+v", row)
	}
}

func TestAgentsStatementsAreConsumedAndStripped(t *testing.T) {
	for _, c := range []struct {
		name    string
		answer  http.HandlerFunc
		outcome drain.Outcome
		reason  string
		acts    int
	}{
		{"success header", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Spec-Outcome", "success") }, drain.Success, "", 0},
		{"failure header", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Spec-Outcome", `failure; reason="over the limit; ask"`)
		}, drain.Failure, "over the limit; ask", 0},
		{"failure trailer", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Spec-Outcome, X-Own, X-Spec-Effects")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X-Spec-Outcome", `failure; reason="late"`)
			w.Header().Set("X-Spec-Effects", `irreversible; tool="refund.issue", readonly; tool=look`)
			w.Header().Set("X-Own", "kept")
		}, drain.Failure, "late", 2},
		{"unannounced trailer", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "body")
			w.(http.Flusher).Flush()
			w.Header().Set(http.TrailerPrefix+"X-Spec-Outcome", "success")
		}, drain.Success, "", 0},
		{"status 500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, drain.Failure, "status 500", 0},
		{"status 404 says nothing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, "", "", 0},
		{"200 alone is not success", func(http.ResponseWriter, *http.Request) {}, "", "", 0},
		{"stated success wins over 500", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Spec-Outcome", "success")
			w.WriteHeader(500)
		}, drain.Success, "", 0},
		{"nonsense is ignored", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Spec-Outcome", "perhaps")
			w.Header().Set("X-Spec-Effects", "terrible; tool=x")
		}, "", "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, completes, c.answer)
			res := r.do(r.request("GET", "/", ""))
			_ = read(t, res)
			row := r.endedRow()
			if row.Outcome != c.outcome || row.OutcomeReason != c.reason || len(row.Acts) != c.acts {
				t.Errorf("ledger: outcome %q %q, acts %v", row.Outcome, row.OutcomeReason, row.Acts)
			}
			for _, h := range []http.Header{res.Header, res.Trailer} {
				for name := range h {
					if strings.HasPrefix(name, "X-Spec-") && name != "X-Spec-Version" && name != "X-Spec-Pin" {
						t.Errorf("the client got %s: %q", name, h[name])
					}
				}
			}
			if c.name == "failure trailer" && res.Trailer.Get("X-Own") != "kept" {
				t.Errorf("the agent's own trailer is lost: %v", res.Trailer)
			}
		})
	}
}

// What an agent redirects to is the client's to follow: the sidecar keeps it from Envoy, which puts it back.
func TestAgentsRedirects(t *testing.T) {
	const location = "http://customer-service.agents/next?a=b#c"
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Location", location)
		w.Header().Set("X-Spec-Location", "http://elsewhere.example/")
		status, _ := strconv.Atoi(req.URL.Path[1:])
		w.WriteHeader(status)
	}))
	for _, c := range []struct{ path, buffer, want, masked string }{
		{"/307", "1024", "", location},
		{"/307", "", location, ""}, // past Envoy
		{"/308", "1024", location, ""},
		{"/302", "1024", location, ""},
		{"/201", "1024", location, ""},
	} {
		res := r.do(r.request("GET", c.path, "", "X-Spec-Buffer", c.buffer))
		if got, masked := res.Header.Get("Location"), res.Header.Get("X-Spec-Location"); got != c.want || masked != c.masked {
			t.Errorf("%+v: Location %q, X-Spec-Location %q", c, got, masked)
		}
	}
}

func TestInformationalResponsesPassWithoutOurHeaders(t *testing.T) {
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Spec-Pin", "stolen")
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		clear(w.Header())
		_, _ = io.WriteString(w, "ok")
	}))
	early := make(chan http.Header, 1)
	req := r.request("GET", "/", "")
	res := r.do(req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		if code == http.StatusEarlyHints {
			early <- http.Header(h)
		}
		return nil
	}})))
	if h := get(t, "early hints", early); h.Get("Link") == "" || h.Get("X-Spec-Pin") != "" {
		t.Errorf("early hints: %v", h)
	}
	if res.Header.Get("Link") != "" {
		t.Errorf("the response has the hints' headers: %v", res.Header)
	}
	if body := read(t, res); res.StatusCode != 200 || body != "ok" || res.Header.Get("X-Spec-Pin") != "pin210" {
		t.Errorf("got %d %q %v", res.StatusCode, body, res.Header)
	}
}

func TestStreamsFlushAtOnce(t *testing.T) {
	next := make(chan string)
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		for s := range next {
			_, _ = fmt.Fprintf(w, "data: %s\n\n", s)
			w.(http.Flusher).Flush()
		}
	}))
	res := r.do(r.request("GET", "/", "")) // headers come before any event
	line := lines(t, res.Body)
	for _, s := range []string{"one", "two", "three"} {
		next <- s // each arrives before the next is written
		if got, empty := line(), line(); got != "data: "+s || empty != "" {
			t.Fatalf("got %q, %q", got, empty)
		}
	}
	close(next)
	if rest := read(t, res); rest != "" {
		t.Errorf("the end has %q", rest)
	}
}

func TestBothDirectionsAtOnceOverHTTP1(t *testing.T) {
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		in := bufio.NewReader(req.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, "echo "+line)
			w.(http.Flusher).Flush()
		}
	}))
	body, write := io.Pipe()
	req := r.request("POST", "/", "")
	req.Body = body
	answered := r.later(req)
	if _, err := io.WriteString(write, "a\n"); err != nil {
		t.Fatal(err)
	}
	res := get(t, "headers before the request's end", answered)
	line := lines(t, res.Body)
	if got := line(); got != "echo a" {
		t.Fatal(got)
	}
	if _, err := io.WriteString(write, "b\n"); err != nil {
		t.Fatal(err)
	}
	if got := line(); got != "echo b" {
		t.Fatal(got)
	}
	_ = write.Close()
	if rest := read(t, res); rest != "" {
		t.Errorf("rest %q", rest)
	}
}

func TestAgentThatBreaksOffIsNoSuccess(t *testing.T) {
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))
	res := r.do(r.request("GET", "/", ""))
	if data, err := io.ReadAll(res.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a broken response ended with %v after %q", err, data)
	}
	if row := r.endedRow(); row.Outcome != drain.Failure || !strings.HasPrefix(row.OutcomeReason, "the agent broke off") {
		t.Errorf("ledger: %q %q", row.Outcome, row.OutcomeReason)
	}
}

func TestUnreachableAgent(t *testing.T) {
	r := newRigAt(t, completes, endpoint("127.0.0.1:1"))
	r.state(nil)
	res := r.do(r.request("POST", "/", "x"))
	var problem map[string]any
	if err := json.NewDecoder(res.Body).Decode(&problem); err != nil || res.StatusCode != 502 || res.Header.Get("X-Should-Retry") != "" {
		t.Errorf("got %d %v %v", res.StatusCode, problem, err)
	}
	if row := r.endedRow(); row.Outcome != drain.Failure || row.Status != 502 {
		t.Errorf("ledger: %+v", row)
	}
}

func TestNothingIsAdmittedBeforeTheFirstState(t *testing.T) {
	reached := false
	r := newRigAt(t, completes, endpoint(serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))))
	res := r.do(r.request("GET", "/", ""))
	if res.StatusCode != 503 || res.Header.Get("Retry-After") != "1" || reached || r.ledger.Totals().Started != 0 {
		t.Errorf("got %d, reached %v", res.StatusCode, reached)
	}
}

func TestClientThatLeavesIsNoFailureOfTheAgent(t *testing.T) {
	h := newHeld()
	r := newRig(t, completes, h)
	conn := dial(t, r.addr)
	_, _ = io.WriteString(conn, "GET /slow HTTP/1.1\r\nHost: customer-service.agents\r\n\r\n")
	get(t, "the agent's request", h.reached)
	_ = conn.Close()
	_ = get(t, "the agent's notice", h.cut)
	if row := r.endedRow(); row.Outcome != "" || row.Status != 0 {
		t.Errorf("ledger: %+v", row)
	}
}

// The same over HTTP/2, for a plain request and a gRPC call, whose connection stays.
func TestAnHTTP2ClientThatLeavesEndsTheAgentsRequest(t *testing.T) {
	for _, kind := range []string{"application/json", "application/grpc"} {
		t.Run(kind, func(t *testing.T) {
			h := newHeld()
			r := newRig(t, completes, h)
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			req := r.request("POST", "/a.B/Slow", "body", "Content-Type", kind, "Te", "trailers").WithContext(ctx)
			c, left := client(t, true), make(chan error, 1)
			go func() {
				res, err := c.Do(req)
				if err == nil {
					_ = res.Body.Close()
				}
				left <- err
			}()
			get(t, "the agent's request", h.reached)
			leave()
			if err := get(t, "the client's end", left); !errors.Is(err, context.Canceled) {
				t.Errorf("the client got %v", err)
			}
			_ = get(t, "the agent's notice", h.cut)
			if row := r.endedRow(); row.Outcome != "" || row.Status != 0 {
				t.Errorf("ledger: %+v", row)
			}
		})
	}
}

func TestJoiningAnExecution(t *testing.T) {
	h := newHeld()
	r := newRig(t, completes, h)
	first := r.later(r.request("POST", "/first", "x"))
	id := get(t, "first", h.reached).Header.Get("X-Execution-Id")

	second := r.later(r.request("POST", "/second", "y", "X-Execution-Id", id))
	if got := get(t, "second", h.reached).Header.Get("X-Execution-Id"); got != id {
		t.Fatalf("the second request runs as %s, not as %s", got, id)
	}
	r.fence() // a running execution takes further requests
	third := r.later(r.request("POST", "/third", "z", "X-Execution-Id", id))
	if got := get(t, "third", h.reached).Header.Get("X-Execution-Id"); got != id {
		t.Fatalf("the third request runs as %s", got)
	}
	if totals := r.ledger.Totals(); totals.Started != 1 || totals.InFlight != 1 {
		t.Errorf("totals %+v", totals)
	}
	for range 3 {
		h.answer <- reply("done")
	}
	for _, c := range []<-chan *http.Response{first, second, third} {
		if res := get(t, "an answer", c); res.StatusCode != 200 {
			t.Errorf("got %d", res.StatusCode)
		}
	}
	if row := r.endedRow(); row.ID != id {
		t.Errorf("ended %s", row.ID)
	}
}

func TestInventedIdsAreKeysAlone(t *testing.T) {
	seen := make(chan string, 10)
	r := newRig(t, completes, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { seen <- req.Header.Get("X-Execution-Id") }))
	forged := execid.Mint([]byte("another key"), "2.1.0", "one", [execid.RandomSize]byte{1})
	ended := execid.Mint([]byte("key"), "2.1.0", "one", [execid.RandomSize]byte{2})
	for _, c := range []struct{ sent, idempotency, key string }{
		{"my-own", "", "my-own"}, {forged, "", forged}, {ended, "", ended}, {"my-own", "idem", "idem"}, {"", "idem", "idem"}, {"", "", ""},
	} {
		r.do(r.request("GET", "/", "", "X-Execution-Id", c.sent, "Idempotency-Key", c.idempotency))
		id := get(t, "id", seen)
		if id == c.sent {
			t.Errorf("%q was taken for an id", c.sent)
		}
		if row := r.endedRow(); row.Key != c.key || row.ID != id {
			t.Errorf("key %q of %q, want %q", row.Key, row.ID, c.key)
		}
	}
}

func TestUpgradeLivesInTheLedger(t *testing.T) {
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Spec-Outcome: success\r\n\r\n")
		line, _ := rw.ReadString('\n')
		_, _ = io.WriteString(conn, "echo "+line)
		_, _ = rw.ReadString('\n') // until the client leaves
	}))
	conn := dial(t, r.addr)
	_, _ = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: customer-service.agents\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Spec-Buffer: 1024\r\n\r\n")
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("X-Spec-Outcome") != "" || res.Header.Get("X-Execution-Id") == "" {
		t.Fatalf("got %v %v", res, err)
	}
	_, _ = io.WriteString(conn, "hi\n")
	if line, _ := in.ReadString('\n'); line != "echo hi\n" {
		t.Fatalf("got %q", line)
	}
	rows := r.ledger.Running()
	if len(rows) != 1 || rows[0].Replayable || !rows[0].Responded {
		t.Fatalf("the ledger has %+v", rows)
	}
	_ = conn.Close()
	if row := r.endedRow(); row.Status != 101 || row.Outcome != drain.Success {
		t.Errorf("ended %+v", row)
	}
}

func TestDeadlineOfTheRequestEndsIt(t *testing.T) {
	h := newHeld()
	r := newRig(t, completes, h)
	deadline := time.Now().Add(50 * time.Millisecond)
	res := r.do(r.request("GET", "/", "", "X-Spec-Deadline", deadline.Format(time.RFC3339Nano)))
	if res.StatusCode != http.StatusGatewayTimeout || time.Now().Before(deadline) {
		t.Errorf("got %d", res.StatusCode)
	}
	_ = get(t, "the agent's notice", h.cut)
	if row := r.endedRow(); row.Outcome != drain.Failure || !row.Deadline.Equal(deadline.Round(0)) {
		t.Errorf("ledger %+v", cmp.Diff(row.Deadline, deadline.Round(0)))
	}
}

func TestTheBeginningOfALongResponseIsNotKeptBack(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, cancels, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Length", "6")
		_, _ = io.WriteString(w, "abc")
		w.(http.Flusher).Flush()
		select {
		case <-release:
		case <-req.Context().Done():
		}
		_, _ = io.WriteString(w, "def")
	}))
	res := r.do(r.request("GET", "/", ""))
	begun := make([]byte, 3)
	if _, err := io.ReadFull(res.Body, begun); err != nil || string(begun) != "abc" {
		t.Fatalf("%q: %v", begun, err)
	}
	close(release)
	if rest := read(t, res); rest != "def" {
		t.Errorf("then %q", rest)
	}
}
