//go:build !race

package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"runtime"
	"testing"
)

// TestPlainPathAllocatesNoMoreThanTheStandardProxy: the ledger, the ids and all other accounting cost no more than what is saved by not
// handing requests to a connection's goroutines. (Under the race detector allocations are other ones.)
func TestPlainPathAllocatesNoMoreThanTheStandardProxy(t *testing.T) {
	agent := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", "2")
		_, _ = io.WriteString(w, "ok")
	}))
	r := newRigAt(t, completes, endpoint(agent))
	r.state(nil)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true
	t.Cleanup(transport.CloseIdleConnections)
	value := []string{"a value"}
	standard := serve(t, &httputil.ReverseProxy{
		Transport: transport, BufferPool: pool{},
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: agent})
			delete(p.Out.Header, "X-Spec-Buffer") // the same headers as ours: whoever reads them pays for them
			delete(p.Out.Header, "X-Spec-Route")
			p.Out.Header["X-Spec-Version"], p.Out.Header["X-Spec-Digest"], p.Out.Header["X-Execution-Id"] = value, value, value
		},
		ModifyResponse: func(r *http.Response) error {
			r.Header["X-Spec-Version"], r.Header["X-Spec-Pin"], r.Header["X-Execution-Id"] = value, value, value
			return nil
		},
	})
	for name, request := range map[string]string{
		"GET":  "GET /small HTTP/1.1\r\nHost: a\r\nX-Spec-Buffer: 1024\r\nX-Spec-Route: 3\r\n\r\n",
		"POST": "POST /small HTTP/1.1\r\nHost: a\r\nX-Spec-Buffer: 1024\r\nX-Spec-Route: 3\r\nContent-Length: 5\r\n\r\nhello",
	} {
		ours, theirs := r.allocations(r.addr, request), r.allocations(standard, request)
		t.Logf("%s: %.1f allocations a request, httputil.ReverseProxy over http.Transport %.1f; of both the agent's and this client's are a part", name, ours, theirs)
		if ours > theirs+0.5 { // a collection in between adds some
			t.Errorf("%s: %.1f allocations a request, the standard proxy makes %.1f", name, ours, theirs)
		}
	}
}

type pool struct{}

func (pool) Get() []byte { return shared[:] }
func (pool) Put([]byte)  {}

var shared [32 << 10]byte

// allocations of the whole process for one request over a connection that is kept.
func (r *rig) allocations(addr, request string) float64 {
	r.t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	once := func() {
		if _, err := io.WriteString(conn, request); err != nil {
			r.t.Fatal(err)
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
			r.t.Fatal(res.Status, err)
		}
		select {
		case <-r.ended: // ours tells
		default:
		}
	}
	for range 100 {
		once()
	}
	runtime.GC()
	return testing.AllocsPerRun(500, once)
}
