package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/specproxy/specproxy/internal/agentproto"
	"github.com/specproxy/specproxy/internal/agentproto/grpc"
	"github.com/specproxy/specproxy/internal/agentproto/plain"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/posture"
)

// answerCut answers an exchange that was cut before any response byte was sent.
func (x *exchange) answerCut(e *ending) {
	if e.decision.Disposition == drain.Handover && e.fence != nil && x.handOver(e.fence) {
		return
	}
	x.writeSignal(x.signal(e))
}

// signal is what the client of a cut exchange is told.
func (x *exchange) signal(e *ending) agentproto.Signal {
	p := x.proxy
	s := agentproto.Signal{
		Spec: p.Ref.Spec, From: p.Ref.Version, To: p.Ref.Version, Execution: x.id, Reached: true,
		// What it has done by now, not when it was decided over.
		Effects: x.execution.Effects(), RetryAfter: drain.MinRetry, Why: e.decision.Why,
	}
	if e.fence != nil {
		s.To, s.PostMortem = e.fence.TargetVersion, e.fence.PostMortem
		s.RetryAfter = p.draw(e.decision.RetryAfter, e.fence)
	}
	return s
}

// draw places one client in the span over which the crowd is spread.
func (p *Proxy) draw(r drain.Range, f *posture.Fence) time.Duration {
	if r.IsZero() {
		r = drain.Range{Min: drain.MinRetry, Max: drain.MinRetry + max(0, f.RetrySpread)}
	}
	return r.At(p.Random())
}

func (x *exchange) writeSignal(s agentproto.Signal) {
	x.w.Header().Set(headerVersion, x.proxy.Ref.String())
	x.w.Header().Set(headerExecution, x.id)
	writeSignal(x.w, x.arrival.kind, s)
}

// writeSignal writes a retry signal as the whole of a response. The client gets no pin: it is to go elsewhere.
func writeSignal(w *response, k kind, s agentproto.Signal) {
	if k == grpcCall {
		writeTrailersOnly(w, grpc.Trailers(s))
		return
	}
	status, header, body := plain.Response(s)
	for name, values := range header {
		w.Header()[name] = values
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func writeTrailersOnly(w *response, trailers http.Header) {
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	for name, values := range trailers {
		h[name] = values
	}
	w.WriteHeader(http.StatusOK)
}

// notReady refuses what came before the sidecar holds a State. Envoy does not send it; the agent has seen nothing of it.
func (p *Proxy) notReady(w *response, a arrival) {
	writeProblem(w, a.kind, codes.Unavailable, http.StatusServiceUnavailable, "The sidecar is not ready",
		fmt.Sprintf("the sidecar of %s has not heard from the control plane yet; try again in a second", p.Ref), true)
}

func (p *Proxy) badGateway(w *response, x *exchange, err error) {
	writeProblem(w, x.arrival.kind, codes.Unavailable, http.StatusBadGateway, "The agent did not answer",
		fmt.Sprintf("the agent of %s did not answer: %v", p.Ref, err), false)
}

func (p *Proxy) bodyTimedOut(w *response, x *exchange) {
	writeProblem(w, x.arrival.kind, codes.DeadlineExceeded, http.StatusRequestTimeout, "The request did not end",
		fmt.Sprintf("nothing came of the request's body for %s, though it is not whole", p.BodyPause), false)
}

func (p *Proxy) deadlinePassed(w *response, x *exchange) {
	writeProblem(w, x.arrival.kind, codes.DeadlineExceeded, http.StatusGatewayTimeout, "The deadline has passed",
		fmt.Sprintf("the request's deadline (%s) passed before the agent of %s answered", x.arrival.deadline.Format(time.RFC3339Nano), p.Ref), false)
}

// writeProblem writes an error that is no retry signal. retry says that the work was not begun.
func writeProblem(w *response, k kind, code codes.Code, status int, title, detail string, retry bool) {
	if k == grpcCall {
		writeTrailersOnly(w, grpc.Status(code, detail))
		return
	}
	body, err := json.Marshal(map[string]any{"type": "about:blank", "title": title, "status": status, "detail": detail})
	if err != nil {
		panic("proxy: " + err.Error()) // strings and integers always marshal
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if retry {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
