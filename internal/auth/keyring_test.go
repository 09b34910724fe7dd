package auth_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/specproxy/specproxy/internal/auth"
	"github.com/specproxy/specproxy/internal/roster"
)

const (
	adminSecret = "the-first-admins-token"
	aliceSecret = "alices-token-of-good-length"
	ciSecret    = "the-pipelines-token-of-good-length"
)

func tokens(entries ...string) string { return "tokens:\n" + strings.Join(entries, "\n") + "\n" }

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What a request is from is what its token says, and nothing that it says itself.
func TestGuardKnowsCallers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	write(t, file, tokens(roster.Line("alice", roster.Operator, aliceSecret), roster.Line("ci", roster.Automation, ciSecret)))
	keys, err := auth.NewKeyring(auth.NewToken(adminSecret), file, zap.NewNop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var heard string
	guarded := auth.Guard(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		c, ok := auth.CallerOf(r.Context())
		if !ok {
			t.Error("the caller got lost")
		}
		heard = c.Actor(r.Header.Get(auth.ActorHeader))
	}), keys, nil)
	for header, want := range map[string]string{
		"Bearer " + adminSecret: "admin (mallory)", "Bearer " + aliceSecret: "operator alice", "Bearer " + ciSecret: "automation ci",
		"Bearer nobodys-token-of-good-length": "", aliceSecret: "", "Bearer": "", "": "", "Bearer " + strings.TrimSuffix(aliceSecret, "h"): "",
	} {
		heard = ""
		r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:18080/x", strings.NewReader("{}"))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", header)
		r.Header.Set(auth.ActorHeader, "mallory")
		w := httptest.NewRecorder()
		guarded.ServeHTTP(w, r)
		if heard != want || (w.Code == http.StatusUnauthorized) != (want == "") {
			t.Errorf("%q: %q, %d, want %q", header, heard, w.Code, want)
		}
	}
	if c, ok := auth.CallerOf(t.Context()); ok {
		t.Errorf("nobody is %+v", c)
	}
}

func TestTokensAreReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	alice, ci := roster.Line("alice", roster.Operator, aliceSecret), roster.Line("ci", roster.Automation, ciSecret)
	write(t, file, tokens(alice))
	now := time.Unix(1_700_000_000, 0)
	core, logged := observer.New(zapcore.ErrorLevel)
	keys, err := auth.NewKeyring(auth.NewToken(adminSecret), file, zap.New(core), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name      string
		change    func()
		alice, ci bool
		broken    bool
	}{
		{"as it was", func() {}, true, false, false},
		{"one more", func() { write(t, file, tokens(alice, ci)) }, true, true, false},
		{"one less", func() { write(t, file, tokens(ci)) }, false, true, false},
		{"a slip", func() { write(t, file, "tokens: [{name: alice}]") }, false, true, true},
		{"mended", func() { write(t, file, tokens(alice)) }, true, false, false},
		{"gone", func() { _ = os.Remove(file) }, true, false, true},
		{"back, and empty", func() { write(t, file, "tokens: []") }, false, false, false},
		{"written by anybody", func() { write(t, file, tokens(alice, ci)); _ = os.Chmod(file, 0o666) }, false, false, true},
		{"protected, and else as it was", func() { _ = os.Chmod(file, 0o644) }, true, true, false},
		{"open again, with the same text", func() { _ = os.Chmod(file, 0o666) }, true, true, true},
	} {
		step.change()
		now = now.Add(time.Second)
		before := logged.Len()
		_, knowsAlice := keys.Caller(aliceSecret)
		_, knowsCI := keys.Caller(ciSecret)
		admin, _ := keys.Caller(adminSecret)
		if knowsAlice != step.alice || knowsCI != step.ci || keys.Broken() != step.broken || admin.Role != roster.Admin {
			t.Errorf("%s: alice %t, ci %t, broken %t, admin %v", step.name, knowsAlice, knowsCI, keys.Broken(), admin)
		}
		if said := logged.Len() - before; said != map[bool]int{true: 1}[step.broken] {
			t.Errorf("%s: %d lines in the log", step.name, said)
		}
	}
}

func TestAFileThatIsNotThereIsNotTaken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	for text, want := range map[string]string{"": "no such file", "tokens: [{name: a}]": "--tokens " + file + ": tokens[0]"} {
		if text != "" {
			write(t, file, text)
		}
		if _, err := auth.NewKeyring(auth.NewToken(adminSecret), file, zap.NewNop(), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
