package proxy_test

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"syscall"
	"testing"

	"github.com/specproxy/specproxy/internal/sidecar/proxy"
)

// An agent that answers before the request has ended must not leave the rest of it to be read as the next request.
func TestConnectionAfterAnEarlyAnswer(t *testing.T) {
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "no")
	}))
	conn := dial(t, r.addr)
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n") // and no end
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != "no" || res.StatusCode != http.StatusForbidden || !res.Close {
		t.Errorf("got %d %q, close %v, %v", res.StatusCode, body, res.Close, err)
	}
	_, _ = io.WriteString(conn, "0\r\n\r\n")
	// Closed with the end of the request unread, the connection may be reset.
	if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection goes on with %q, %v", rest, err)
	}
}

func TestConnectionIsKeptAfterWholeRequests(t *testing.T) {
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		_, _ = w.Write(body)
	}))
	conn := dial(t, r.addr)
	in := bufio.NewReader(conn)
	for i := range 50 {
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "hello" || res.Close {
			t.Fatalf("request %d: %q, close %v, %v", i, body, res.Close, err)
		}
	}
}

// net/http would send it again over a new connection, and the agent would do it twice.
func TestNoRequestReachesTheAgentTwice(t *testing.T) {
	for _, c := range []struct{ method, body, key string }{
		{"GET", "", ""}, {"HEAD", "", ""}, {"POST", "", "once"}, {"POST", "body", "once"}, {"DELETE", "", ""},
	} {
		hits := make(chan *http.Request, 10)
		r := newRig(t, completes, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/fine" {
				return
			}
			hits <- req
			panic(http.ErrAbortHandler)
		}))
		if res := r.do(r.request("GET", "/fine", "")); res.StatusCode != 200 { // leaves a connection for reuse
			t.Fatalf("got %d", res.StatusCode)
		}
		res := r.do(r.request(c.method, "/breaks", c.body, "Idempotency-Key", c.key))
		if res.StatusCode != http.StatusBadGateway || len(hits) != 1 {
			t.Errorf("%+v: status %d after %d attempts", c, res.StatusCode, len(hits))
		}
		got := <-hits
		if got.Header.Get("Idempotency-Key") != c.key || len(got.TransferEncoding) > 0 || got.ContentLength != int64(len(c.body)) {
			t.Errorf("%+v: the agent got %v, length %d, %v", c, got.Header, got.ContentLength, got.TransferEncoding)
		}
	}
}

// An agent may answer before it has the request. A client that goes on sending must get that answer, not a broken connection.
func TestAnEarlyAnswerIsNotLostOnAClientThatStillSends(t *testing.T) {
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}))
	for range 5 {
		conn := dial(t, r.addr)
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		get(t, "the agent's answer", r.ended)
		for range 16 { // what the kernels on the way hold is not enough
			if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
				t.Fatalf("sending on: %v", err)
			}
		}
		if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Fatalf("got %v %v", res, err)
		}
	}
}

// On HTTP/2, frames that come after the end of a stream make Envoy end the connection with everything that runs on it.
func TestAnEarlyAnswerOverHTTP2WaitsForWhatIsOnItsWay(t *testing.T) {
	proxy.LingerHTTP2(t, patience)
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK) // at any other, this test's client would stop by itself
	}))
	sent := make(chan error, 1)
	body, write := io.Pipe()
	go func() {
		_, err := write.Write(make([]byte, 16<<20)) // far more than the windows of flow control
		sent <- err
		_ = write.Close()
	}()
	req := r.request("POST", "/", "")
	req.Body = body
	res, err := client(t, true).Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("got %v %v", res, err)
	}
	if err := get(t, "the end of sending", sent); err != nil {
		t.Errorf("sending on: %v", err)
	}
	_ = res.Body.Close()
}
