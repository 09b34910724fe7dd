package http1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync/atomic"
	"time"
)

// exchange is one request and its response.
type exchange struct {
	transport *Transport
	conn      *conn
	request   *http.Request
	// stop ends the watch over the context; false if that has ended the exchange already.
	stop func() bool
	// written is closed when the request's body was sent or could not be; nil if there is none. sent is why it could not.
	written chan struct{}
	sent    atomic.Pointer[error]
	done    atomic.Bool
	// last: the connection is not used again.
	last bool
	body io.ReadCloser // the response's
}

// run sends the request and reads the response's head.
func (x *exchange) run() (*http.Response, error) {
	c, r := x.conn, x.request
	writeHead(c.w, r)
	if framing(r) == noBody {
		closeBody(r)
		if err := c.w.Flush(); err != nil {
			return nil, fmt.Errorf("send the request: %w", err)
		}
	} else {
		x.written = make(chan struct{})
		go x.send()
	}
	res, err := x.response()
	if err != nil {
		return nil, err
	}
	x.last = res.Close || r.Close
	if res.Body == http.NoBody {
		x.finish(true)
		return res, nil
	}
	x.body, res.Body = res.Body, x
	return res, nil
}

// response reads up to the head of the final response.
func (x *exchange) response() (*http.Response, error) {
	c := x.conn
	c.budget = maxHead
	defer func() { c.budget = -1 }()
	if _, err := c.r.Peek(1); err != nil {
		return nil, fmt.Errorf("the connection ended before a response: %w", err)
	}
	for range maxInterim {
		res, err := http.ReadResponse(c.r, x.request)
		if err != nil {
			return nil, err
		}
		switch {
		case res.StatusCode == http.StatusSwitchingProtocols:
			return nil, errors.New("the server switches protocols, which nobody asked for")
		case res.StatusCode >= 200:
			return res, nil
		}
		if trace := httptrace.ContextClientTrace(x.request.Context()); trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header)); err != nil {
				return nil, err
			}
		}
	}
	return nil, errors.New("too many informational responses")
}

// Read reads the response's body.
func (x *exchange) Read(p []byte) (int, error) {
	n, err := x.body.Read(p)
	if err == nil {
		return n, nil
	}
	if err == io.EOF { //nolint:errorlint // io.Reader's contract
		x.finish(true)
		return n, err
	}
	if ctx := x.request.Context(); ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	x.finish(false)
	return n, err
}

// Close gives up what was not read.
func (x *exchange) Close() error {
	x.finish(false)
	return nil
}

// lateBody is how long the end of a request's body may come after the end of the response.
const lateBody = 50 * time.Millisecond

// finish ends the exchange, once. whole: the response came to its end.
func (x *exchange) finish(whole bool) {
	if x.done.Swap(true) {
		return
	}
	keep := x.stop() && whole && !x.last && x.conn.r.Buffered() == 0 && x.allWritten()
	if keep {
		x.transport.put(x.conn)
		return
	}
	x.conn.abort()
}

func (x *exchange) allWritten() bool {
	if x.written == nil {
		return true
	}
	select {
	case <-x.written:
		return x.sent.Load() == nil
	default:
	}
	timer := time.NewTimer(lateBody)
	defer timer.Stop()
	select {
	case <-x.written:
		return x.sent.Load() == nil
	case <-timer.C:
		return false
	}
}
