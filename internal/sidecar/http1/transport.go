// Package http1 is an http.RoundTripper for HTTP/1.1 to one server that works on its caller's goroutine.
//
// http.Transport hands every request to two goroutines of its connection and back, which costs a proxy more than the rest of its work. Here
// the caller writes the request and reads the response itself, by net/http's own parser; only the body of a request, which may come slowly, is
// sent beside. Invariants:
//   - a request is written once: what a connection that breaks had taken is never sent again;
//   - a connection is used again only if both request and response came to their ends, and nothing more had come on it;
//   - when the request's context ends, what waits for the connection ends with the context's cause, and the connection is closed.
//
// It does not do what its caller has http.Transport for: upgrades, CONNECT, TLS, proxies, compression.
package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// Transport makes requests. Its fields are set before the first.
type Transport struct {
	// Dial connects to the server.
	Dial func(context.Context) (net.Conn, error)
	// MaxIdle bounds the connections that wait for use, IdleTimeout how long they do.
	MaxIdle     int
	IdleTimeout time.Duration

	mu    sync.Mutex
	idle  []*conn // the one that waits longest first
	sweep *time.Timer
}

const (
	bufferSize = 4 << 10
	// maxHead bounds the head of a response, in bytes, as http.Transport does by default.
	maxHead = 10 << 20
	// maxInterim bounds the informational responses before the final one.
	maxInterim = 20
)

// conn is a connection to the server. It belongs to one exchange at a time.
type conn struct {
	net.Conn
	r *bufio.Reader
	w *bufio.Writer
	// budget is what may still be read; negative: anything.
	budget int
	since  time.Time // it waits for use
	// head is held over the writer while the head of a request waits for the beginning of its body: until hold fires, or holding ends.
	head    sync.Mutex
	holding bool
	hold    *time.Timer
	abort   func() // closes it
	// raw looks for the server's end on the connection; nil if that cannot be seen.
	raw   syscall.RawConn
	quiet func(fd uintptr) bool
	alive bool
}

var errHeadTooLarge = errors.New("the head of the response is too large")

// Read counts the head of a response.
func (c *conn) Read(p []byte) (int, error) {
	if c.budget < 0 {
		return c.Conn.Read(p)
	}
	if c.budget == 0 {
		return 0, errHeadTooLarge
	}
	n, err := c.Conn.Read(p[:min(len(p), c.budget)])
	c.budget -= n
	return n, err
}

func newConn(nc net.Conn) *conn {
	c := &conn{Conn: nc, budget: -1}
	c.r, c.w = bufio.NewReaderSize(c, bufferSize), bufio.NewWriterSize(nc, bufferSize)
	c.abort = func() { _ = nc.Close() }
	if s, ok := nc.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			c.raw = raw
			var one [1]byte
			c.quiet = func(fd uintptr) bool {
				// The descriptor does not block. A server that says something unasked, or ends, is not to be used again.
				_, err := syscall.Read(int(fd), one[:]) //nolint:gosec // a descriptor fits
				c.alive = errors.Is(err, syscall.EAGAIN)
				return true
			}
		}
	}
	return c
}

// holdHead lets the head, which is in the buffer, go by itself after a while. A timer that comes late finds nothing held, or lets the next head
// go early.
func (c *conn) holdHead() {
	c.head.Lock()
	defer c.head.Unlock()
	c.holding = true
	if c.hold != nil {
		c.hold.Reset(headHold)
		return
	}
	c.hold = time.AfterFunc(headHold, func() {
		c.head.Lock()
		defer c.head.Unlock()
		if c.holding {
			_ = c.w.Flush() // an error stays, and shows at the next write
		}
	})
}

// usable says whether nothing has come on a connection that waited.
func (c *conn) usable() bool {
	if c.raw == nil {
		return true
	}
	return c.raw.Read(c.quiet) == nil && c.alive
}

// get returns a connection that waits, or a new one.
func (t *Transport) get(ctx context.Context) (*conn, error) {
	for {
		c := t.pop()
		if c == nil {
			break
		}
		if c.usable() {
			return c, nil
		}
		c.abort()
	}
	nc, err := t.Dial(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	return newConn(nc), nil
}

// pop takes the connection that was used last; nil if none waits.
func (t *Transport) pop() *conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.idle) - 1
	if n < 0 {
		return nil
	}
	c := t.idle[n]
	t.idle[n] = nil
	t.idle = t.idle[:n]
	return c
}

// put keeps a connection for another request.
func (t *Transport) put(c *conn) {
	c.since = time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.idle) >= t.MaxIdle {
		c.abort()
		return
	}
	t.idle = append(t.idle, c)
	if t.sweep == nil {
		t.sweep = time.AfterFunc(t.IdleTimeout, t.expire)
	}
}

// expire closes what has waited too long.
func (t *Transport) expire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep = nil
	old, now := 0, time.Now()
	for old < len(t.idle) && now.Sub(t.idle[old].since) >= t.IdleTimeout {
		t.idle[old].abort()
		old++
	}
	clear(t.idle[:old])
	t.idle = append(t.idle[:0], t.idle[old:]...)
	if len(t.idle) > 0 {
		t.sweep = time.AfterFunc(t.IdleTimeout-now.Sub(t.idle[0].since), t.expire)
	}
}

// CloseIdleConnections closes what waits for use.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.idle {
		c.abort()
	}
	t.idle = nil
	if t.sweep != nil {
		t.sweep.Stop()
		t.sweep = nil
	}
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := check(r); err != nil {
		closeBody(r)
		return nil, err
	}
	ctx := r.Context()
	if ctx.Err() != nil {
		closeBody(r)
		return nil, context.Cause(ctx)
	}
	c, err := t.get(ctx)
	if err != nil {
		closeBody(r)
		return nil, err
	}
	x := &exchange{transport: t, conn: c, request: r, stop: context.AfterFunc(ctx, c.abort)}
	res, err := x.run()
	if err != nil {
		return nil, x.fail(err)
	}
	return res, nil
}

// fail gives the connection up and says why: the context's cause, or what went wrong with the request's body, come before what that did to the response.
func (x *exchange) fail(err error) error {
	x.finish(false)
	if ctx := x.request.Context(); ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if sent := x.sent.Load(); sent != nil {
		return fmt.Errorf("send the request: %w", *sent)
	}
	return err
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}
