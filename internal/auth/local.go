package auth

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
)

// CheckLocal refuses an address beyond loopback, whatever protects it. flag names what to change.
func CheckLocal(flag, address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--%s %q is not host:port: %w", flag, address, err)
	}
	if !Loopback(host) {
		return fmt.Errorf("--%s %s reaches beyond this machine and has no token: listen on loopback, such as 127.0.0.1:0", flag, address)
	}
	return nil
}

// Local protects pages for this machine that have no token: by Host and Origin, so that no page from elsewhere can make a browser read them.
func Local(next http.Handler) http.Handler { return Readable(next, true, nil) }

// Readable protects a page that is only read. On an open listener, one of loopback, it is as Local; else it wants one of the tokens.
func Readable(next http.Handler, open bool, hosts []string, tokens ...Token) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if why := foreign(r, hosts); why != "" {
			http.Error(w, why, http.StatusForbidden)
			return
		}
		sent := r.Header.Get("Authorization")
		if !open && !slices.ContainsFunc(tokens, func(t Token) bool { return t.MatchesBearer(sent) }) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "no valid token: send Authorization: Bearer with the one of --metrics-token-file, or the admin's", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// foreign says why a request may come from a page of another site, through somebody's browser; empty if it does not.
func foreign(r *http.Request, hosts []string) string {
	if !hostAllowed(r.Host, hosts) {
		return "Host " + quote(r.Host) + " is not a name of this server; use its address, or start it with --api-host NAME"
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
			return "Origin " + quote(origin) + " is not this server"
		}
	}
	return ""
}
