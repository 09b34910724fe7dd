package auth

import (
	"strings"
	"testing"
	"time"
)

func TestSessionIsOfOneTokenAndEnds(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	token, other := NewToken("a-token-of-good-length"), NewToken("another-token-of-good-length")
	session := token.Session(now.Add(time.Hour))
	later := token.Session(now.Add(48 * time.Hour))
	_, sum, _ := strings.Cut(session, ".")
	until, _, _ := strings.Cut(later, ".")
	for _, c := range []struct {
		name    string
		token   Token
		session string
		at      time.Time
		want    bool
	}{
		{"as it was made", token, session, now, true},
		{"a second before its end", token, session, now.Add(time.Hour - time.Second), true},
		{"at its end", token, session, now.Add(time.Hour), false},
		{"of another token", other, session, now, false},
		{"of no token", Token{}, Token{}.Session(now.Add(time.Hour)), now, false},
		{"with a later end", token, until + "." + sum, now, false},
		{"the token itself", token, "a-token-of-good-length", now, false},
		{"nothing", token, "", now, false},
		{"no sum", token, until + ".", now, false},
		{"no hexadecimal", token, until + ".zz", now, false},
	} {
		if got := c.token.MatchesSession(c.session, c.at); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
	if strings.Contains(session, "a-token") {
		t.Errorf("the session shows its token: %s", session)
	}
}
