package registrytest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// Proxy passes everything on to a registry, but for what a test makes of it.
type Proxy struct {
	// Host is its host:port.
	Host string

	mu     sync.Mutex
	before func(w http.ResponseWriter, r *http.Request) bool
	change func(r *http.Request, body []byte) []byte
}

// Before is called with every request; true says that it has answered.
func (p *Proxy) Before(fn func(w http.ResponseWriter, r *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before = fn
}

// Change is called with the body of every successful answer to a GET, and says what the client gets; nil: the body as it is.
func (p *Proxy) Change(fn func(r *http.Request, body []byte) []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.change = fn
}

func (p *Proxy) hooks() (func(http.ResponseWriter, *http.Request) bool, func(*http.Request, []byte) []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.before, p.change
}

// StartProxy runs a proxy before the registry until the test ends.
func StartProxy(t testing.TB, registry string) *Proxy {
	t.Helper()
	p := &Proxy{}
	backend := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	backend.ModifyResponse = func(resp *http.Response) error {
		if _, change := p.hooks(); change == nil || resp.Request.Method != http.MethodGet || resp.StatusCode != http.StatusOK {
			return nil
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		_, change := p.hooks()
		changed := change(resp.Request, body)
		if changed == nil {
			changed = body
		}
		// The length stays what was announced, as that of a transfer that broke.
		resp.Body = io.NopCloser(strings.NewReader(string(changed)))
		return nil
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before, _ := p.hooks(); before != nil && before(w, r) {
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p.Host = server.Listener.Addr().String()
	return p
}
