package proxy

import (
	"mime"
	"net/http"
	"strings"

	"github.com/specproxy/specproxy/internal/agentproto/a2a"
	"github.com/specproxy/specproxy/internal/agentproto/mcp"
)

// peekLimit bounds the bytes of a request's body that are looked at and kept for it. What lies beyond is not seen.
const peekLimit = max(mcp.Limit, a2a.Limit)

// peek collects the beginning of a request's body, to find out which tools it calls and which skill it asks for. It belongs to the body.
//
// Nothing is decoded: a body is the client's, and what unpacks to a thousand times its size is not for a sidecar to unpack. What might name a
// tool or a skill and cannot be read counts as unknown.
type peek struct {
	looks bool
	// framed: the first message of a gRPC call is enough.
	framed bool
	begin  []byte
}

// newPeek looks only where the contract asks about tools or skills, and the request may name one.
func newPeek(x *exchange) peek {
	return peek{looks: x.mayName() && !encoded(x.in.Header), framed: x.arrival.kind == grpcCall}
}

// mayName says that the contract asks what the request's body may name.
func (x *exchange) mayName() bool {
	switch x.arrival.kind {
	case grpcCall:
		return x.proxy.Contract.NamesSkills() && a2a.IsSend(x.in.URL.Path)
	case plainHTTP:
		return x.proxy.peeks && x.in.Method == http.MethodPost && isJSON(x.in.Header)
	case upgrade:
	}
	return false
}

func isJSON(h http.Header) bool {
	kind, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	return kind == "application/json" || kind == "application/a2a+json"
}

// encoded says that the body is not in the form that its type names (RFC 9110, section 8.4).
func encoded(h http.Header) bool {
	for _, line := range h["Content-Encoding"] {
		for coding := range strings.SplitSeq(line, ",") {
			if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "identity") {
				return true
			}
		}
	}
	return false
}

// take keeps what has come, and says that it is time to look: at the limit, or when the whole body is here.
func (p *peek) take(chunk []byte, whole bool) (begin []byte, look bool) {
	if !p.looks {
		return nil, false
	}
	p.begin = append(p.begin, chunk[:min(len(chunk), peekLimit-len(p.begin))]...)
	if !whole && len(p.begin) < peekLimit && (!p.framed || !a2a.Framed(p.begin)) {
		return nil, false
	}
	begin, p.begin, p.looks = p.begin, nil, false
	return begin, true
}

// observe tells the ledger what the request asks for, before the agent has all of it. body is its beginning, nil for the headers alone.
func (x *exchange) observe(body []byte) {
	var tools []string
	var skill string
	legible := true
	switch {
	case body == nil && x.mayName() && encoded(x.in.Header):
		tools, legible = mcp.Tools(x.in.Header, nil), false
	case x.arrival.kind == grpcCall:
		skill, legible = a2a.SkillGRPC(x.in.URL.Path, body), a2a.Legible(body)
	default:
		tools, skill = mcp.Tools(x.in.Header, body), a2a.Skill(body)
	}
	found := len(tools) > 0 || skill != ""
	if len(body) >= peekLimit && !found {
		legible = false // what was looked for may come later
	}
	if found {
		x.execution.Observe(tools, skill, x.proxy.Now())
	}
	if !legible {
		x.execution.ObserveUnread()
	}
	if found || !legible {
		x.proxy.Changed()
	}
}
