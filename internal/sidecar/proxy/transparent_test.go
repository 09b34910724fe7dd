package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/textproto"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/sidecar/agent"
	"github.com/specproxy/specproxy/internal/sidecar/gate"
)

// raw sends bytes and returns the answer's head and body as they are.
func (r *rig) raw(text string) string {
	r.t.Helper()
	conn := dial(r.t, r.addr)
	if _, err := io.WriteString(conn, text); err != nil {
		r.t.Fatal(err)
	}
	got, _ := io.ReadAll(conn) // the request says Connection: close
	return string(got)
}

// TestHopByHopHeadersEndHere: RFC 9110 section 7.6.1, as net/http/httputil tests it.
func TestHopByHopHeadersEndHere(t *testing.T) {
	seen := make(chan http.Header, 1)
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		seen <- req.Header.Clone()
		h := w.Header()
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Proxy-Authenticate", "Basic")
		h.Set("Connection", "X-Agents-Hop")
		h.Set("X-Agents-Hop", "gone")
		h.Set("X-Kept", "yes")
		_, _ = io.WriteString(w, "ok")
	}))
	answer := r.raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Clients-Hop, X-Forwarded-For, X-Spec-Version\r\nX-Clients-Hop: gone\r\nKeep-Alive: 5\r\n" +
		"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nTE: trailers, deflate\r\nX-Forwarded-For: 10.1.1.1\r\nVia: 1.1 edge\r\nX-Kept: yes\r\nx-spec-version: forged\r\n\r\n")
	got := get(t, "the request", seen)
	for name, want := range map[string]string{
		"X-Clients-Hop": "", "Keep-Alive": "", "Proxy-Connection": "", "Proxy-Authorization": "", "Te": "trailers", "Connection": "",
		// What Envoy says of the client stays, whatever the client names in Connection.
		"X-Forwarded-For": "10.1.1.1", "Via": "1.1 edge", "X-Kept": "yes", "X-Spec-Version": "customer-service:2.1.0",
		// None was sent, and none is made up.
		"User-Agent": "", "Accept-Encoding": "", "X-Forwarded-Host": "", "Forwarded": "",
	} {
		if have := got.Get(name); have != want {
			t.Errorf("the agent got %s: %q, want %q", name, have, want)
		}
	}
	head, _, _ := strings.Cut(answer, "\r\n\r\n")
	for _, name := range []string{"Keep-Alive", "Proxy-Authenticate", "X-Agents-Hop:"} {
		if strings.Contains(head, name) {
			t.Errorf("the client got %s:\n%s", name, head)
		}
	}
	if !strings.Contains(head, "X-Kept: yes") || strings.Count(head, "Date:") != 1 {
		t.Errorf("the client got\n%s", head)
	}
}

func TestRequestsPassAsTheyAre(t *testing.T) {
	type request struct{ method, uri, host, body, length string }
	seen := make(chan request, 1)
	r := newRig(t, completes, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		seen <- request{req.Method, req.RequestURI, req.Host, string(body), fmt.Sprint(req.ContentLength, req.TransferEncoding)}
	}))
	for _, c := range []struct {
		send string
		want request
	}{
		{"BREW /pot HTTP/1.1\r\nHost: a\r\n", request{"BREW", "/pot", "a", "", "0 []"}},
		{"GET //a//b/../c;x?a=1&a=2;b=%zz&c=\"|\" HTTP/1.1\r\nHost: a:8080\r\n", request{"GET", `//a//b/../c;x?a=1&a=2;b=%zz&c="|"`, "a:8080", "", "0 []"}},
		{"GET /%2F%41%7e? HTTP/1.1\r\nHost: a\r\n", request{"GET", "/%2F%41%7e?", "a", "", "0 []"}},
		{"OPTIONS * HTTP/1.1\r\nHost: a\r\n", request{"OPTIONS", "*", "a", "", "0 []"}},
		{"DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n", request{"DELETE", "/", "a", "abc", "3 []"}},
		{"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n", request{"GET", "/", "a", "abc", "-1 [chunked]"}},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n", request{"POST", "/", "a", "", "0 []"}},
	} {
		body := ""
		switch {
		case strings.Contains(c.send, "chunked"):
			body = "3\r\nabc\r\n0\r\n\r\n"
		case strings.Contains(c.send, "Length: 3"):
			body = "abc"
		}
		if answer := r.raw(c.send + "Connection: close\r\n\r\n" + body); !strings.HasPrefix(answer, "HTTP/1.1 200") {
			t.Errorf("%q is answered %q", c.send, answer)
			continue
		}
		if got := get(t, c.send, seen); got != c.want {
			t.Errorf("%q: the agent got %+v", c.send, got)
		}
	}
}

func TestResponsesPassAsTheyAre(t *testing.T) {
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/head":
			w.Header().Set("Content-Length", "1234")
		case "/empty":
			w.WriteHeader(http.StatusNoContent)
		case "/unchanged":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(http.StatusNotModified)
		case "/odd":
			w.WriteHeader(799)
		case "/cookies":
			w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
		case "/encoded":
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, "not really")
		case "/chunked":
			_, _ = io.WriteString(w, "one")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "two")
		}
	}))
	for _, c := range []struct{ method, path, status, head, body string }{
		{"HEAD", "/head", "200", "Content-Length: 1234", ""},
		{"GET", "/empty", "204", "", ""},
		{"GET", "/unchanged", "304", `Etag: "x"`, ""},
		{"GET", "/odd", "799", "", ""},
		{"GET", "/cookies", "200", "Set-Cookie: a=1\r\nSet-Cookie: b=2", ""},
		{"GET", "/encoded", "200", "Content-Encoding: br", "not really"},
		{"GET", "/chunked", "200", "Transfer-Encoding: chunked", "onetwo"},
	} {
		head, body, _ := strings.Cut(r.raw(c.method+" "+c.path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), "\r\n\r\n")
		if strings.Contains(head, "chunked") {
			plain, err := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(body)))
			if err != nil || !strings.HasSuffix(body, "0\r\n\r\n") {
				t.Errorf("%s: %q, %v", c.path, body, err)
			}
			body = string(plain)
		}
		if !strings.HasPrefix(head, "HTTP/1.1 "+c.status) || !strings.Contains(head, c.head) || body != c.body {
			t.Errorf("%s %s: %s\n%q", c.method, c.path, head, body)
		}
		if (c.status == "204" || c.status == "304") && strings.Contains(head, "Content-Length") {
			t.Errorf("%s: a length is made up:\n%s", c.path, head)
		}
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	seen := make(chan http.Header, 1)
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		seen <- req.Trailer
		w.Header().Set("Trailer", "X-Announced")
		w.WriteHeader(200)
		_, _ = io.WriteString(w, "ok")
		w.Header().Set("X-Announced", "a")
		w.Header().Set(http.TrailerPrefix+"X-Late", "b")
	}))
	req := r.request("POST", "/", "")
	req.Body, req.ContentLength = io.NopCloser(strings.NewReader("body")), -1
	req.Trailer = http.Header{"X-Sum": {"123"}}
	res := r.do(req)
	if body := read(t, res); body != "ok" || res.Trailer.Get("X-Announced") != "a" || res.Trailer.Get("X-Late") != "b" {
		t.Errorf("got %q and trailers %v", body, res.Trailer)
	}
	if got := get(t, "the request's trailers", seen); got.Get("X-Sum") != "123" {
		t.Errorf("the agent got trailers %v", got)
	}
}

func TestExpectContinue(t *testing.T) {
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") == "" {
			w.WriteHeader(http.StatusUnauthorized) // without a look at the body
			return
		}
		body, _ := io.ReadAll(req.Body)
		_, _ = w.Write(body)
	}))
	for _, c := range []struct{ header, first, last string }{
		{"", "HTTP/1.1 401 Unauthorized\r\n", "HTTP/1.1 401 Unauthorized\r\n"},
		{"Authorization: x\r\n", "HTTP/1.1 100 Continue\r\n", "HTTP/1.1 200 OK\r\n"},
	} {
		conn := dial(t, r.addr)
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"+c.header+"Content-Length: 5\r\n\r\n")
		in := bufio.NewReader(conn)
		line, err := in.ReadString('\n')
		if err != nil || line != c.first {
			t.Fatalf("before its body the client got %q, %v", line, err)
		}
		if c.first == c.last {
			continue
		}
		_, _ = in.ReadString('\n')
		_, _ = io.WriteString(conn, "hello")
		if line, err = in.ReadString('\n'); err != nil || line != c.last {
			t.Fatalf("after its body the client got %q, %v", line, err)
		}
		if _, err := textproto.NewReader(in).ReadMIMEHeader(); err != nil {
			t.Fatal(err)
		}
		body := make([]byte, 5)
		if _, err := io.ReadFull(in, body); err != nil || string(body) != "hello" {
			t.Errorf("got %q %v", body, err)
		}
	}
}

func TestLargeHeadersPass(t *testing.T) {
	large := strings.Repeat("v", 60<<10)
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { w.Header().Set("X-Large", req.Header.Get("X-Large")) }))
	res := r.do(r.request("GET", "/", "", "X-Large", large))
	if res.StatusCode != 200 || res.Header.Get("X-Large") != large {
		t.Errorf("%d, %d bytes came back", res.StatusCode, len(res.Header.Get("X-Large")))
	}
	if res := r.do(r.request("GET", "/", "", "X-Large", strings.Repeat("v", 200<<10))); res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("200 KB of headers are answered %d", res.StatusCode)
	}
	if n := r.refusals.Of(gate.HeaderSize); n != 1 {
		t.Errorf("%d refusals are counted", n)
	}
}

func TestABodyWhoseRestDoesNotComeIsGivenUp(t *testing.T) {
	cut := make(chan error, 2)
	r := newRig(t, completes, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, err := io.Copy(io.Discard, req.Body)
		cut <- err
	}))
	slow, whole := dial(t, r.addr), dial(t, r.addr)
	_, _ = io.WriteString(slow, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
	if res, err := http.ReadResponse(bufio.NewReader(slow), nil); err != nil || res.StatusCode != http.StatusRequestTimeout {
		t.Errorf("got %v, %v", res, err)
	}
	if get(t, "the agent's end", cut) == nil {
		t.Error("the agent takes half a body for whole")
	}
	if row := r.endedRow(); row.Status != http.StatusRequestTimeout || r.refusals.Of(gate.BodyTimeout) != 1 {
		t.Errorf("ledger %+v, %d counted", row, r.refusals.Of(gate.BodyTimeout))
	}
	// A body that is whole has no deadline any more, nor has one without a length.
	in := bufio.NewReader(whole)
	for range 2 {
		_, _ = io.WriteString(whole, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
		if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != 200 || get(t, "the agent's end", cut) != nil {
			t.Fatalf("got %v, %v", res, err)
		}
		pause := time.NewTimer(2 * bodyPause)
		<-pause.C
	}
	_, _ = io.WriteString(whole, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n")
	pause := time.NewTimer(2 * bodyPause)
	<-pause.C
	_, _ = io.WriteString(whole, "0\r\n\r\n")
	if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != 200 {
		t.Errorf("after a pause between chunks: %v, %v", res, err)
	}
}

// The same over HTTP/2, where other streams of the connection go on.
func TestAnHTTP2BodyWhoseRestDoesNotComeIsGivenUp(t *testing.T) {
	cut := make(chan error, 1)
	r := newRig(t, completes, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, err := io.Copy(io.Discard, req.Body)
		cut <- err
	}))
	c := client(t, true)
	post := func(length int64, body io.Reader) (*http.Response, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.addr, body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		res, err := c.Do(req)
		if err == nil {
			t.Cleanup(func() { res.Body.Close() })
		}
		return res, err
	}
	for n, begin := range []string{"", "half"} {
		reader, writer := io.Pipe()
		go func() { _, _ = io.WriteString(writer, begin) }()
		res, err := post(10, reader)
		if err != nil || res.StatusCode != http.StatusRequestTimeout {
			t.Fatalf("after %q: %v, %v", begin, res, err)
		}
		if get(t, "the agent's end", cut) == nil {
			t.Errorf("after %q the agent takes half a body for whole", begin)
		}
		if row := r.endedRow(); row.Status != http.StatusRequestTimeout || r.refusals.Of(gate.BodyTimeout) != uint64(n+1) {
			t.Errorf("after %q: ledger %+v, %d counted", begin, row, r.refusals.Of(gate.BodyTimeout))
		}
		_ = reader.Close()
	}
	// Slow is not silent; and one without a length may pause for as long as it likes.
	for _, length := range []int64{6, -1} {
		reader, writer := io.Pipe()
		go func() {
			pause := bodyPause / 4
			if length < 0 {
				pause = 2 * bodyPause
			}
			for _, piece := range []string{"a", "b", "c", "d", "e", "f"} {
				timer := time.NewTimer(pause)
				<-timer.C
				_, _ = io.WriteString(writer, piece)
				if length < 0 {
					break
				}
			}
			_ = writer.Close()
		}()
		if res, err := post(length, reader); err != nil || res.StatusCode != http.StatusOK || get(t, "the agent's end", cut) != nil {
			t.Errorf("length %d: %v, %v", length, res, err)
		}
	}
	if n := r.refusals.Of(gate.BodyTimeout); n != 2 {
		t.Errorf("%d counted", n)
	}
}

// TestAgentOverTLS speaks HTTP/1.1 and, for gRPC, HTTP/2 to an agent with a certificate of its own authority.
func TestAgentOverTLS(t *testing.T) {
	seen := make(chan string, 2)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		seen <- req.Proto
		w.Header().Set("Content-Type", req.Header.Get("Content-Type"))
		_, _ = io.Copy(w, req.Body)
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	at := endpoint(s.Listener.Addr().String())
	at.TLS, at.Roots = true, x509.NewCertPool()
	at.Roots.AddCert(s.Certificate())
	r := newRigAt(t, completes, at)
	r.state(nil)
	if res := r.do(r.request("POST", "/", "plain")); read(t, res) != "plain" || get(t, "the protocol", seen) != "HTTP/1.1" {
		t.Errorf("got %d", res.StatusCode)
	}
	res, err := client(t, true).Do(r.request("POST", "/", "\x00\x00\x00\x00\x01x", "Content-Type", "application/grpc", "Te", "trailers"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if body := read(t, res); body != "\x00\x00\x00\x00\x01x" || res.Trailer.Get("Grpc-Status") != "0" || get(t, "the protocol", seen) != "HTTP/2.0" {
		t.Errorf("got %d %q %v", res.StatusCode, body, res.Trailer)
	}
	stranger := newRigAt(t, completes, agent.Endpoint{Network: "tcp", Address: at.Address, TLS: true})
	stranger.state(nil)
	if res := stranger.do(stranger.request("GET", "/", "")); res.StatusCode != http.StatusBadGateway {
		t.Errorf("an agent whose certificate nobody vouches for answers %d", res.StatusCode)
	}
}

func TestConnectIsRefused(t *testing.T) {
	r := newRig(t, completes, http.NotFoundHandler())
	if answer := r.raw("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 501") {
		t.Errorf("answered %q", answer)
	}
}

// TestASlowClientFillsNoMemory: what a client does not read stays at the agent.
func TestASlowClientFillsNoMemory(t *testing.T) {
	const clients, bound = 20, 1 << 20 // bytes of memory for each, some four times what the sidecar has of one; kernel buffers are not in it
	chunk := bytes.Repeat([]byte("x"), 32<<10)
	var mu sync.Mutex
	written := map[string]int{}
	moved := make(chan struct{}, 1)
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 64 << 20 / len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
			mu.Lock()
			written[req.URL.Path] += len(chunk)
			mu.Unlock()
			select {
			case moved <- struct{}{}:
			default:
			}
		}
	}))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range clients {
		_, _ = fmt.Fprintf(dial(t, r.addr), "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
	}
	// Until nobody has written anything for a while: every buffer on the way is full.
	for quiet := time.NewTimer(time.Second); ; quiet.Reset(time.Second) {
		select {
		case <-moved:
			continue
		case <-quiet.C:
		}
		break
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	mu.Lock()
	defer mu.Unlock()
	if len(written) != clients {
		t.Fatalf("%d of %d requests reached the agent", len(written), clients)
	}
	for path, n := range written {
		if n >= 64<<20 {
			t.Errorf("%s: nothing held the agent back", path)
		}
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > clients*bound {
		t.Errorf("%d slow clients hold %d KB of memory, %d KB each", clients, grown>>10, grown>>10/clients)
	}
}

func TestKeptBodiesShareOneBound(t *testing.T) {
	h := newHeld()
	r := newRig(t, handsOver, h)
	// Past Envoy each body is kept for a hand-over, 1 KB each; the rig's bound is 8 KB.
	var clients []<-chan *http.Response
	for i := range 10 {
		clients = append(clients, r.later(r.request("POST", fmt.Sprintf("/%d", i), strings.Repeat("b", 1<<10), "X-Spec-Buffer", "")))
		get(t, "a request at the agent", h.reached)
	}
	replayable := 0
	for _, row := range r.ledger.Running() {
		if row.Replayable {
			replayable++
		}
	}
	if n := r.refusals.Of(gate.BodyBuffer); replayable != 8 || n != 2 {
		t.Errorf("%d bodies are kept and %d are not", replayable, n)
	}
	for range 10 {
		h.answer <- reply("done")
	}
	for _, answered := range clients {
		r.endedRow()
		_ = get(t, "an answer", answered).Body.Close()
	}
	answered := r.later(r.request("POST", "/more", strings.Repeat("b", 1<<10), "X-Spec-Buffer", ""))
	get(t, "a request at the agent", h.reached)
	if rows := r.ledger.Running(); len(rows) != 1 || !rows[0].Replayable {
		t.Errorf("after that: %+v", rows)
	}
	h.answer <- reply("done")
	_ = get(t, "the answer", answered).Body.Close()
}
