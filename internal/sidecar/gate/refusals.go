package gate

import (
	"errors"
	"strings"
	"sync/atomic"
)

var errRefused = errors.New("the request's framing is refused")

// Reason is why something was refused.
type Reason int

const (
	none Reason = iota
	// Connections: there were too many.
	Connections
	// HeaderTimeout: a request's headers took too long.
	HeaderTimeout
	// HeaderSize: they were too large.
	HeaderSize
	// BareLF: a line ended without a carriage return.
	BareLF
	// FoldedLine: a header went on in the next line (obs-fold).
	FoldedLine
	// Framing: the request's length is given twice, or in two ways (Content-Length and Transfer-Encoding).
	Framing
	// Malformed: the request could not be read at all.
	Malformed
	// RapidReset: streams were begun and reset faster than they could be dropped.
	RapidReset
	// HTTP2: any other violation of HTTP/2.
	HTTP2
	// BodyBuffer: a request's body was not kept for a hand-over, since the memory for that was used up. The request itself went through.
	BodyBuffer
	// BodyTimeout: the rest of a request's body did not come.
	BodyTimeout
	// TLS: the caller did not come to terms on TLS, or spoke none.
	TLS
	reasons
)

var names = [reasons]string{
	Connections: "connections", HeaderTimeout: "header_timeout", HeaderSize: "header_size", BareLF: "bare_lf", FoldedLine: "folded_line",
	Framing: "framing", Malformed: "malformed", RapidReset: "rapid_reset", HTTP2: "http2", BodyBuffer: "body_buffer", BodyTimeout: "body_timeout", TLS: "tls",
}

func (r Reason) String() string { return names[r] }

// Refusals counts what was refused. It may be used from many goroutines; its zero value is ready.
type Refusals struct{ counts [reasons]atomic.Uint64 }

// Count adds one.
func (r *Refusals) Count(reason Reason) { r.counts[reason].Add(1) }

// Of is the count for one reason.
func (r *Refusals) Of(reason Reason) uint64 { return r.counts[reason].Load() }

// Each calls f with every reason there is and its count; counts only grow. It is what a metric is made of.
func (r *Refusals) Each(f func(reason string, count uint64)) {
	for i := none + 1; i < reasons; i++ {
		f(i.String(), r.counts[i].Load())
	}
}

// http2 is called by net/http with its own names of errors.
func (r *Refusals) http2(kind string) {
	if strings.HasSuffix(kind, "_too_many_early_resets") {
		r.Count(RapidReset)
		return
	}
	r.Count(HTTP2)
}

// ofStatus maps the status with which net/http refuses a request.
func ofStatus(status string) Reason {
	if status == "431" {
		return HeaderSize
	}
	return Malformed
}
