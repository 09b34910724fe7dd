// Package plain speaks to clients and agents that use HTTP with no protocol on top: it writes the retry signal as a problem document
// (RFC 9457) or as a server-sent event, and reads the headers by which an agent states outcome and effects.
//
// Invariant: what it writes is a pure function of the signal; what it reads from an agent is never trusted to be well-formed.
package plain

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/specproxy/specproxy/internal/agentproto"
)

// Problem types, the `type` member of the document (RFC 9457 section 3.1.1): identifiers, not addresses.
const (
	TypeRolledBack = "urn:specproxy:problem:spec-version-rolled-back"
	TypeLeaving    = "urn:specproxy:problem:instance-leaving"
)

// problem is the document; members after Instance are extensions.
type problem struct {
	Type         string `json:"type"`
	Title        string `json:"title"`
	Status       int    `json:"status"`
	Detail       string `json:"detail"`
	Code         string `json:"code"`
	Spec         string `json:"spec"`
	From         string `json:"from"`
	To           string `json:"to,omitempty"`
	Effects      string `json:"effects"`
	Retry        bool   `json:"retry"`
	RetryAfterMS *int64 `json:"retryAfterMs,omitempty"`
	Execution    string `json:"execution,omitempty"`
	Why          string `json:"why,omitempty"`
	PostMortem   string `json:"postMortem,omitempty"`
}

func document(s agentproto.Signal) []byte {
	p := problem{
		Type: TypeLeaving, Title: "The instance is shutting down", Status: http.StatusServiceUnavailable, Detail: s.Detail(),
		Code: s.Code(), Spec: s.Spec, From: s.From, Effects: string(s.Known()), Retry: s.Repeatable(),
		Execution: s.Execution, Why: s.Why, PostMortem: s.PostMortem,
	}
	if s.RolledBack() {
		p.Type, p.Title, p.To = TypeRolledBack, "The spec version was rolled back", s.To
	}
	if p.Retry {
		ms := s.Milliseconds()
		p.RetryAfterMS = &ms
	}
	data, err := json.Marshal(p)
	if err != nil {
		panic("plain: " + err.Error()) // strings, integers and booleans always marshal
	}
	return data
}

// Response is the retry signal where no response byte has been sent: status 503, headers and a problem document. Retry-After is whole seconds;
// retry-after-ms, which some SDKs read, has the exact delay. If the work must not be repeated neither is set and x-should-retry is false.
func Response(s agentproto.Signal) (status int, header http.Header, body []byte) {
	header = http.Header{
		"Content-Type":   {"application/problem+json"},
		"Cache-Control":  {"no-store"},
		"X-Should-Retry": {strconv.FormatBool(s.Repeatable())},
	}
	if s.RolledBack() {
		header.Set("X-Spec-Rollback", Rollback(s))
	}
	if s.Repeatable() {
		header.Set("Retry-After", strconv.FormatInt(s.Seconds(), 10))
		header.Set("Retry-After-Ms", strconv.FormatInt(s.Milliseconds(), 10))
	}
	return http.StatusServiceUnavailable, header, document(s)
}

// Rollback is the value of x-spec-rollback: from=2.1.0, to=2.0.3, effects=none.
func Rollback(s agentproto.Signal) string {
	return fmt.Sprintf("from=%s, to=%s, effects=%s", s.From, s.To, s.Known())
}

// Event is the retry signal in the middle of a server-sent event stream: one `error` event, after which the stream ends. The caller writes
// it between events only.
func Event(s agentproto.Signal) []byte {
	return fmt.Appendf(nil, "event: error\ndata: %s\n\n", document(s))
}
