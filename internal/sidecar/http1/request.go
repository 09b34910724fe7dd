package http1

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// How a request's body is delimited.
const (
	noBody = iota
	sized
	chunked
)

// framing trusts the stated length, as a server states it of a request that it got: 0 is no body, a negative one is not known.
func framing(r *http.Request) int {
	switch {
	case r.Body == nil, r.Body == http.NoBody, r.ContentLength == 0:
		return noBody
	case r.ContentLength > 0:
		return sized
	}
	return chunked
}

// check refuses what could be taken for more than one request, or for another one.
func check(r *http.Request) error {
	if r.URL == nil || r.Header == nil || !httpguts.ValidHeaderFieldName(r.Method) { // a method is a token too
		return fmt.Errorf("not a request that can be sent: method %q", r.Method)
	}
	if host := hostOf(r); !httpguts.ValidHostHeader(host) {
		return fmt.Errorf("invalid host %q", host)
	}
	if uri := r.URL.RequestURI(); strings.ContainsFunc(uri, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return fmt.Errorf("invalid path %q", uri)
	}
	return checkFields(r.Header)
}

func checkFields(h http.Header) error {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("invalid header name %q", name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fmt.Errorf("invalid value of header %s", name)
			}
		}
	}
	return nil
}

func hostOf(r *http.Request) string {
	if r.Host != "" {
		return r.Host
	}
	return r.URL.Host
}

// writeHead writes the request's head into the buffer. An error shows when that is flushed.
func writeHead(w *bufio.Writer, r *http.Request) {
	words := func(all ...string) {
		for _, s := range all {
			_, _ = w.WriteString(s)
		}
	}
	words(r.Method, " ", r.URL.RequestURI(), " HTTP/1.1\r\nHost: ", hostOf(r), "\r\n")
	for name, values := range r.Header {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			continue // are the request's own
		case "User-Agent":
			if len(values) == 1 && values[0] == "" {
				continue // http.Transport's sign that there is none
			}
		}
		for _, v := range values {
			words(name, ": ", v, "\r\n")
		}
	}
	switch framing(r) {
	case sized:
		words("Content-Length: ", strconv.FormatInt(r.ContentLength, 10), "\r\n")
	case chunked:
		words("Transfer-Encoding: chunked\r\n")
		if len(r.Trailer) > 0 {
			names := make([]string, 0, len(r.Trailer))
			for name := range r.Trailer {
				names = append(names, name)
			}
			words("Trailer: ", strings.Join(names, ", "), "\r\n")
		}
	case noBody:
		if r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch {
			words("Content-Length: 0\r\n")
		}
	}
	if r.Close {
		words("Connection: close\r\n")
	}
	words("\r\n")
}

// headHold is how long the head waits for the beginning of the body, so that both leave together. A server may answer to the head alone, and a client wait for that.
const headHold = time.Millisecond

const copySize = 32 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// send sends the body, after the head, which is in the buffer. It is the only one to write meanwhile, but for the head's own timer.
func (x *exchange) send() {
	defer close(x.written)
	err := x.copyBody()
	_ = x.request.Body.Close()
	if err != nil {
		x.sent.Store(&err)
		x.conn.abort() // the server must not take what it has for the whole
	}
}

func (x *exchange) copyBody() error {
	c, r := x.conn, x.request
	c.holdHead()
	buffer := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buffer)
	left := r.ContentLength
	for {
		n, err := r.Body.Read(buffer[:])
		c.hold.Stop()
		c.head.Lock()
		c.holding = false
		failed := x.part(buffer[:n], err == io.EOF, &left)
		c.head.Unlock()
		switch {
		case failed != nil:
			return failed
		case err == io.EOF || left == 0:
			return nil
		case err != nil:
			return err
		}
	}
}

// part writes what was read of the body, and lets it go.
func (x *exchange) part(p []byte, end bool, left *int64) error {
	c, r := x.conn, x.request
	if framing(r) == sized {
		if *left -= int64(len(p)); *left < 0 || end && *left > 0 {
			return errors.New("the body is not as long as the request says")
		}
		_, _ = c.w.Write(p)
		return c.w.Flush()
	}
	if len(p) > 0 {
		var size [20]byte
		_, _ = c.w.Write(append(strconv.AppendInt(size[:0], int64(len(p)), 16), "\r\n"...))
		_, _ = c.w.Write(p)
		_, _ = c.w.WriteString("\r\n")
	}
	if end {
		if err := checkFields(r.Trailer); err != nil {
			return err
		}
		_, _ = c.w.WriteString("0\r\n")
		for name, values := range r.Trailer {
			for _, v := range values {
				_, _ = c.w.WriteString(name + ": " + v + "\r\n")
			}
		}
		_, _ = c.w.WriteString("\r\n")
	}
	return c.w.Flush()
}
