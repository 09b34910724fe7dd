package auth

import (
	"crypto/hmac"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func (known key) session(secret Token, until time.Time) string {
	expiry := strconv.FormatInt(until.Unix(), 10)
	return expiry + "." + hex.EncodeToString(known.sign(secret, expiry))
}

func (known key) opens(secret Token, session string, now time.Time) bool {
	expiry, sum, ok := strings.Cut(session, ".")
	if !ok || known.Token == (Token{}) {
		return false
	}
	sent, err := hex.DecodeString(sum)
	if err != nil || !hmac.Equal(sent, known.sign(secret, expiry)) {
		return false
	}
	until, err := strconv.ParseInt(expiry, 10, 64)
	return err == nil && now.Unix() < until
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
