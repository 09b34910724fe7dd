// Package gate is the sidecar's front door: it takes connections within limits, and lets net/http see only HTTP/1 requests whose end cannot be
// read in two ways. What it refuses it counts.
//
// Invariants:
//   - a request with a bare LF, a folded header line, or both Content-Length and Transfer-Encoding never reaches a handler;
//   - what is inspected is passed on byte for byte, and nothing is kept but the beginning of an unfinished line;
//   - every refusal is counted once, under one of a fixed set of reasons.
package gate

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Limits bound what callers can make the sidecar hold. The zero value of a field is its default.
type Limits struct {
	// Connections at a time; more are closed as they come.
	Connections int
	// Streams are requests at a time on one HTTP/2 connection.
	Streams int
	// HeaderBytes bound a request's line and headers.
	HeaderBytes int
	// HeaderTimeout is how long a request's headers may take from their first byte on.
	HeaderTimeout time.Duration
	// BodyTimeout is how long a client may pause within a request's body of stated length. The handler sees to it.
	BodyTimeout time.Duration
	// IdleTimeout is how long a connection may wait for a request. It must be longer than the caller's own, or a request can meet a
	// connection that is being closed.
	IdleTimeout time.Duration
}

// Defaults of the limits.
const (
	DefaultConnections   = 20_000
	DefaultStreams       = 1_000
	DefaultHeaderBytes   = 128 << 10
	DefaultHeaderTimeout = 10 * time.Second
	DefaultBodyTimeout   = time.Minute
	// DefaultIdleTimeout is five times as long as our Envoys keep an unused connection.
	DefaultIdleTimeout = 5 * time.Minute
)

// pingAfter is how long an HTTP/2 connection may be silent before its other end is asked whether it is there.
const pingAfter = 30 * time.Second

// WithDefaults fills in zero fields.
func (l Limits) WithDefaults() Limits {
	if l.Connections == 0 {
		l.Connections = DefaultConnections
	}
	if l.Streams == 0 {
		l.Streams = DefaultStreams
	}
	if l.HeaderBytes == 0 {
		l.HeaderBytes = DefaultHeaderBytes
	}
	if l.HeaderTimeout == 0 {
		l.HeaderTimeout = DefaultHeaderTimeout
	}
	if l.BodyTimeout == 0 {
		l.BodyTimeout = DefaultBodyTimeout
	}
	if l.IdleTimeout == 0 {
		l.IdleTimeout = DefaultIdleTimeout
	}
	return l
}

// Server makes the server that goes with Listener. Its handler must be served by it alone.
func Server(h http.Handler, l Limits, r *Refusals, log *zap.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: h, Protocols: protocols, ReadHeaderTimeout: l.HeaderTimeout, IdleTimeout: l.IdleTimeout, MaxHeaderBytes: l.HeaderBytes,
		// "OPTIONS *" is the agent's to answer.
		DisableGeneralOptionsHandler: true,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: l.Streams, CountError: r.http2,
			// A caller that is gone without a word ends its streams.
			SendPingTimeout: pingAfter,
		},
		ErrorLog: zap.NewStdLog(log.WithOptions(zap.IncreaseLevel(max(zap.WarnLevel, log.Level())))),
	}
}

// Listener hands out the connections of l, inspected and within the limits.
func Listener(l net.Listener, limits Limits, r *Refusals) net.Listener {
	return &listener{Listener: l, limits: limits, refusals: r}
}

type listener struct {
	net.Listener
	limits   Limits
	refusals *Refusals
	open     atomic.Int64
}

// Accept closes what is too much, rather than letting it wait where its caller could not tell.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) > int64(l.limits.Connections) {
			l.open.Add(-1)
			l.refusals.Count(Connections)
			_ = c.Close()
			continue
		}
		secured, _ := c.(*tls.Conn)
		return &conn{Conn: c, tls: secured, refusals: l.refusals, limits: l.limits, since: time.Now(), closed: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
	}
}

// conn inspects what a caller sends.
type conn struct {
	net.Conn
	refusals *Refusals
	limits   Limits
	since    time.Time
	closed   func()

	tls *tls.Conn // nil: plain, or hands are shaken

	// Reads are one at a time, and so are calls of SetReadDeadline before the first of them has returned.
	begun  atomic.Bool // a byte has come
	timed  atomic.Bool // net/http has set a deadline for the first request
	raw    atomic.Bool // no HTTP any more
	roused atomic.Bool // the deadline lies in the past: net/http only wants its Read to return
	agreed []byte      // what must come first, by ALPN
	scan   scanner
	poison []byte // in place of what a caller sent
	failed error
}

// Raw ends the inspection: the connection was taken over and no longer speaks HTTP.
func (c *conn) Raw() { c.raw.Store(true) }

// Close gives the connection's place back.
func (c *conn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// CloseWrite tells the caller that nothing more comes.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return http.ErrNotSupported
}

// SetReadDeadline leaves a connection on which nothing has come yet its idle time: a proxy may open one before it has a request for it.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.roused.Store(!t.IsZero() && t.Before(c.since))
	if !c.begun.Load() && t.After(c.since) {
		c.timed.Store(true)
		t = c.since.Add(c.limits.IdleTimeout)
	}
	return c.Conn.SetReadDeadline(t)
}

// Read passes on what the caller sends, up to the first byte that makes its request one to refuse.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.poison) > 0 {
		n := copy(p, c.poison)
		c.poison = c.poison[n:]
		return n, nil
	}
	if c.failed != nil {
		return 0, c.failed
	}
	if c.tls != nil {
		if c.failed = c.shake(); c.failed != nil {
			return 0, c.failed
		}
	}
	n, err := c.Conn.Read(p)
	if c.raw.Load() {
		return n, err
	}
	if n > 0 && !c.begun.Swap(true) && c.timed.Load() {
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.limits.HeaderTimeout))
	}
	if must := c.agreed[:min(n, len(c.agreed))]; len(must) > 0 {
		if !bytes.Equal(must, p[:len(must)]) {
			c.refusals.Count(HTTP2)
			c.failed = io.EOF // to anything else net/http would answer, in the wrong language
			return 0, c.failed
		}
		c.agreed = c.agreed[len(must):]
	}
	good, reason := c.scan.feed(p[:n])
	if reason != none {
		c.refusals.Count(reason)
		return c.refuse(p, good)
	}
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() && c.scan.inHead() && !c.roused.Load() { //nolint:errorlint // as net/http asks
		c.refusals.Count(HeaderTimeout)
	}
	return n, err
}

// shake shakes hands, for which a caller has as long as for a request's headers.
func (c *conn) shake() error {
	ctx, cancel := context.WithTimeout(context.Background(), c.limits.HeaderTimeout)
	defer cancel()
	if err := c.tls.HandshakeContext(ctx); err != nil {
		if !errors.Is(err, io.EOF) { // who only looks whether somebody listens
			c.refusals.Count(TLS)
		}
		return err
	}
	if c.tls.ConnectionState().NegotiatedProtocol == "h2" {
		c.agreed = []byte(preface)
	}
	c.tls = nil
	return nil
}

// refuse puts in place of what the caller sent after good bytes something to which net/http answers 400 before it closes the connection, in
// its turn if answers to earlier requests are outstanding.
func (c *conn) refuse(p []byte, good int) (int, error) {
	c.failed = errRefused
	if !c.scan.inHead() {
		return good, errRefused // the handler has the request; it must not take its body for whole
	}
	c.poison = []byte("refused\r\n\r\n")
	if !c.scan.atLineStart() {
		c.poison = []byte("\r\nrefused\r\n\r\n")
	}
	n := copy(p[good:], c.poison)
	c.poison = c.poison[n:]
	return good + n, nil
}

// goAway is how the frame begins by which net/http ends an HTTP/2 connection; the last stream and a code follow, and nothing more is written if that is
// an error's.
const goAway = "\x00\x00\x08\x07\x00\x00\x00\x00\x00"

// tooLarge is in net/http's answer to an HTTP/2 request whose headers are too large, but not by far.
var tooLarge = []byte("<p>Request Header Field(s) Too Large</p>")

// Write counts what net/http refuses by itself: those answers alone have these headers and no others.
func (c *conn) Write(p []byte) (int, error) {
	const status, own = "HTTP/1.1 ", "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
	if c.failed == nil && len(p) > len(status) && len(p) < 512 && (p[len(status)] == '4' || p[len(status)] == '5') {
		if text := string(p); strings.HasPrefix(text, status) && strings.Contains(text, own) {
			c.refusals.Count(ofStatus(text[len(status) : len(status)+3]))
		}
	}
	if n := len(p) - len(goAway) - 8; n >= 0 && n < 512 && string(p[n:n+len(goAway)]) == goAway {
		c.refusals.goneAway(p[len(p)-1])
	} else if c.failed == nil && len(p) < 512 && bytes.Contains(p, tooLarge) {
		c.refusals.Count(HeaderSize)
	}
	return c.Conn.Write(p)
}
