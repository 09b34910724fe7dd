package a2a_test

import (
	"testing"

	"github.com/specproxy/specproxy/internal/agentproto/a2a"
)

func TestSkill(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"JSON-RPC, of the message", `{"jsonrpc":"2.0","id":"1","method":"message/send","params":{"message":{"parts":[{"metadata":{"skillId":"no"}}],"metadata":{"skillId":"quote"}}}}`, "quote"},
		{"JSON-RPC, of the request", `{"jsonrpc":"2.0","id":"1","method":"SendMessage","params":{"message":{"role":"ROLE_USER"},"metadata":{"skill_id":"quote"}}}`, "quote"},
		{"the message goes first", `{"params":{"metadata":{"skill":"b"},"message":{"metadata":{"skill":"a"}}}}`, "a"},
		{"HTTP+JSON", `{"message":{"messageId":"m","metadata":{"skillId":"quote"}}}`, "quote"},
		{"none", `{"jsonrpc":"2.0","id":"1","method":"message/send","params":{"message":{"parts":[]}}}`, ""},
		{"not a string", `{"params":{"metadata":{"skill":{"id":"x"}}}}`, ""},
		{"no JSON", `quote`, ""},
		{"cut off", `{"params":{"message":{"metadata":{"skillId":"quote"},"parts":[{"te`, "quote"},
	} {
		if got := a2a.Skill([]byte(c.body)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
