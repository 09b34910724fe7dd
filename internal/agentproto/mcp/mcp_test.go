package mcp_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/agentproto/mcp"
)

func TestTools(t *testing.T) {
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"refund.issue","arguments":{"name":"Ann"}}}`
	for _, c := range []struct {
		name   string
		header http.Header
		body   string
		want   []string
	}{
		{"a call", nil, call, []string{"refund.issue"}},
		{"another method", nil, strings.Replace(call, "tools/call", "prompts/get", 1), nil},
		{"a listing", nil, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, nil},
		{"an answer", nil, `{"jsonrpc":"2.0","id":1,"result":{"name":"x"}}`, nil},
		{"a batch", nil, "[" + call + "," + strings.Replace(call, "refund.issue", "mail.send", 1) + "," + call + "]", []string{"refund.issue", "mail.send"}},
		{"a long call", nil, strings.Replace(call, "Ann", strings.Repeat("a", mcp.Limit), 1), []string{"refund.issue"}},
		{"a name beyond the limit", nil, `{"method":"tools/call","params":{"arguments":"` + strings.Repeat("a", mcp.Limit) + `","name":"late"}}`, nil},
		{"the headers", http.Header{"Mcp-Method": {"tools/call"}, "Mcp-Name": {"refund.issue"}}, "", []string{"refund.issue"}},
		{"headers of another method", http.Header{"Mcp-Method": {"tasks/get"}, "Mcp-Name": {"task-1"}}, "", nil},
		{"a header that is not ASCII", http.Header{"Mcp-Method": {"tools/call"}, "Mcp-Name": {"=?base64?csOpZnVuZA==?="}}, "", []string{"réfund"}},
		{"a header that is not base64", http.Header{"Mcp-Method": {"tools/call"}, "Mcp-Name": {"=?base64?!?="}}, "", []string{"=?base64?!?="}},
		// A server refuses this; whoever believes either of them is right.
		{"headers and a body that differ", http.Header{"Mcp-Method": {"tools/call"}, "Mcp-Name": {"search"}}, call, []string{"search", "refund.issue"}},
		{"a name twice", nil, `{"method":"tools/call","params":{"name":"search","name":"refund.issue"}}`, []string{"search", "refund.issue"}},
		{"nothing", nil, "", nil},
	} {
		if got := mcp.Tools(c.header, []byte(c.body)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
