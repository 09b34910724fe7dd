package proxy_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

// problem is what a client reads from a retry signal.
type problem struct {
	Type, Code, From, To, Effects, PostMortem, Execution string
	Retry                                                bool
	RetryAfterMs                                         *int64
}

func TestCancelBeforeHeadersIsARetrySignal(t *testing.T) {
	for _, c := range []struct {
		random  float64
		seconds string
		ms      string
	}{{0, "1", "1000"}, {0.5, "3", "2500"}, {0.25, "2", "1750"}} {
		h := newHeld()
		r := newRig(t, cancels, h)
		r.random = c.random
		answered := r.later(r.request("POST", "/work", "x"))
		id := get(t, "request", h.reached).Header.Get("X-Execution-Id")
		r.fence()
		res := get(t, "the signal", answered)
		_ = get(t, "the agent's notice", h.cut)
		var p problem
		if err := json.Unmarshal([]byte(read(t, res)), &p); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 503 || res.Header.Get("Content-Type") != "application/problem+json" || res.Header.Get("X-Should-Retry") != "true" ||
			res.Header.Get("X-Spec-Rollback") != "from=2.1.0, to=2.0.3, effects=none" || res.Header.Get("X-Spec-Pin") != "" ||
			res.Header.Get("Retry-After") != c.seconds || res.Header.Get("Retry-After-Ms") != c.ms || res.Header.Get("X-Execution-Id") != id {
			t.Errorf("got %d %v", res.StatusCode, res.Header)
		}
		if p.Code != "SPEC_VERSION_ROLLED_BACK" || p.From != "2.1.0" || p.To != "2.0.3" || p.Effects != "none" || !p.Retry || p.PostMortem != "PM-1" || p.Execution != id {
			t.Errorf("problem %+v", p)
		}
		if row := r.endedRow(); row.Disposition != drain.Cancel || row.Status != 503 || row.Outcome != "" {
			t.Errorf("ledger %+v", row)
		}
		if totals := r.ledger.Totals(); totals.Cancelled != 1 || totals.InFlight != 0 {
			t.Errorf("totals %+v", totals)
		}
	}
}

func TestCancelInTheMiddleOfAnEventStream(t *testing.T) {
	h := newHeld()
	r := newRig(t, cancels, h)
	answered := r.later(r.request("GET", "/stream", ""))
	get(t, "request", h.reached)
	wrote := make(chan struct{}, 1)
	h.answer <- func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		_, _ = io.WriteString(w, "data: whole\n\ndata: half of an ev")
		w.(http.Flusher).Flush()
		wrote <- struct{}{}
		<-req.Context().Done()
	}
	res := get(t, "headers", answered)
	line := lines(t, res.Body)
	if got := line(); got != "data: whole" {
		t.Fatal(got)
	}
	_ = line()
	get(t, "write", wrote)
	r.fence()
	if got := line(); got != "event: error" {
		t.Fatalf("the client got %q before the terminal event", got)
	}
	data, ok := strings.CutPrefix(line(), "data: ")
	var p problem
	if err := json.Unmarshal([]byte(data), &p); !ok || err != nil || p.Code != "SPEC_VERSION_ROLLED_BACK" || p.To != "2.0.3" || p.Effects != "none" {
		t.Errorf("terminal event %q: %v", data, err)
	}
	if got := line(); got != "" {
		t.Errorf("the event goes on with %q", got)
	}
	if rest := read(t, res); rest != "" { // and a clean end
		t.Errorf("the stream goes on with %q", rest)
	}
}

func TestCancelInTheMiddleOfAnotherBodyBreaksIt(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"chunked":     func(http.ResponseWriter) {},
		"with length": func(w http.ResponseWriter) { w.Header().Set("Content-Length", "9000") },
		"encoded events": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Content-Encoding", "br")
		},
		"events of length": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Content-Length", "9000")
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHeld()
			r := newRig(t, cancels, h)
			answered := r.later(r.request("GET", "/", ""))
			get(t, "request", h.reached)
			h.answer <- func(w http.ResponseWriter, req *http.Request) {
				answer(w)
				_, _ = io.WriteString(w, "begun\n"+strings.Repeat("x", 8000)) // more than net/http holds back
				w.(http.Flusher).Flush()
				<-req.Context().Done()
			}
			res := get(t, "headers", answered)
			if line := lines(t, res.Body)(); line != "begun" {
				t.Fatal(line)
			}
			r.fence()
			if rest, err := io.ReadAll(res.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("a cut body ended with %v after %q", err, rest)
			}
		})
	}
}

func TestAnEventTooLongToHoldBackIsNotLost(t *testing.T) {
	long := strings.Repeat("x", 200<<10)
	r := newRig(t, cancels, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprintf(w, "data: %s\n\ndata: tail without end", long)
	}))
	if got, want := read(t, r.do(r.request("GET", "/", ""))), "data: "+long+"\n\ndata: tail without end"; got != want {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
}

func TestCompleteRunsOn(t *testing.T) {
	h := newHeld()
	r := newRig(t, completes, h)
	answered := r.later(r.request("POST", "/work", "x"))
	get(t, "request", h.reached)
	r.fence()
	h.answer <- reply("done under the old version")
	res := get(t, "answer", answered)
	if body := read(t, res); res.StatusCode != 200 || body != "done under the old version" {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
	if row := r.endedRow(); row.Disposition != drain.Complete {
		t.Errorf("ledger %+v", row)
	}
}

func TestHandOverByRedirect(t *testing.T) {
	h := newHeld()
	r := newRig(t, handsOver, h)
	deadline := time.Now().Add(time.Hour).UTC()
	answered := r.later(r.request("POST", "/work?x=1", "body", "X-Forwarded-Proto", "https", "X-Spec-Deadline", deadline.Format(time.RFC3339Nano)))
	id := get(t, "request", h.reached).Header.Get("X-Execution-Id")
	r.fence()
	res := get(t, "the redirect", answered)
	_ = get(t, "the agent's notice", h.cut)
	if res.StatusCode != 307 || res.Header.Get("Location") != "https://customer-service.agents/work?x=1" || res.Header.Get("X-Spec-Pin") != "pin203" ||
		res.Header.Get("X-Spec-Hop") != "1" || res.Header.Get("X-Spec-Origin") != id || res.Header.Get("X-Spec-Deadline") != deadline.Format(time.RFC3339Nano) {
		t.Errorf("got %d %v", res.StatusCode, res.Header)
	}
	if row := r.endedRow(); row.Disposition != drain.Handover || row.Status != 307 {
		t.Errorf("ledger %+v", row)
	}
	if totals := r.ledger.Totals(); totals.HandedOver != 1 {
		t.Errorf("totals %+v", totals)
	}
}

// The body was read by the agent, so only a copy can begin again elsewhere.
func TestHandOverByForwardingWherePastEnvoy(t *testing.T) {
	h := newHeld()
	r := newRig(t, handsOver, h)
	arrived := make(chan *http.Request, 1)
	target := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		arrived <- req
		w.Header().Set("X-Spec-Version", "customer-service:2.0.3")
		_, _ = w.Write(append([]byte("again: "), body...))
	}))
	answered := r.later(r.request("POST", "/work", "body", "X-Spec-Buffer", ""))
	id := get(t, "request", h.reached).Header.Get("X-Execution-Id")
	r.fence(target)
	res := get(t, "answer", answered)
	if body := read(t, res); res.StatusCode != 200 || body != "again: body" || res.Header.Get("X-Spec-Version") != "customer-service:2.0.3" {
		t.Errorf("got %d %q %v", res.StatusCode, body, res.Header)
	}
	got := get(t, "the target's request", arrived)
	if got.Header.Get("X-Spec-Origin") != id || got.Header.Get("X-Spec-Hop") != "1" || got.Header.Get("X-Spec-Buffer") != "" || got.Host != "customer-service.agents" {
		t.Errorf("the target got %v", got.Header)
	}
	if row := r.endedRow(); row.Disposition != drain.Handover {
		t.Errorf("ledger %+v", row)
	}
}

func TestHandOverIsImpossible(t *testing.T) {
	for name, prepare := range map[string]func(r *rig, h *held) *http.Request{
		"body over Envoy's limit": func(r *rig, _ *held) *http.Request { return r.request("POST", "/", strings.Repeat("x", 1025)) },
		"body over our own limit": func(r *rig, _ *held) *http.Request {
			return r.request("POST", "/", strings.Repeat("x", 1025), "X-Spec-Buffer", "")
		},
		"handed over before": func(r *rig, _ *held) *http.Request {
			return r.request("POST", "/", "x", "X-Spec-Hop", "1", "X-Spec-Origin", "x1.other")
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHeld()
			r := newRig(t, handsOver, h)
			answered := r.later(prepare(r, h))
			get(t, "request", h.reached)
			r.fence()
			if res := get(t, "answer", answered); res.StatusCode != 503 || res.Header.Get("X-Should-Retry") != "true" {
				t.Errorf("got %d %v", res.StatusCode, res.Header)
			}
			if row := r.endedRow(); row.Disposition != drain.Cancel {
				t.Errorf("ledger %+v", row)
			}
		})
	}
}

func TestHandOverWithNowhereToGoIsARetrySignal(t *testing.T) {
	h := newHeld()
	r := newRig(t, handsOver, h)
	answered := r.later(r.request("POST", "/", "x", "X-Spec-Buffer", ""))
	get(t, "request", h.reached)
	r.fence() // past Envoy, and no address of the target is known
	if res := get(t, "answer", answered); res.StatusCode != 503 || res.Header.Get("X-Should-Retry") != "true" || res.Header.Get("X-Spec-Rollback") == "" {
		t.Errorf("got %d %v", res.StatusCode, res.Header)
	}
}

// An answer that the agent gives after the decision must not go out.
func TestResponseAfterTheDecisionIsNotSent(t *testing.T) {
	r := newRig(t, handsOver, nil)
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r.fence() // the decision falls while the agent is about to answer
		_, _ = io.WriteString(w, "too late")
	})
	r2 := newRigAt(t, handsOver, endpoint(serve(t, h)))
	r2.state(nil)
	r = r2
	res := r2.do(r2.request("POST", "/", "x"))
	if body := read(t, res); res.StatusCode != 307 || body != "" {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
}

func TestSignalAfterAnIrreversibleActForbidsTheRepeat(t *testing.T) {
	h := newHeld()
	r := newRig(t, completes, h)
	answered := r.later(r.request("POST", "/", "x"))
	x, _ := r.ledger.Join(get(t, "request", h.reached).Header.Get("X-Execution-Id"))
	if err := x.Grant(drain.Act{Tool: "refund.issue", Class: drain.EffectsIrreversible}, nil); err != nil {
		t.Fatal(err)
	}
	r.proxy.CutAll()
	res := get(t, "answer", answered)
	var p problem
	_ = json.Unmarshal([]byte(read(t, res)), &p)
	if res.StatusCode != 503 || res.Header.Get("X-Should-Retry") != "false" || res.Header.Get("Retry-After") != "" || p.Retry || p.Effects != "irreversible" {
		t.Errorf("got %d %v %+v", res.StatusCode, res.Header, p)
	}
}

func TestCutAllEndsWhatRunsAndWhatComes(t *testing.T) {
	h := newHeld()
	r := newRig(t, completes, h)
	running := r.later(r.request("POST", "/", "x"))
	get(t, "request", h.reached)
	r.proxy.CutAll()
	late := r.do(r.request("POST", "/", "x"))
	for _, res := range []*http.Response{get(t, "answer", running), late} {
		var p problem
		_ = json.Unmarshal([]byte(read(t, res)), &p)
		if res.StatusCode != 503 || res.Header.Get("X-Should-Retry") != "true" || res.Header.Get("X-Spec-Rollback") != "" || p.Code != "INSTANCE_LEAVING" {
			t.Errorf("got %d %v %+v", res.StatusCode, res.Header, p)
		}
	}
	if err := r.proxy.AwaitIdle(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestUpgradeIsCut(t *testing.T) {
	ended := make(chan error, 1)
	r := newRig(t, cancels, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, err = rw.ReadByte()
		ended <- err
	}))
	conn := dial(t, r.addr)
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: customer-service.agents\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	buf := make([]byte, 1024)
	if n, err := conn.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 101") {
		t.Fatal(err)
	}
	r.fence()
	if err := get(t, "the agent's notice", ended); err == nil {
		t.Error("the agent's connection goes on")
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("the client's connection: %v", err)
	}
	if row := r.endedRow(); row.Disposition != drain.Cancel {
		t.Errorf("ledger %+v", row)
	}
}

// An order does not wait for a request whose client has stopped in its middle.
func TestCutOfARequestThatHasNotEnded(t *testing.T) {
	for name, length := range map[string]string{"chunked": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "of known length": "Content-Length: 10\r\n\r\nhello"} {
		t.Run(name, func(t *testing.T) {
			reached := make(chan struct{}, 1)
			r := newRig(t, handsOver, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
				reached <- struct{}{}
				_, _ = io.Copy(io.Discard, req.Body)
			}))
			conn := dial(t, r.addr)
			_, _ = io.WriteString(conn, "POST /work HTTP/1.1\r\nHost: customer-service.agents\r\nX-Spec-Buffer: 1024\r\n"+length)
			get(t, "request", reached)
			r.fence()
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("X-Should-Retry") != "true" {
				t.Fatalf("got %v, %v", res, err)
			}
			if _, err := io.ReadAll(res.Body); err != nil {
				t.Error(err)
			}
			if row := r.endedRow(); row.Disposition != drain.Cancel || row.Status != http.StatusServiceUnavailable {
				t.Errorf("ledger %+v", row)
			}
		})
	}
}
