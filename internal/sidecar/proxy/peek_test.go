package proxy_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
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

// routesAreHarmless declares its routes to be readonly, and a tool and a skill that are not.
var routesAreHarmless = drain.Contract{
	Effects: drain.Reported, Default: drain.Action{OnRollback: drain.Complete},
	Declared: []drain.Declaration{
		{Path: "/mcp", Class: drain.EffectsReadonly},
		{GRPC: "lf.a2a.v1.A2AService/*", Class: drain.EffectsReadonly},
		{Tool: "refund.issue", Class: drain.EffectsIrreversible},
		{Skill: "pay", Class: drain.EffectsIrreversible},
	},
	Rules: []drain.Rule{{When: drain.Match{Effects: drain.AnyOf{drain.EffectsReadonly}}, Action: drain.Action{OnRollback: drain.Cancel}}},
}

func gzipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return b.String()
}

// framed is a message of a gRPC request.
func framed(flag byte, message string) string {
	return string(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(message)))) + message
}

// What might name a tool or a skill where it cannot be read is unknown, and no rule for something better takes it.
func TestWhatCannotBeReadIsUnknown(t *testing.T) {
	const send = "/lf.a2a.v1.A2AService/SendMessage"
	json, rpc := []string{"Content-Type", "application/json"}, []string{"Content-Type", "application/grpc", "Grpc-Encoding", "gzip"}
	guarded := routesAreHarmless
	guarded.Effects = drain.Guarded
	toolsOnly := guarded
	toolsOnly.Declared = guarded.Declared[:3]
	long := strings.Repeat(" ", 70<<10)
	for _, c := range []struct {
		name       string
		contract   drain.Contract
		path, body string
		headers    []string
		want       drain.Effects
	}{
		{"a plain body", routesAreHarmless, "/mcp", `{"method":"ping"}`, json, drain.EffectsReadonly},
		{"a compressed body", routesAreHarmless, "/mcp", gzipped(callsRefund), append([]string{"Content-Encoding", "gzip"}, json...), drain.EffectsUnknown},
		{"codings in a list", routesAreHarmless, "/mcp", gzipped(callsRefund), append([]string{"Content-Encoding", "identity, GZIP"}, json...), drain.EffectsUnknown},
		{"no coding after all", routesAreHarmless, "/mcp", `{"method":"ping"}`, append([]string{"Content-Encoding", "identity"}, json...), drain.EffectsReadonly},
		{"a compressed body whose tool the headers name", routesAreHarmless, "/mcp", gzipped(callsRefund),
			append([]string{"Content-Encoding", "br", "Mcp-Method", "tools/call", "Mcp-Name", "refund.issue"}, json...), drain.EffectsIrreversible},
		{"nothing within the limit", routesAreHarmless, "/mcp", `{"method":"tools/call","params":{"arguments":"` + long + `","name":"refund.issue"}}`, json, drain.EffectsUnknown},
		{"a long body that names its tool", routesAreHarmless, "/mcp", callsRefund[:len(callsRefund)-1] + long + "}", json, drain.EffectsIrreversible},
		{"a gRPC message", routesAreHarmless, send, framed(0, ""), rpc, drain.EffectsReadonly},
		{"a compressed gRPC message", routesAreHarmless, send, framed(1, gzipped(asksForQuote)), rpc, drain.EffectsUnknown},
		{"a compressed gRPC message of another method", routesAreHarmless, "/lf.a2a.v1.A2AService/GetTask", framed(1, gzipped("x")), rpc, drain.EffectsReadonly},
		{"a long gRPC message", routesAreHarmless, send, framed(0, "\x12\x80\xb0\x04"+long), rpc, drain.EffectsUnknown},
		// A guarded agent asks before it uses a tool, whoever could read that it was asked to; a skill holds from the first moment.
		{"a guarded agent with tools", toolsOnly, "/mcp", gzipped(callsRefund), append([]string{"Content-Encoding", "gzip"}, json...), drain.EffectsReadonly},
		{"a guarded agent with skills", guarded, "/mcp", gzipped(callsRefund), append([]string{"Content-Encoding", "gzip"}, json...), drain.EffectsUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			held := newHeld()
			r := newRig(t, c.contract, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body)
				held.ServeHTTP(w, req)
			}))
			answered := r.later(r.request("POST", c.path, c.body, c.headers...))
			get(t, "the request", held.reached)
			if rows := r.ledger.Running(); len(rows) != 1 || rows[0].Effects != c.want {
				t.Errorf("effects %+v, want %s", rows, c.want)
			}
			r.fence()
			if c.want != drain.EffectsReadonly {
				held.answer <- reply("ok") // nothing cut it
			}
			get(t, "the response", answered)
			disposition := map[bool]drain.Disposition{true: drain.Cancel, false: drain.Complete}[c.want == drain.EffectsReadonly]
			if row := r.endedRow(); row.Disposition != disposition {
				t.Errorf("%s: %s", row.Disposition, row.Why)
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
