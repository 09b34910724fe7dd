package http1_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/sidecar/http1"
)

const patience = time.Minute

// server is a real one, and counts its connections.
func server(t *testing.T, h http.HandlerFunc) (*http1.Transport, *atomic.Int64) {
	t.Helper()
	var conns atomic.Int64
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return transport(t, s.Listener.Addr()), &conns
}

func transport(t *testing.T, to net.Addr) *http1.Transport {
	t.Helper()
	tr := &http1.Transport{MaxIdle: 4, IdleTimeout: time.Minute, Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, to.Network(), to.String())
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// script is a server of one connection at a time that reads a request's head and writes what it is told.
func script(t *testing.T, serve func(net.Conn, *bufio.Reader)) *http1.Transport {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			serve(c, r)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return transport(t, l.Addr())
}

// head reads a request's head.
func head(r *bufio.Reader) string {
	var all strings.Builder
	for {
		line, err := r.ReadString('\n')
		all.WriteString(line)
		if err != nil || line == "\r\n" {
			return all.String()
		}
	}
}

func request(t *testing.T, method string, body io.Reader) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, "http://agent/path?q=1", body)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil && r.ContentLength == 0 {
		r.ContentLength = -1 // as in a request that a server got
	}
	return r
}

func send(t *testing.T, tr *http1.Transport, r *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestRequestsArriveAsTheyAre(t *testing.T) {
	tr, conns := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %q %d %v %v", r.Method, r.Host, r.RequestURI, body, r.ContentLength, r.Header["X-Two"], r.Trailer)
	})
	unsized := func(s string) io.Reader { return io.MultiReader(strings.NewReader(s)) }
	for _, c := range []struct {
		method string
		body   io.Reader
		want   string
	}{
		{"GET", nil, `GET agent /path?q=1 "" 0 [a b] map[]`},
		{"POST", nil, `POST agent /path?q=1 "" 0 [a b] map[]`},
		{"POST", strings.NewReader("hello"), `POST agent /path?q=1 "hello" 5 [a b] map[]`},
		{"POST", unsized("hello"), `POST agent /path?q=1 "hello" -1 [a b] map[]`},
		{"GET", unsized("hello"), `GET agent /path?q=1 "hello" -1 [a b] map[]`},
		{"BREW", unsized(""), `BREW agent /path?q=1 "" -1 [a b] map[]`},
	} {
		r := request(t, c.method, c.body)
		r.Header["X-Two"] = []string{"a", "b"}
		if _, body := send(t, tr, r); body != c.want {
			t.Errorf("%s: %s, want %s", c.method, body, c.want)
		}
	}
	r := request(t, "POST", nil)
	r.Trailer = http.Header{"X-Sum": nil}
	r.Body, r.ContentLength = &sums{r: r, Reader: strings.NewReader("hello")}, -1
	if _, body := send(t, tr, r); !strings.Contains(body, "map[X-Sum:[5]]") {
		t.Errorf("trailers: %s", body)
	}
	big := bytes.Repeat([]byte("0123456789"), 200_000)
	if _, body := send(t, tr, request(t, "PUT", bytes.NewReader(big))); !strings.Contains(body, fmt.Sprint(len(big))) {
		t.Error("a large body did not arrive")
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for requests one after the other", n)
	}
}

// sums sets a trailer at the end of the body.
type sums struct {
	r *http.Request
	*strings.Reader
}

func (s *sums) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil {
		s.r.Trailer.Set("X-Sum", "5")
	}
	return n, err
}

func (s *sums) Close() error { return nil }

func TestResponses(t *testing.T) {
	tr, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("q") {
		case "trailers":
			w.Header().Set("Trailer", "X-End")
			fmt.Fprint(w, "body")
			w.Header().Set("X-End", "yes")
		case "empty":
			w.WriteHeader(http.StatusNoContent)
		case "hints":
			w.Header().Set("Link", "</a.css>")
			w.WriteHeader(http.StatusEarlyHints)
			fmt.Fprint(w, "body")
		default:
			w.Header().Set("Content-Length", "4")
			fmt.Fprint(w, "body")
		}
	})
	ask := func(method, what string) (*http.Response, string) {
		r := request(t, method, nil)
		r.URL.RawQuery = "q=" + what
		return send(t, tr, r)
	}
	if res, body := ask("GET", "trailers"); body != "body" || res.Trailer.Get("X-End") != "yes" {
		t.Errorf("trailers: %q %v", body, res.Trailer)
	}
	if res, body := ask("GET", "empty"); body != "" || res.StatusCode != http.StatusNoContent {
		t.Errorf("no content: %d %q", res.StatusCode, body)
	}
	if res, body := ask("HEAD", "sized"); body != "" || res.ContentLength != 4 {
		t.Errorf("head: %d %q", res.ContentLength, body)
	}
	r := request(t, "GET", nil)
	r.URL.RawQuery = "q=hints"
	var hints []int
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, code, len(h["Link"]))
		return nil
	}}))
	if _, body := send(t, tr, r); body != "body" || fmt.Sprint(hints) != "[103 1]" {
		t.Errorf("hints: %q %v", body, hints)
	}
}

func TestEarlyResponseDoesNotWaitForTheBody(t *testing.T) {
	var conns atomic.Int64
	tr := script(t, func(c net.Conn, r *bufio.Reader) {
		conns.Add(1)
		head(r)
		_, _ = io.WriteString(c, "HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 2\r\n\r\nno")
		_, _ = r.ReadByte() // until the other side ends
	})
	slow, more := io.Pipe() // says nothing
	defer more.Close()
	r := request(t, "POST", slow)
	r.ContentLength = 100
	if res, body := send(t, tr, r); res.StatusCode != http.StatusRequestEntityTooLarge || body != "no" {
		t.Errorf("status %d, %q", res.StatusCode, body)
	}
	send(t, tr, request(t, "GET", nil))
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections: one whose request did not end was used again, or none was made", n)
	}
}

func TestBothWaysAtOnce(t *testing.T) {
	tr, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		in := bufio.NewReader(r.Body)
		for {
			_ = http.NewResponseController(w).Flush()
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprint(w, "re: ", line)
		}
	})
	body, say := io.Pipe()
	res, err := tr.RoundTrip(request(t, "POST", body)) // the head alone must get there
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	in := bufio.NewReader(res.Body)
	for _, line := range []string{"one\n", "two\n"} {
		if _, err := io.WriteString(say, line); err != nil {
			t.Fatal(err)
		}
		if got, err := in.ReadString('\n'); got != "re: "+line {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
	say.Close()
	if rest, err := io.ReadAll(in); err != nil || len(rest) != 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

var errGone = errors.New("the client is gone")

func TestCancelEndsWhatWaitsWithTheCause(t *testing.T) {
	entered := make(chan struct{}, 1)
	tr, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body) // only then does the server look for the end of the connection
		if r.URL.RawQuery == "headers" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}
		entered <- struct{}{}
		<-r.Context().Done()
	})
	for _, query := range []string{"", "headers"} {
		r := request(t, "POST", strings.NewReader("x"))
		r.URL.RawQuery = query
		ctx, cancel := context.WithCancelCause(r.Context())
		go func() {
			<-entered
			cancel(errGone)
		}()
		res, err := tr.RoundTrip(r.WithContext(ctx))
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		if !errors.Is(err, errGone) {
			t.Errorf("%q: %v", query, err)
		}
	}
}

func TestBrokenBodyIsNotTakenForWhole(t *testing.T) {
	got := make(chan error, 1)
	tr, _ := server(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		got <- err
	})
	for name, r := range map[string]*http.Request{
		"breaks off": request(t, "POST", io.MultiReader(strings.NewReader("begin"), broken{})),
		"too short": func() *http.Request {
			r := request(t, "POST", strings.NewReader("begin"))
			r.ContentLength = 10
			return r
		}(),
	} {
		if _, err := tr.RoundTrip(r); err == nil {
			t.Errorf("%s: no error", name)
		}
		if err := <-got; err == nil {
			t.Errorf("%s: the server took it for whole", name)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errGone }

func TestWaitingConnectionThatEndedIsNotUsed(t *testing.T) {
	seen := make(chan string, 4)
	closed := make(chan struct{}, 4)
	tr := script(t, func(c net.Conn, r *bufio.Reader) {
		seen <- head(r)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		c.Close()
		closed <- struct{}{}
	})
	for range 3 {
		if _, body := send(t, tr, request(t, "POST", strings.NewReader("x"))); body != "ok" {
			t.Errorf("body %q", body)
		}
		<-closed
	}
	if len(seen) != 3 {
		t.Errorf("the server saw %d requests of 3", len(seen))
	}
}

func TestNothingIsSentTwice(t *testing.T) {
	var heads atomic.Int64
	tr := script(t, func(_ net.Conn, r *bufio.Reader) {
		if strings.HasPrefix(head(r), "GET") {
			heads.Add(1)
		}
	})
	if _, err := tr.RoundTrip(request(t, "GET", nil)); err == nil {
		t.Error("no error from a server that answers nothing")
	}
	if n := heads.Load(); n != 1 {
		t.Errorf("sent %d times", n)
	}
}

func TestBadResponses(t *testing.T) {
	for name, response := range map[string]string{
		"garbage":            "SSH-2.0-OpenSSH\r\n\r\n",
		"switches protocols": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
		"endless head":       "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 11_000) + "\r\n",
		"two lengths":        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"endless hints":      strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 50),
		"cut off":            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab",
	} {
		tr := script(t, func(c net.Conn, r *bufio.Reader) {
			head(r)
			_, _ = io.WriteString(c, response)
		})
		res, err := tr.RoundTrip(request(t, "GET", nil))
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// What follows a whole response belongs to no request.
	var conns atomic.Int64
	tr := script(t, func(c net.Conn, r *bufio.Reader) {
		conns.Add(1)
		head(r)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
	})
	for range 2 {
		if _, body := send(t, tr, request(t, "GET", nil)); body != "ok" {
			t.Errorf("body %q", body)
		}
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestWhatCouldBeTakenForAnotherRequestIsRefused(t *testing.T) {
	tr, conns := server(t, func(http.ResponseWriter, *http.Request) {})
	for name, change := range map[string]func(*http.Request){
		"method": func(r *http.Request) { r.Method = "GET /x HTTP/1.1\r\nX: y" },
		"host":   func(r *http.Request) { r.Host = "a\r\nX: y" },
		"path":   func(r *http.Request) { r.URL.Opaque = "/a HTTP/1.1\r\nX: y" },
		"name":   func(r *http.Request) { r.Header["X: y\r\nZ"] = []string{"v"} },
		"value":  func(r *http.Request) { r.Header.Set("X", "y\r\nZ: v") },
	} {
		r := request(t, "GET", nil)
		change(r)
		if _, err := tr.RoundTrip(r); err == nil {
			t.Errorf("%s: sent", name)
		}
	}
	// Framing is the transport's, whatever the header says.
	r := request(t, "POST", strings.NewReader("x"))
	r.Header.Set("Content-Length", "100")
	r.Header.Set("Transfer-Encoding", "gzip")
	if res, _ := send(t, tr, r); res.StatusCode != http.StatusOK {
		t.Errorf("status %d", res.StatusCode)
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	ended := make(chan error, 1)
	tr := script(t, func(c net.Conn, r *bufio.Reader) {
		head(r)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_, err := r.ReadByte()
		ended <- err
	})
	tr.IdleTimeout = 10 * time.Millisecond
	send(t, tr, request(t, "GET", nil))
	select {
	case err := <-ended:
		if !errors.Is(err, io.EOF) {
			t.Errorf("the connection ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("an idle connection is kept")
	}
}
