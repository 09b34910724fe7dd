// Package mcp finds out which tools a Model Context Protocol request calls, over the streamable HTTP transport.
//
// Invariant: what a client names is never taken for more than a name; a call that is hidden from it (beyond Limit, or in a form that is not
// JSON-RPC) is not seen, and nothing follows from not seeing one. The package is pure.
package mcp

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"github.com/specproxy/specproxy/internal/agentproto/jsonpeek"
)

// Limit is how many bytes of a request's body Tools looks at.
const Limit = 64 << 10

// toolsCall is the JSON-RPC method that calls a tool.
const toolsCall = "tools/call"

// Tools names the tools that a request calls, each once: by the headers Mcp-Method and Mcp-Name (revision 2026-07-28), and by params.name of
// the JSON-RPC request in the body, or of each request of a batch (revision 2025-03-26). body is the body or its beginning, nil if it is not
// known.
func Tools(h http.Header, body []byte) []string {
	var tools []string
	add := func(name string) {
		if name != "" && !slices.Contains(tools, name) {
			tools = append(tools, name)
		}
	}
	if h.Get("Mcp-Method") == toolsCall {
		add(headerValue(h.Get("Mcp-Name")))
	}
	for _, request := range jsonpeek.Objects(body[:min(len(body), Limit)], "method", "params.name") {
		if slices.Contains(request["method"], toolsCall) {
			for _, name := range request["params.name"] {
				add(name)
			}
		}
	}
	return tools
}

// headerValue decodes a value that is not plain ASCII, =?base64?…?= (revision 2026-07-28, "Value encoding").
func headerValue(value string) string {
	inner, ok := strings.CutPrefix(value, "=?base64?")
	if !ok {
		return value
	}
	inner, ok = strings.CutSuffix(inner, "?=")
	if !ok {
		return value
	}
	decoded, err := base64.StdEncoding.DecodeString(inner)
	if err != nil {
		return value
	}
	return string(decoded)
}
