package proxy_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

// net/http would send it again over a new connection, and the target would do it twice: neither what is passed on nor what is handed over.
func TestNoRequestReachesTheTargetTwice(t *testing.T) {
	for _, c := range []struct{ method, body, key string }{
		{"GET", "", ""}, {"POST", "", "once"}, {"POST", "body", "once"}, {"DELETE", "", ""},
	} {
		hits := make(chan *http.Request, 10)
		breaking := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/fine" {
				return
			}
			hits <- req
			panic(http.ErrAbortHandler)
		}))
		check := func(what string, status int) {
			t.Helper()
			if status != http.StatusBadGateway || len(hits) != 1 {
				t.Fatalf("%+v %s: status %d after %d attempts", c, what, status, len(hits))
			}
			if got := <-hits; got.Header.Get("Idempotency-Key") != c.key || got.ContentLength != int64(len(c.body)) {
				t.Errorf("%+v %s: the target got %v, length %d", c, what, got.Header, got.ContentLength)
			}
		}
		h := newHeld()
		r := newRig(t, handsOver, h)
		running := r.later(r.request(c.method, "/breaks", c.body, "Idempotency-Key", c.key, "X-Spec-Buffer", ""))
		get(t, "request", h.reached)
		r.fence(breaking)
		check("handed over", get(t, "answer", running).StatusCode)
		if res := r.do(r.request("GET", "/fine", "", "X-Spec-Buffer", "")); res.StatusCode != 200 { // leaves a connection for reuse
			t.Fatalf("got %d", res.StatusCode)
		}
		check("passed on", r.do(r.request(c.method, "/breaks", c.body, "Idempotency-Key", c.key, "X-Spec-Buffer", "")).StatusCode)
	}
}

// A hand-over keeps the deadline that the client set, not a new one from then on, and its idempotency key.
func TestHandOverByForwardingKeepsDeadlineAndKey(t *testing.T) {
	addr, got := target(t, "a")
	h := newHeld()
	r := newRig(t, handsOver, h)
	deadline := time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano)
	answered := r.later(r.request("POST", "/work", "body", "X-Spec-Buffer", "", "X-Spec-Deadline", deadline, "Idempotency-Key", "key-1"))
	get(t, "request", h.reached)
	r.fence(addr)
	if res := get(t, "answer", answered); res.StatusCode != 200 || read(t, res) != "a body" {
		t.Errorf("got %d", res.StatusCode)
	}
	if req := get(t, "the target's request", got); req.Header.Get("X-Spec-Deadline") != deadline || req.Header.Get("Idempotency-Key") != "key-1" {
		t.Errorf("the target got %v", req.Header)
	}
}

// After a response byte nothing begins again elsewhere, whatever the rule says.
func TestNoHandOverAfterAResponseByte(t *testing.T) {
	addr, got := target(t, "a")
	r := newRig(t, handsOver, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
	}))
	res := r.do(r.request("POST", "/work", "body", "X-Spec-Buffer", ""))
	if res.StatusCode != 200 {
		t.Fatalf("got %d", res.StatusCode)
	}
	r.fence(addr)
	if row := r.endedRow(); row.Disposition != drain.Cancel {
		t.Errorf("ledger %+v", row)
	}
	if len(got) != 0 {
		t.Error("the target got a request whose answer had begun")
	}
}

// A promotion hands over what runs, and the sidecar goes on taking work.
func TestSettleHandsOverAndAdmits(t *testing.T) {
	addr, got := target(t, "a")
	contract := completes
	contract.OnPromote = drain.Section{Disposition: drain.Handover, Else: drain.Complete}
	h := newHeld()
	r := newRig(t, contract, h)
	running := r.later(r.request("POST", "/work", "body", "X-Spec-Buffer", ""))
	get(t, "request", h.reached)
	r.settle(addr)
	if res := get(t, "answer", running); read(t, res) != "a body" {
		t.Errorf("got %d", res.StatusCode)
	}
	get(t, "the target's request", got)
	pinned := r.later(r.request("POST", "/work", "body", "X-Spec-Buffer", ""))
	get(t, "request after the order", h.reached)
	h.answer <- reply("here")
	if res := get(t, "answer", pinned); read(t, res) != "here" {
		t.Errorf("got %d", res.StatusCode)
	}
}

// What a shutdown hands over comes back to this version, at another instance: with the own pin.
func TestShutdownHandsOverWithItsOwnPin(t *testing.T) {
	contract := completes
	contract.OnShutdown = drain.Section{Disposition: drain.Handover, Else: drain.Complete}
	h := newHeld()
	r := newRig(t, contract, h)
	redirectable := r.later(r.request("POST", "/work", "body"))
	id := get(t, "request", h.reached).Header.Get("X-Execution-Id")
	other := r.later(r.request("POST", "/work", "body", "X-Spec-Buffer", ""))
	get(t, "request", h.reached)
	r.ledger.Leave(drain.Order{Target: "2.1.0"}, time.Now())
	if res := get(t, "redirect", redirectable); res.StatusCode != 307 || res.Header.Get("X-Spec-Pin") != "pin210" || res.Header.Get("X-Spec-Origin") != id {
		t.Errorf("got %d %v", res.StatusCode, res.Header)
	}
	_ = get(t, "the agent's notice", h.cut)
	h.answer <- reply("done")
	if res := get(t, "answer", other); res.StatusCode != 200 {
		t.Errorf("what cannot be redirected got %d", res.StatusCode)
	}
}
