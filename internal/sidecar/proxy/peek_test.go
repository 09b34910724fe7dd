package proxy_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/drain"
)

var looksAtTools = drain.Contract{
	Effects: drain.Reported, Default: drain.Action{OnRollback: drain.Complete},
	Declared: []drain.Declaration{
		{Tool: "refund.issue", Class: drain.EffectsIrreversible, Compensation: "none"},
		{Tool: "search", Class: drain.EffectsReadonly},
		{Skill: "quote", Class: drain.EffectsReadonly},
		{GRPC: "refunds.v1.Refunds/*", Class: drain.EffectsCompensable},
	},
	Rules: []drain.Rule{{When: drain.Match{Header: map[string]string{"X-Tier": "gold"}}, Action: drain.Action{OnRollback: drain.Complete}}},
}

const callsRefund = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"refund.issue","arguments":{}}}`

// asksForQuote is a SendMessageRequest of A2A 1.0 in its frame: metadata (4) is a Struct whose fields (1) are {skillId: "quote"}.
const asksForQuote = "\x00\x00\x00\x00\x16" + "\x22\x14" + "\x0a\x12" + "\x0a\x07skillId" + "\x12\x07" + "\x1a\x05quote"

// What a request calls is known before the agent has the whole of it.
func TestToolsAreSeenBeforeTheAgentHasTheRequest(t *testing.T) {
	for _, c := range []struct {
		name, body string
		headers    []string
		effects    drain.Effects
		tools      []string
		skill      string
	}{
		{"an MCP call", callsRefund, nil, drain.EffectsIrreversible, []string{"refund.issue"}, ""},
		{"an MCP call of a tool that only reads", strings.Replace(callsRefund, "refund.issue", "search", 1), nil, drain.EffectsReadonly, []string{"search"}, ""},
		{"an MCP call of a tool that nobody declared", strings.Replace(callsRefund, "refund.issue", "mail", 1), nil, drain.EffectsUnknown, []string{"mail"}, ""},
		{"an A2A skill", `{"method":"message/send","params":{"message":{"metadata":{"skillId":"quote"}}}}`, nil, drain.EffectsReadonly, nil, "quote"},
		{"MCP headers", `{}`, []string{"Mcp-Method", "tools/call", "Mcp-Name", "refund.issue"}, drain.EffectsIrreversible, []string{"refund.issue"}, ""},
		{"no JSON", callsRefund, []string{"Content-Type", "text/plain"}, drain.EffectsUnknown, nil, ""},
		{"an A2A skill over gRPC", asksForQuote, []string{"Content-Type", "application/grpc"}, drain.EffectsReadonly, nil, "quote"},
		{"gRPC", "x", []string{"Content-Type", "application/grpc"}, drain.EffectsCompensable, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r *rig
			seen := make(chan drain.Row, 1)
			r = newRig(t, looksAtTools, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body)
				seen <- r.ledger.Running()[0]
			}))
			path := "/mcp"
			switch c.name {
			case "gRPC":
				path = "/refunds.v1.Refunds/Issue"
			case "an A2A skill over gRPC":
				path = "/lf.a2a.v1.A2AService/SendMessage"
			}
			headers := append([]string{"Content-Type", "application/json"}, c.headers...)
			res := r.do(r.request("POST", path, c.body, headers...))
			_ = read(t, res)
			row := get(t, "the row that the agent saw", seen)
			if row.Effects != c.effects || !slices.Equal(row.Tools, c.tools) || row.Skill != c.skill {
				t.Errorf("effects %s, tools %q, skill %q", row.Effects, row.Tools, row.Skill)
			}
		})
	}
}

// The body is neither kept back nor kept whole: a stream of any length passes, and the agent gets its first byte while the client still writes.
func TestPeekingHoldsNothingUp(t *testing.T) {
	const size = 1 << 20
	first := make(chan struct{})
	r := newRig(t, looksAtTools, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		one := make([]byte, 1)
		_, _ = io.ReadFull(req.Body, one)
		close(first)
		n, _ := io.Copy(io.Discard, req.Body)
		if n != size-1 {
			t.Errorf("the agent got %d bytes, want %d", n+1, size)
		}
	}))
	pr, pw := io.Pipe()
	req := r.request("POST", "/mcp", "x", "Content-Type", "application/json")
	req.Body, req.ContentLength = pr, -1
	answered := r.later(req)
	_, _ = pw.Write([]byte(callsRefund[:40]))
	<-first
	rest := callsRefund[40:]
	_, _ = io.WriteString(pw, rest+strings.Repeat(" ", size-len(callsRefund)))
	_ = pw.Close()
	if res := get(t, "the response", answered); res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
	if row := r.endedRow(); row.Effects != drain.EffectsIrreversible || len(row.Acts) != 1 || row.Acts[0].Source != drain.SourceObserved {
		t.Errorf("%s %+v", row.Effects, row.Acts)
	}
}

// Only headers that rules look at are kept.
func TestRuledHeaders(t *testing.T) {
	held := newHeld()
	r := newRig(t, looksAtTools, held)
	answered := r.later(r.request("GET", "/", "", "X-Tier", "gold", "Authorization", "secret", "X-Other", strings.Repeat("x", 1000)))
	get(t, "the request", held.reached)
	if rows := r.ledger.Running(); len(rows) != 1 || len(rows[0].Headers) != 1 || rows[0].Headers["x-tier"] != "gold" {
		t.Errorf("%+v", rows)
	}
	r.fence()
	held.answer <- reply("ok")
	get(t, "the response", answered)
	if row := r.endedRow(); !strings.Contains(row.Why, "rule 1") {
		t.Errorf("why %q", row.Why)
	}
}
