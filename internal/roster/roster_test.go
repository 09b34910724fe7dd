package roster_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/roster"
)

const (
	aliceSecret = "alices-token-of-good-length"
	ciSecret    = "the-pipelines-token-of-good-length"
)

func tokens(entries ...string) string { return "tokens:\n" + strings.Join(entries, "\n") + "\n" }

func TestALineIsReadAsItWasWritten(t *testing.T) {
	for _, role := range roster.Roles() {
		got, err := roster.Parse([]byte(tokens(roster.Line("a.b@c-1", role, aliceSecret))))
		if err != nil || len(got) != 1 || got[0] != (roster.Bearer{Name: "a.b@c-1", Role: role, Sum: sha256.Sum256([]byte(aliceSecret))}) {
			t.Errorf("%s: %v, %v", role, got, err)
		}
	}
	if got, err := roster.Parse([]byte("tokens: []")); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestWhatCannotBeRead(t *testing.T) {
	alice := roster.Line("alice", roster.Operator, aliceSecret)
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "is no YAML with a list named tokens"},
		{"garbage", "\x00", "is no YAML"},
		{"another list", "people: []", "there is no field people"},
		{"more fields", "tokens: [{name: a, role: viewer, secret: x}]", "there is no field secret"},
		{"the secret in place of its sum", "tokens: [{name: a, role: viewer, sha256: " + aliceSecret + "}]", "tokens[0] (a): sha256 is not 64"},
		{"half a sum", "tokens: [{name: a, role: viewer, sha256: " + strings.Repeat("ab", 16) + "}]", "sha256 is not 64"},
		{"a long sum", "tokens: [{name: a, role: viewer, sha256: " + strings.Repeat("ab", 33) + "}]", "sha256 is not 64"},
		{"no role", "tokens: [{name: a, sha256: " + strings.Repeat("ab", 32) + "}]", `role "" is none of viewer, automation, operator and admin`},
		{"a role of nobody", "tokens: [{name: a, role: root, sha256: " + strings.Repeat("ab", 32) + "}]", `role "root" is none`},
		{"a name that lies", `tokens: [{name: "a (admin)", role: viewer, sha256: ` + strings.Repeat("ab", 32) + "}]", "is no name for a token"},
		{"a name twice", tokens(alice, roster.Line("alice", roster.Admin, ciSecret)), "a second token is named alice"},
		{"a secret twice", tokens(alice, roster.Line("bob", roster.Admin, aliceSecret)), "tokens[1] (bob): has the secret of alice"},
		{"two documents", tokens(alice) + "---\n" + tokens(alice), "more than one document"},
		{"too long", tokens(alice) + strings.Repeat("#", 1<<20), "has more than"},
	} {
		_, err := roster.Parse([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), aliceSecret) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}
