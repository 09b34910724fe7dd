package proxy

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/specproxy/specproxy/internal/agentproto/grpc"
)

// Header names as net/http writes them.
const (
	headerVersion   = "X-Spec-Version"
	headerDigest    = "X-Spec-Digest"
	headerExecution = "X-Execution-Id"
	headerPin       = "X-Spec-Pin"
	headerBuffer    = "X-Spec-Buffer"
	headerRoute     = "X-Spec-Route"
	headerTarget    = "X-Spec-Target"
	headerMirror    = "X-Spec-Mirror"
	headerShadow    = "X-Spec-Shadow"
	headerDeadline  = "X-Spec-Deadline"
	headerHop       = "X-Spec-Hop"
	headerOrigin    = "X-Spec-Origin"
	headerLocation  = "X-Spec-Location"
	headerOutcome   = "X-Spec-Outcome"
	headerEffects   = "X-Spec-Effects"
	headerRollback  = "X-Spec-Rollback"
	headerRehearsal = "X-Spec-Rehearsal"

	specPrefix = "X-Spec-"
)

// maxHops bounds how often one request is passed from sidecar to sidecar.
const maxHops = 4

// kind is how a request can be answered and passed on.
type kind int

const (
	plainHTTP kind = iota
	grpcCall
	upgrade
)

// arrival is what a request says about itself and its way here.
type arrival struct {
	at   time.Time
	kind kind
	// buffer is Envoy's body limit in bytes; negative if the request did not come through our Envoy, which alone follows our redirects.
	buffer int64
	// route is the generation that assigned the request, 0 if a header led it here, it was pinned, handed over or came past Envoy.
	route uint64
	// known is the generation that the Envoy has, as far as it says so.
	known uint64
	hop   int
	// mirror is nil unless the request was copied, or is a copy: then shadow is set.
	mirror *Mirror
	shadow bool
	// origin is the execution under which another instance had begun this work.
	origin   string
	deadline time.Time
}

// read takes the proxies' headers of a request. What is not readable is as if it were not there: clients cannot reach these headers through
// Envoy, and past Envoy they gain nothing by them.
func read(r *http.Request, now time.Time) arrival {
	a := arrival{at: now, buffer: -1}
	switch {
	case grpc.IsContentType(r.Header.Get("Content-Type")):
		a.kind = grpcCall
	case httpguts.HeaderValuesContainsToken(r.Header["Connection"], "Upgrade"):
		a.kind = upgrade
	}
	// Most are not there, and an error of a parser costs more than the look.
	if s := r.Header.Get(headerBuffer); s != "" {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
			a.buffer = n
		}
	}
	if s := r.Header.Get(headerRoute); s != "" {
		a.route, _ = strconv.ParseUint(s, 10, 64)
		a.known = a.route
	} else if s := r.Header.Get(headerTarget); s != "" {
		a.known, _ = strconv.ParseUint(s, 10, 64)
	}
	if s := r.Header.Get(headerMirror); s != "" {
		a.mirror = readMirror(s)
	}
	if s := r.Header.Get(headerHop); s != "" {
		if n, err := strconv.Atoi(s); err == nil && n > 0 {
			a.hop = n
			if origin := r.Header.Get(headerOrigin); len(origin) <= maxHeader {
				a.origin = origin
			}
		}
	}
	if s := r.Header.Get(headerDeadline); s != "" {
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
			a.deadline = t
		}
	}
	if timeout, ok := grpcTimeout(r.Header.Get("Grpc-Timeout")); ok && a.kind == grpcCall {
		// A deadline that travelled beside the request is older than the timeout, which begins again at every hop.
		if t := now.Add(timeout); a.deadline.IsZero() || t.Before(a.deadline) {
			a.deadline = t
		}
	}
	return a
}

// viaEnvoy says that a 307 of ours will be followed and not seen by the client.
func (a arrival) viaEnvoy() bool { return a.buffer >= 0 }

// redirectable says that Envoy can send the request again. Never for gRPC: a client that got to see a redirect could make nothing of it.
func (a arrival) redirectable() bool { return a.viaEnvoy() && a.kind == plainHTTP }

// grpcTimeout reads grpc-timeout: at most 8 digits and a unit (gRPC over HTTP/2, "Requests").
func grpcTimeout(value string) (time.Duration, bool) {
	if len(value) < 2 || len(value) > 9 {
		return 0, false
	}
	unit, ok := map[byte]time.Duration{
		'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
	}[value[len(value)-1]]
	n, err := strconv.ParseUint(value[:len(value)-1], 10, 32)
	if !ok || err != nil {
		return 0, false
	}
	const longest = 10 * 365 * 24 * time.Hour
	return time.Duration(min(n, uint64(longest/unit)) * uint64(unit)), true //nolint:gosec // at most longest
}

// formatGRPCTimeout is the inverse of grpcTimeout, rounded up to milliseconds; 99,999,999 ms are 27 hours.
func formatGRPCTimeout(d time.Duration) string {
	ms := max(0, (d+time.Millisecond-1)/time.Millisecond)
	if ms > 99_999_999 {
		return strconv.FormatInt(int64(min(d/time.Minute, 99_999_999)), 10) + "M"
	}
	return strconv.FormatInt(int64(ms), 10) + "m"
}

// strip removes every x-spec-* header.
func strip(h http.Header) {
	for name := range h {
		if len(name) >= len(specPrefix) && strings.EqualFold(name[:len(specPrefix)], specPrefix) {
			delete(h, name)
		}
	}
}

// keepForwarded restores what httputil.ReverseProxy takes out: behind Envoy these headers are Envoy's.
func keepForwarded(out, in http.Header) {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := in[name]; ok {
			out[name] = values
		}
	}
}
