package proxy

import (
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// account is what is told of one request: counted always, logged and traced where that is wanted.
type account struct {
	arrival arrival
	span    trace.Span // nil: not traced
	// exchange is nil if the request was not admitted; passed says that it went on to another version.
	exchange *exchange
	passed   bool
	// shadow: it is a copy.
	shadow bool
}

// traceContext carries W3C's traceparent and tracestate. Where nothing is traced here they pass as they came.
var traceContext propagation.TraceContext

// open begins the account. What it returns carries the span's context.
func (p *Proxy) open(w *response, r *http.Request, a arrival) *http.Request {
	w.account.arrival = a
	if p.Tracer == nil {
		return r
	}
	ctx := traceContext.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, w.account.span = p.Tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(a.at))
	return r.WithContext(ctx)
}

// settle ends the account, also of a request that is broken off.
func (p *Proxy) settle(w *response, r *http.Request) {
	a := &w.account
	disposition, cause, execution := undecided, "", ""
	switch x := a.exchange; {
	case a.passed:
		disposition, cause = passedOn, "the version takes no new work"
	case x != nil:
		execution = x.id
		if d, decided := x.execution.Decision(); decided {
			disposition, cause = string(d.Disposition), d.Why
		}
		if e := x.cutBy(); e != nil && cause == "" {
			disposition, cause = string(e.decision.Disposition), e.decision.Why
		}
	}
	if a.shadow {
		disposition = shadowed
	}
	took := p.Now().Sub(a.arrival.at)
	p.metrics.count(a.arrival.kind, w.status, disposition, took.Seconds())
	if p.Access == nil && a.span == nil {
		return
	}
	if cause == "" && a.exchange != nil {
		cause = a.exchange.execution.Row().OutcomeReason
	}
	if cause == "" && r.Context().Err() != nil && w.status == 0 {
		cause = "the client left"
	}
	p.logAccess(w, r, took, execution, disposition, cause)
	a.endSpan(w, r, p, execution, disposition, cause)
}

// logAccess writes one line. The query is left out: it may hold what is not meant for logs.
func (p *Proxy) logAccess(w *response, r *http.Request, took time.Duration, execution, disposition, cause string) {
	if p.Access == nil {
		return
	}
	a := &w.account
	fields := []zap.Field{
		zap.String("method", r.Method), zap.String("host", r.Host), zap.String("path", r.URL.Path), zap.String("protocol", r.Proto), zap.Int("status", w.status),
		zap.Float64("seconds", took.Seconds()), zap.String("execution", execution), zap.String("version", p.Ref.String()), zap.String("disposition", disposition),
		zap.String("cause", cause), zap.Uint64("route_generation", a.arrival.route), zap.String("request_id", r.Header.Get("X-Request-Id")),
	}
	if a.span != nil {
		fields = append(fields, zap.Stringer("trace", a.span.SpanContext().TraceID()))
	}
	p.Access.Info("request", fields...)
}

func (a *account) endSpan(w *response, r *http.Request, p *Proxy, execution, disposition, cause string) {
	if a.span == nil {
		return
	}
	a.span.SetAttributes(
		attribute.String("http.request.method", r.Method), attribute.String("url.path", r.URL.Path), attribute.Int("http.response.status_code", w.status),
		attribute.String("specproxy.spec", p.Ref.Spec), attribute.String("specproxy.version", p.Ref.Version), attribute.String("specproxy.execution", execution),
		attribute.String("specproxy.disposition", disposition), attribute.String("specproxy.cause", cause),
		attribute.Int64("specproxy.route_generation", int64(min(a.arrival.route, 1<<62))), //nolint:gosec // bounded
	)
	if w.status >= http.StatusInternalServerError || w.status == 0 {
		a.span.SetStatus(otelcodes.Error, cause)
	}
	a.span.End()
}

// inject puts the span of the request into what is sent on.
func (p *Proxy) inject(out *http.Request) {
	if p.Tracer != nil {
		traceContext.Inject(out.Context(), propagation.HeaderCarrier(out.Header))
	}
}
