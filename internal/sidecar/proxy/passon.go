package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/specproxy/specproxy/internal/agentproto"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/posture"
)

// passOn sends new work that landed on the fenced sidecar to the target: by a redirect that Envoy follows, or by forwarding it.
func (p *Proxy) passOn(w *response, r *http.Request, a arrival, f *posture.Fence) {
	p.passedOn.Add(1)
	w.account.passed = true
	p.Changed()
	if a.hop >= maxHops {
		p.Log.Warn("a request was passed on too often; it is answered with the retry signal", zap.Int("hops", a.hop), zap.String("path", r.URL.Path))
		writeSignal(w, a.kind, p.unreached(f))
		return
	}
	if a.redirectable() && f.TargetPin != "" && r.ContentLength <= a.buffer && !cutOff(a, f) {
		if room := bodyRoom(r, a.buffer); p.budget.take(room) {
			defer p.budget.give(room)
			whole, err := readWhole(r, a.buffer)
			if err != nil {
				panic(http.ErrAbortHandler) // the client broke off its request
			}
			if whole {
				redirect(w, r, f, a, a.origin)
				return
			}
		}
	}
	p.forward(w, r, &dispatch{fence: f, arrival: a, origin: a.origin, w: w})
}

// routesSettle is how long after an order an Envoy may still assign by an older generation because the new one is on its way.
const routesSettle = time.Second

// cutOff says that the request came through an Envoy that the order has not reached. What it knows of the target's addresses may be as old,
// while those that came with the fence are kept up to date.
func cutOff(a arrival, f *posture.Fence) bool {
	return a.known != 0 && a.known < f.Generation && a.at.Sub(f.Since) > routesSettle && len(f.TargetAddresses) > 0
}

// unreached is the signal for work that no agent has seen.
func (p *Proxy) unreached(f *posture.Fence) agentproto.Signal {
	return agentproto.Signal{
		Spec: p.Ref.Spec, From: p.Ref.Version, To: f.TargetVersion, Effects: drain.EffectsNone, PostMortem: f.PostMortem,
		RetryAfter: p.draw(drain.Range{}, f), Why: "the version takes no new work",
	}
}

// bodyRoom is how much memory the body may take while it is awaited.
func bodyRoom(r *http.Request, limit int64) int64 {
	if r.ContentLength >= 0 {
		return r.ContentLength
	}
	return limit
}

// readWhole reads a body to its end, if that comes within limit bytes; else the request's body begins again with what was read. Envoy can
// replay a request only after its end.
func readWhole(r *http.Request, limit int64) (bool, error) {
	if r.ContentLength == 0 {
		return true, nil
	}
	begun, err := io.ReadAll(io.LimitReader(r.Body, min(limit, math.MaxInt64-1)+1))
	if err != nil {
		return false, err
	}
	if int64(len(begun)) <= limit {
		return true, nil
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(begun), r.Body), r.Body}
	return false, nil
}

// redirect makes Envoy dispatch the request again, to the target's pin: without it the request would come back under old weights.
func redirect(w *response, r *http.Request, f *posture.Fence, a arrival, origin string) {
	scheme := r.Header.Get("X-Forwarded-Proto")
	if scheme != "https" {
		scheme = "http"
	}
	h := w.Header()
	h.Set("Location", scheme+"://"+r.Host+requestTarget(r))
	h.Set(headerPin, f.TargetPin)
	h.Set(headerHop, strconv.Itoa(a.hop+1))
	if !a.deadline.IsZero() {
		h.Set(headerDeadline, a.deadline.Format(time.RFC3339Nano))
	}
	if origin != "" {
		h.Set(headerOrigin, origin)
	}
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// requestTarget is the path and query byte for byte as they came: url.URL writes some of them in another way.
func requestTarget(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		return r.RequestURI
	}
	return r.URL.RequestURI()
}

// handOver begins the exchange again under the target. false: nothing was sent, and a hand-over is not possible.
func (x *exchange) handOver(f *posture.Fence) bool {
	a := x.arrival
	if a.hop >= maxHops {
		return false
	}
	if a.redirectable() && f.TargetPin != "" {
		redirect(x.w, x.in, f, a, x.id)
		return true
	}
	body, ok := x.body.copied()
	if !ok || len(f.TargetAddresses) == 0 {
		return false
	}
	// The execution ends here; what follows is the target's.
	x.end(http.StatusTemporaryRedirect)
	r := x.in.Clone(x.in.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	x.proxy.forward(x.w, r, &dispatch{fence: f, arrival: a, origin: x.id, w: x.w})
	return true
}

// dispatch is one request on its way to the target.
type dispatch struct {
	fence   *posture.Fence
	arrival arrival
	origin  string
	w       *response
}

type dispatchKey struct{}

func dispatchOf(r *http.Request) *dispatch { return r.Context().Value(dispatchKey{}).(*dispatch) }

func (p *Proxy) forward(w *response, r *http.Request, d *dispatch) {
	ctx := context.WithValue(r.Context(), dispatchKey{}, d)
	if d.arrival.kind == upgrade {
		// It is an execution of the target's, but it hangs on this process.
		ending, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(p.gone, cancel)()
		ctx = ending
	}
	p.toTarget.ServeHTTP(w, r.WithContext(ctx))
}

// rewriteForTarget prepares a request for another sidecar. It carries no x-spec-buffer: a redirect could not be followed any more.
func (p *Proxy) rewriteForTarget(pr *httputil.ProxyRequest) {
	d := dispatchOf(pr.In)
	target := *pr.In.URL
	pr.Out.URL = &target
	pr.Out.URL.Scheme = "http"
	pr.Out.Host = pr.In.Host
	pr.Out.Trailer = pr.In.Trailer
	h := pr.Out.Header
	strip(h)
	keepForwarded(h, pr.In.Header)
	h.Set(headerHop, strconv.Itoa(d.arrival.hop+1))
	if d.origin != "" {
		h.Set(headerOrigin, d.origin)
	}
	if !d.arrival.deadline.IsZero() {
		h.Set(headerDeadline, d.arrival.deadline.Format(time.RFC3339Nano))
	}
	once(pr.Out)
	p.inject(pr.Out)
}

// toClient are the x-spec-* headers of another sidecar's answer that are for the client.
var toClient = []string{headerVersion, headerPin, headerRollback}

// fromTarget passes another sidecar's answer on. It was asked without x-spec-buffer, so a redirect in it is its agent's own; and what else may
// listen at its address by now cannot steer Envoy either.
func fromTarget(res *http.Response) error {
	kept := make(http.Header, len(toClient))
	for _, name := range toClient {
		if values, ok := res.Header[name]; ok {
			kept[name] = values
		}
	}
	strip(res.Header)
	maps.Copy(res.Header, kept)
	maskRedirect(res, dispatchOf(res.Request).arrival)
	return nil
}

// targetFailed answers where no sidecar of the target did.
func (p *Proxy) targetFailed(_ http.ResponseWriter, out *http.Request, err error) {
	d := dispatchOf(out)
	switch {
	case out.Context().Err() != nil:
		panic(http.ErrAbortHandler)
	case errors.Is(err, errNoTarget):
		p.Log.Warn("no sidecar of the target takes the request; it is answered with the retry signal",
			zap.String("target", d.fence.TargetVersion), zap.Error(err))
		s := p.unreached(d.fence)
		writeSignal(d.w, d.arrival.kind, s)
	default:
		// The target may have begun: whether it did is not known, so this is no signal to repeat.
		p.Log.Warn("a sidecar of the target did not answer", zap.String("target", d.fence.TargetVersion), zap.Error(err))
		writeProblem(d.w, d.arrival.kind, codes.Unavailable, http.StatusBadGateway, "The target did not answer", err.Error(), false)
	}
}
