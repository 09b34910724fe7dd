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
type Refusals struct {
	counts [reasons]atomic.Uint64
	// told is how many of net/http's protocol errors that end an HTTP/2 connection were counted and their GOAWAY has not been seen yet.
	told atomic.Int64
}

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

// protocolFrames are those of net/http's errors in single frames that end a connection with PROTOCOL_ERROR.
var protocolFrames = map[string]bool{
	"frame_data_stream_0": true, "frame_data_pad_too_big": true, "frame_settings_has_stream": true, "frame_ping_has_stream": true, "frame_goaway_has_stream": true,
	"frame_windowupdate_zero_inc_conn": true, "frame_headers_zero_stream": true, "frame_priority_zero_stream": true, "frame_rststream_zero_stream": true,
	"frame_continuation_zero_stream": true, "frame_pushpromise_zero_stream": true,
}

// http2 is called by net/http with its own names of errors.
func (r *Refusals) http2(kind string) {
	if protocolFrames[kind] || strings.HasPrefix(kind, "conn_PROTOCOL_ERROR_") {
		r.told.Add(1)
	}
	if strings.HasSuffix(kind, "_too_many_early_resets") {
		r.Count(RapidReset)
		return
	}
	r.Count(HTTP2)
}

// goneAway is called with the code of a GOAWAY that is written. Of header blocks that are too large or cannot be decoded net/http tells nobody else.
func (r *Refusals) goneAway(code byte) {
	const protocolError, compressionError = 1, 9
	switch code {
	case compressionError:
		r.Count(HTTP2)
	case protocolError:
		if r.told.Add(-1) < 0 {
			r.told.Add(1)
			r.Count(HTTP2)
		}
	}
}

// ofStatus maps the status with which net/http refuses a request.
func ofStatus(status string) Reason {
	if status == "431" {
		return HeaderSize
	}
	return Malformed
}
