package proxy

import (
	"mime"
	"net/http"

	"github.com/specproxy/specproxy/internal/agentproto/a2a"
	"github.com/specproxy/specproxy/internal/agentproto/mcp"
)

// peekLimit bounds the bytes of a request's body that are looked at and kept for it. What lies beyond is not seen.
const peekLimit = max(mcp.Limit, a2a.Limit)

// peek collects the beginning of a request's body, to find out which tools it calls and which skill it asks for. It belongs to the body.
type peek struct {
	looks bool
	// framed: the first message of a gRPC call is enough.
	framed bool
	begin  []byte
}

// newPeek looks only where the contract asks about tools or skills, and the request may name one.
func newPeek(x *exchange) peek {
	if x.arrival.kind == grpcCall {
		return peek{looks: x.proxy.Contract.NamesSkills() && a2a.IsSend(x.in.URL.Path), framed: true}
	}
	if !x.proxy.peeks || x.arrival.kind != plainHTTP || x.in.Method != http.MethodPost {
		return peek{}
	}
	kind, _, _ := mime.ParseMediaType(x.in.Header.Get("Content-Type"))
	return peek{looks: kind == "application/json" || kind == "application/a2a+json"}
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
	if x.arrival.kind == grpcCall {
		if skill := a2a.SkillGRPC(x.in.URL.Path, body); skill != "" {
			x.execution.Observe(nil, skill, x.proxy.Now())
			x.proxy.Changed()
		}
		return
	}
	tools, skill := mcp.Tools(x.in.Header, body), a2a.Skill(body)
	if len(tools) == 0 && skill == "" {
		return
	}
	x.execution.Observe(tools, skill, x.proxy.Now())
	x.proxy.Changed()
}
