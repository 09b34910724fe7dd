// Package grpc writes the retry signal for gRPC clients: a status with ErrorInfo and RetryInfo in the trailers, which a client library can
// obey by itself (gRFC A6) and an application can read.
//
// Invariant: the status code tells whether the work reached an agent and whether it may be repeated.
package grpc

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/specproxy/specproxy/internal/agentproto"
)

// Domain of the ErrorInfo.
const Domain = "specproxy"

// IsContentType says whether a request or response is gRPC. gRPC-Web is not: it has no trailers and is plain HTTP to a proxy.
func IsContentType(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// Code is UNAVAILABLE if nothing reached the agent, ABORTED if the execution must begin again, FAILED_PRECONDITION if it must not be repeated.
func Code(s agentproto.Signal) codes.Code {
	switch {
	case !s.Repeatable():
		return codes.FailedPrecondition
	case s.Reached:
		return codes.Aborted
	}
	return codes.Unavailable
}

// Trailers is the retry signal. Sent as the only headers of a response it is "trailers-only", which clients with a retry policy need;
// grpc-retry-pushback-ms is the exact delay, or -1 against any retry.
func Trailers(s agentproto.Signal) http.Header {
	code, message := Code(s), s.Detail()
	h := Status(code, message)
	details := [][]byte{packed(errorInfoType, errorInfo(s))}
	pushback := "-1"
	if s.Repeatable() {
		pushback = strconv.FormatInt(s.Milliseconds(), 10)
		details = append(details, packed(retryInfoType, retryInfo(s.RetryAfter)))
	}
	h.Set("Grpc-Status-Details-Bin", base64.RawStdEncoding.EncodeToString(status(code, message, details)))
	h.Set("Grpc-Retry-Pushback-Ms", pushback)
	if s.RolledBack() {
		h.Set("X-Spec-Rollback", fmt.Sprintf("from=%s, to=%s, effects=%s", s.From, s.To, s.Known()))
	}
	return h
}

// Status is any gRPC status as headers or trailers: grpc-status and grpc-message.
func Status(code codes.Code, message string) http.Header {
	h := make(http.Header, 5)
	h.Set("Grpc-Status", strconv.Itoa(int(code)))
	h.Set("Grpc-Message", encodeMessage(message))
	return h
}

// encodeMessage percent-encodes what a grpc-message may not hold (gRPC over HTTP/2, "Responses").
func encodeMessage(message string) string {
	var b strings.Builder
	for i := range len(message) {
		if c := message[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
