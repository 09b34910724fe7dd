package proxy

import (
	"net/http"
	"strings"
	"sync"

	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/drain"
)

// capturedTotal bounds the memory that the beginnings of bodies of all running exchanges take together.
const capturedTotal = 16 << 20

// captured is what is kept of an exchange's bodies until it is known whether its execution failed. A nil one keeps nothing.
type captured struct{ request, response collected }

// collected is the beginning of one body. What passes is copied, and never waits.
type collected struct {
	budget *budget

	mu   sync.Mutex // a transport may still read the request when the exchange ends
	body capture.Body
	full bool // no more is kept
}

func newCaptured(p *Proxy, r *http.Request) *captured {
	c := &captured{request: collected{budget: &p.captured}, response: collected{budget: &p.captured}}
	c.request.describe(r.Header)
	c.request.body.Whole = r.ContentLength == 0
	c.response.body.Missing = "the agent sent none"
	return c
}

// respond begins the response's part.
func (c *captured) respond(h http.Header) {
	if c != nil {
		c.response.describe(h)
	}
}

func (c *collected) describe(h http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.body = capture.Body{Type: strings.Clone(h.Get("Content-Type")), Encoding: strings.Join(h["Content-Encoding"], ",")}
}

// take keeps what fits of a chunk. whole says that it is the last.
func (c *collected) take(chunk []byte, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full {
		return
	}
	n := min(len(chunk), capture.Window-len(c.body.Begin))
	if !c.budget.take(int64(n)) {
		c.drop()
		c.body.Missing, c.full = "too much of other exchanges was kept at that time", true
		return
	}
	c.body.Begin = append(c.body.Begin, chunk[:n]...)
	c.body.Whole = whole && n == len(chunk)
	c.full = whole || n < len(chunk)
}

// drop gives the memory back.
func (c *collected) drop() {
	c.budget.give(int64(len(c.body.Begin)))
	c.body.Begin = nil
}

// end is what was kept; nothing more is.
func (c *collected) end() capture.Body {
	c.mu.Lock()
	defer c.mu.Unlock()
	body := c.body
	c.drop()
	c.full = true
	return body
}

// settle keeps what was captured of a failing execution, and forgets it of any other. status is what the client got.
func (c *captured) settle(x *exchange, status int) {
	if c == nil {
		return
	}
	request, response := c.request.end(), c.response.end()
	row := x.execution.Row()
	if row.Outcome == drain.Failure || row.Outcome == "" && status >= http.StatusInternalServerError && x.cutBy() == nil {
		x.proxy.Captures.Put(x.id, row.StartedAt, request, response)
	}
}
