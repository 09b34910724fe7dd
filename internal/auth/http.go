package auth

import (
	"encoding/json"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
)

// ActorHeader is what a caller says of itself; the audit shows it beside the token's role.
const ActorHeader = "X-Specproxy-Actor"

// AutomationHeader is sent by CI and scripts with every request, whatever its value: a frozen spec, and what only a person may do, refuse them.
const AutomationHeader = "X-Specproxy-Automation"

// Guard protects an HTTP API: Host and Origin (DNS rebinding, cross-site posts), method and content type, then the token. Who it is from is CallerOf.
func Guard(next http.Handler, keys *Keyring, hosts []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if why := foreign(r, hosts); why != "" {
			deny(w, http.StatusForbidden, "permission_denied", why)
			return
		}
		if r.Method != http.MethodPost || !typeAllowed(r.Header.Get("Content-Type")) {
			deny(w, http.StatusUnsupportedMediaType, "invalid_argument", "this API takes POST with JSON or protobuf")
			return
		}
		caller, ok := keys.Bearer(r.Header.Get("Authorization"))
		if !ok {
			deny(w, http.StatusUnauthorized, "unauthenticated", "no valid token; the first admin's is in the control plane's data directory: "+
				"specctl --token-file DATA_DIR/"+AdminTokenFile+" …, or set SPECPROXY_TOKEN")
			return
		}
		next.ServeHTTP(w, r.WithContext(withCaller(r.Context(), caller)))
	})
}

// hostAllowed takes localhost, addresses, and the names that the operator listed. An address cannot be rebound: only a name can be made to
// point here by whoever serves it.
func hostAllowed(hostport string, hosts []string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	address := net.ParseIP(strings.Trim(host, "[]")) != nil
	return address || Loopback(host) || slices.ContainsFunc(hosts, func(name string) bool { return strings.EqualFold(name, host) })
}

// typeAllowed takes what Connect, gRPC and gRPC-Web send; a browser cannot send any of these across sites without asking first.
func typeAllowed(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	return media == "application/json" || media == "application/proto" ||
		strings.HasPrefix(media, "application/connect+") || strings.HasPrefix(media, "application/grpc")
}

// deny answers in Connect's error format, which every client of the API understands.
func deny(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"code": code, "message": message})
}

func quote(s string) string {
	if len(s) > 100 {
		s = s[:100]
	}
	raw, _ := json.Marshal(s)
	return string(raw)
}
