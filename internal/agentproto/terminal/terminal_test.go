package terminal_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/agentproto/terminal"
)

const (
	nothing = ""
	success = "success"
)

func said(o terminal.Outcome) string {
	switch {
	case !o.Known:
		return nothing
	case o.Success:
		return success
	}
	return o.Reason
}

// Documents as the protocols' own clients get them.
func TestDocuments(t *testing.T) {
	for _, c := range []struct{ name, document, want string }{
		{"A2A 1.0 failed", `{"jsonrpc":"2.0","id":1,"result":{"task":{"id":"t","contextId":"c","status":{"state":"TASK_STATE_FAILED"}}}}`, "A2A task failed"},
		{"A2A 1.0 works", `{"jsonrpc":"2.0","id":1,"result":{"task":{"id":"t","status":{"state":"TASK_STATE_WORKING"}}}}`, nothing},
		{"A2A 1.0 update", `{"jsonrpc":"2.0","id":1,"result":{"statusUpdate":{"taskId":"t","status":{"state":"TASK_STATE_COMPLETED"}}}}`, success},
		{"A2A 0.3 rejected", `{"jsonrpc":"2.0","id":"a","result":{"kind":"task","id":"t","contextId":"c","status":{"state":"rejected"}}}`, "A2A task rejected"},
		{"A2A 0.3 canceled", `{"jsonrpc":"2.0","id":"a","result":{"kind":"status-update","status":{"state":"canceled"},"final":true}}`, "A2A task canceled"},
		{"A2A 0.3 input", `{"jsonrpc":"2.0","id":"a","result":{"kind":"task","contextId":"c","status":{"state":"input-required"}}}`, nothing},
		{"A2A over HTTP", `{"task":{"id":"t","contextId":"c","status":{"state":"TASK_STATE_COMPLETED"}}}`, success},
		{"A2A task over HTTP", `{"id":"t","contextId":"c","status":{"state":"TASK_STATE_REJECTED"}}`, "A2A task rejected"},
		{"a state that is nobody's", `{"status":{"state":"failed"}}`, nothing},
		{"A2A task not found", `{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"Task not found"}}`, nothing},
		{"MCP tool error", `{"jsonrpc":"2.0","id":3,"result":{"content":[{"type":"text","text":"no"}],"isError":true}}`, "the MCP tool reports an error"},
		{"MCP tool", `{"jsonrpc":"2.0","id":3,"result":{"content":[],"isError":false}}`, success},
		{"MCP list", `{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"error","state":"x"}]}}`, nothing},
		{"internal error", `{"jsonrpc":"2.0","id":3,"error":{"code":-32603,"message":"boom"}}`, "JSON-RPC error -32603: boom"},
		{"method not found", `{"jsonrpc":"2.0","id":3,"error":{"code":-32601,"message":"no such"}}`, nothing},
		{"request with such params", `{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"isError":true}}`, nothing},
		{"chat", `{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}`, success},
		{"chat cut off", `{"choices":[{"finish_reason": "length"}]}`, "finish_reason length"},
		{"chat goes on", `{"choices":[{"delta":{"content":"\"error\""},"finish_reason":null}]}`, nothing},
		{"chat error", `{"error":{"message":"overloaded","type":"server_error"}}`, "error: overloaded"},
		{"response", `{"id":"r","object":"response","status":"completed","error":null}`, success},
		{"response failed", `{"id":"r","object": "response","status":"failed","error":{"code":"server_error","message":"boom"}}`, "response failed: boom"},
		{"response incomplete", `{"object":"response","status":"incomplete","incomplete_details":{"reason":"max_output_tokens"}}`, "response incomplete: max_output_tokens"},
		{"response event", `{"type":"response.failed","response":{"status":"failed","error":null}}`, "response failed"},
		{"response event goes on", `{"type":"response.created","response":{"status":"in_progress"}}`, nothing},
		{"AG-UI error", `{"type":"RUN_ERROR","message":"boom","code":"X"}`, "AG-UI run error: boom"},
		{"AG-UI end", `{"type":"RUN_FINISHED","threadId":"t","runId":"r"}`, success},
		{"AG-UI begin", `{"type":"RUN_STARTED","threadId":"t","runId":"r"}`, nothing},
		{"anybody's", `{"orders":[{"error":"no","state":"new"}],"error":"text"}`, nothing},
		{"anybody's types", `{"error":{"message":7},"choices":"none","status":"ok"}`, nothing},
		{"a list", `[{"isError":true}]`, nothing},
		{"torn", `{"jsonrpc":"2.0","result":{"isError":tr`, nothing},
		{"nothing", ``, nothing},
		{"long words", `{"error":{"message":"` + strings.Repeat("ä", 1000) + `"}}`, "error: " + strings.Repeat("ä", 193) + "…"},
	} {
		if got := said(terminal.Read([]byte(c.document))); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// Streams come in any pieces; what failed stays failed; what is too long says nothing and does no harm to what follows.
func TestStreams(t *testing.T) {
	long := strings.Repeat("x", terminal.Limit)
	for _, c := range []struct{ name, kind, body, want string }{
		{"document", "application/json; charset=utf-8", "\n{\"error\":{\"message\":\"boom\"}}\n", "error: boom"},
		{"long document", "application/json", `{"error":{"message":"` + long + `"}}`, nothing},
		{"events", "text/event-stream", "event: e\r\nid: 1\r\ndata: {\"type\":\"RUN_STARTED\"}\r\n\r\n: ping\r\n\r\ndata:{\"type\":\ndata:\"RUN_FINISHED\"}\n\n", success},
		{"failed first", "text/event-stream", "data: {\"type\":\"RUN_ERROR\"}\n\ndata: {\"type\":\"RUN_FINISHED\"}\n\n", "AG-UI run error"},
		{"not ended", "text/event-stream", "data: {\"type\":\"RUN_FINISHED\"}\n", nothing},
		{"done", "text/event-stream", "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n", success},
		{"long line", "text/event-stream", "data: {\"error\":{\"message\":\"" + long + "\"}}\n\ndata: {\"type\":\"RUN_FINISHED\"}\n\n", success},
		{"long event", "text/event-stream", "data: " + long[:40000] + "\ndata: " + long[:40000] + "\n\ndata: {\"type\":\"RUN_FINISHED\"}\n\n", success},
	} {
		for _, size := range []int{1, 7, 4096, 1 << 20} {
			w := terminal.Watch(http.Header{"Content-Type": {c.kind}})
			for body := c.body; body != ""; {
				n := min(size, len(body))
				w.Write([]byte(body[:n]))
				body = body[n:]
			}
			if got := said(w.End()); got != c.want {
				t.Errorf("%s, in pieces of %d: %q, want %q", c.name, size, got, c.want)
			}
		}
	}
	for _, h := range []http.Header{{}, {"Content-Type": {"text/html"}}, {"Content-Type": {"application/grpc"}}, {"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}} {
		if terminal.Watch(h) != nil {
			t.Errorf("%v is looked at", h)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","result":{"isError":true}}`))
	f.Add([]byte(`data: {"type":"RUN_ERROR","message":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if o := terminal.Read(data); !o.Known && (o.Success || o.Reason != "") || o.Success && o.Reason != "" {
			t.Errorf("%+v", o)
		}
	})
}
