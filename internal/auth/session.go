package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Session is what a browser gets for the token: it opens pages that are only read, until then and no longer, and no other token makes it. The
// token cannot be had from it, and a new token ends it.
func (t Token) Session(until time.Time) string {
	expiry := strconv.FormatInt(until.Unix(), 10)
	return expiry + "." + hex.EncodeToString(t.sign(expiry))
}

// MatchesSession says whether a session was made for this token and has not ended. The zero token has none.
func (t Token) MatchesSession(session string, now time.Time) bool {
	expiry, sum, ok := strings.Cut(session, ".")
	if !ok || t == (Token{}) {
		return false
	}
	sent, err := hex.DecodeString(sum)
	if err != nil || !hmac.Equal(sent, t.sign(expiry)) {
		return false
	}
	until, err := strconv.ParseInt(expiry, 10, 64)
	return err == nil && now.Unix() < until
}

func (t Token) sign(expiry string) []byte {
	mac := hmac.New(sha256.New, t.sum[:])
	mac.Write([]byte("specproxy session until " + expiry))
	return mac.Sum(nil)
}

// OwnSite refuses what a page of another site could have made a browser send, by Host and Origin, and passes the rest on.
func OwnSite(next http.Handler, hosts []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if why := foreign(r, hosts); why != "" {
			http.Error(w, why, http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
