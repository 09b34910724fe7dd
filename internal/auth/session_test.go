package auth_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/auth"
	"github.com/specproxy/specproxy/internal/roster"
)

func TestSessionIsOfOneTokenAndEnds(t *testing.T) {
	const secret, alices, bobs = "a-token-of-good-length", "alices-token-of-good-length", "bobs-token-of-good-length"
	now := time.Unix(1_700_000_000, 0)
	clock := func() time.Time { return now }
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	list := func(entries ...string) string { return "tokens:\n" + strings.Join(entries, "\n") + "\n" }
	alice, bob := roster.Line("alice", roster.Viewer, alices), roster.Line("bob", roster.Operator, bobs)
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(list(alice, bob))
	keys, err := auth.NewKeyring(auth.NewToken(secret), file, zap.NewNop(), clock)
	if err != nil {
		t.Fatal(err)
	}
	session := func(k *auth.Keyring, secret string, lasts time.Duration) string {
		s, ok := k.Session(secret, now.Add(lasts))
		if !ok {
			t.Fatalf("no session for %s", secret)
		}
		if strings.Contains(s, "token") {
			t.Errorf("the session shows its token: %s", s)
		}
		return s
	}
	if s, ok := keys.Session("another-token-of-good-length", now.Add(time.Hour)); ok {
		t.Errorf("a session for an unknown token: %s", s)
	}
	elsewhere, err := auth.NewKeyring(auth.NewToken("the-token-of-another-place"), file, zap.NewNop(), clock)
	if err != nil {
		t.Fatal(err)
	}
	for _, mine := range []string{secret, alices} {
		own := session(keys, mine, time.Hour)
		until, sum, _ := strings.Cut(own, ".")
		later, _, _ := strings.Cut(session(keys, mine, 48*time.Hour), ".")
		for _, c := range []struct {
			name, session string
			want          bool
		}{
			{"as it was made", own, true},
			{"at its end", session(keys, mine, 0), false},
			{"a second before its end", session(keys, mine, time.Second), true},
			{"of another control plane with the same file", session(elsewhere, alices, time.Hour), false},
			{"with a later end", later + "." + sum, false},
			{"the token itself", mine, false},
			{"nothing", "", false},
			{"no sum", until + ".", false},
			{"no hexadecimal", until + ".zz", false},
		} {
			if got := keys.OpensSession(c.session); got != c.want {
				t.Errorf("%s, %s: %t, want %t", mine, c.name, got, c.want)
			}
		}
	}
	alicesSession, bobsSession := session(keys, alices, time.Hour), session(keys, bobs, time.Hour)
	write(list(bob)) // alice has left
	now = now.Add(2 * time.Second)
	if keys.OpensSession(alicesSession) || !keys.OpensSession(bobsSession) {
		t.Error("a session outlives its token, or went with another's")
	}
}
