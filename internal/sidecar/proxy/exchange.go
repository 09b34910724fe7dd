package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/gate"
	"github.com/specproxy/specproxy/internal/sidecar/posture"
)

// Causes for which an exchange's context ends.
var (
	errCut      = errors.New("the execution was cut by an order")
	errDeadline = errors.New("the request's deadline has passed")
)

// exchange is one admitted request and its response. Its fields are set before run; ending is guarded by mu; the rest belongs to the
// goroutine that serves the request.
type exchange struct {
	proxy     *Proxy
	w         *response
	in        *http.Request
	arrival   arrival
	ctx       context.Context
	cancel    context.CancelCauseFunc
	id, pin   string
	ids       []string // id, as a header has it; nobody changes it
	execution *drain.Execution
	body      *requestBody
	captured  *captured   // nil: nothing is captured
	agentConn net.Conn    // of an upgrade
	tunnel    *tunnel     // an upgraded connection
	once      sync.Once   // end
	sent      atomic.Bool // the agent has the whole request
	answered  atomic.Bool // it has begun to answer

	mu     sync.Mutex
	ending *ending
}

// ending is why an exchange is cut: by an order, or since the instance leaves.
type ending struct {
	decision drain.Decision
	fence    *posture.Fence // where the version's work goes; nil if nothing was ordered, or the instance leaves
}

type exchangeKey struct{}

// exchangeOf finds the exchange of a request that toAgent sends.
func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

// run serves the exchange to its end.
func (x *exchange) run() {
	defer x.cancel(nil)
	defer x.end(0)
	defer x.proxy.finish(x)
	if !x.proxy.start(x) {
		x.leave()
	}
	ctx := x.traceConn(context.WithValue(x.ctx, exchangeKey{}, x))
	if !x.arrival.deadline.IsZero() {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadlineCause(ctx, x.arrival.deadline, errDeadline)
		defer stop()
	}
	// The agent's transport may be waiting for more of the request, and does not look at the context meanwhile.
	if x.w.request != nil {
		defer context.AfterFunc(ctx, func() { x.w.request.interrupt(x.w) })()
	}
	r := x.in.WithContext(ctx)
	x.body = newRequestBody(x)
	defer x.body.release()
	if r.ContentLength == 0 {
		x.body.finish()
	} else {
		r.Body = x.body
	}
	x.proxy.toAgent.ServeHTTP(x.w, r)
	if x.tunnel != nil {
		x.tunnel.shut()
	}
}

// cut is called by the ledger. It only remembers and wakes: the goroutine that serves the request writes the answer.
func (x *exchange) cut(d drain.Decision) {
	e := &ending{decision: d}
	if state := x.proxy.Posture(); state != nil {
		e.fence = state.Target()
		if d.Kind == drain.KindShutdown && state.Fence == nil {
			e.fence = state.Leave
			if e.fence == nil { // proxies have let go of this instance, so its own version's pin leads to another
				e.fence = &posture.Fence{TargetVersion: x.proxy.Ref.Version, TargetPin: state.Pin}
			}
		}
	}
	x.close(e)
}

// leave cuts the exchange because the instance shuts down.
func (x *exchange) leave() {
	x.close(&ending{decision: drain.Decision{Disposition: drain.Cancel, Why: errLeaving.Error()}})
}

func (x *exchange) close(e *ending) {
	x.mu.Lock()
	if x.ending == nil {
		x.ending = e
	}
	x.mu.Unlock()
	x.cancel(errCut)
}

// cutBy is why the exchange is cut; nil if it is not.
func (x *exchange) cutBy() *ending {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.ending
}

// end tells the ledger, once. status is what the client got; 0 takes what was written.
func (x *exchange) end(status int) {
	x.once.Do(func() {
		if status == 0 {
			status = x.w.status
		}
		p := x.proxy
		x.captured.settle(x, status)
		x.execution.End(status, p.Now())
		row := x.execution.Row()
		if !row.EndedAt.IsZero() && p.Ended != nil && !x.arrival.shadow {
			p.Ended(row)
		}
		x.tell(row)
		p.Changed()
	})
}

// fail takes a failure that the agent did not state: what it states goes before.
func (x *exchange) fail(reason string) {
	if x.cutBy() == nil {
		x.execution.Infer(false, reason)
	}
}

// log is the proxy's logger with the execution's id.
func (x *exchange) log() *zap.Logger { return x.proxy.Log.With(zap.String("execution", x.id)) }

// rewriteForAgent prepares the request that goes to the agent: as it came, but for the headers that are ours.
func (p *Proxy) rewriteForAgent(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In)
	pr.Out.URL = agentURL(pr.In.URL, p.Agent.Path)
	pr.Out.URL.Scheme, pr.Out.URL.Host = "http", p.Agent.Address
	if p.Agent.TLS {
		pr.Out.URL.Scheme = "https"
	}
	if p.Agent.Network == "unix" {
		pr.Out.URL.Host = "agent"
	}
	pr.Out.Host = pr.In.Host
	pr.Out.Trailer = pr.In.Trailer // filled in when the body ends
	h := pr.Out.Header
	strip(h)
	keepForwarded(h, pr.In.Header)
	h[headerVersion], h[headerDigest], h[headerExecution] = p.version, p.digest, x.ids
	if x.arrival.shadow {
		h.Set(headerShadow, "true")
	}
	once(pr.Out)
	p.inject(pr.Out)
	if x.arrival.kind == grpcCall && !x.arrival.deadline.IsZero() {
		// Envoy sends the original timeout again after a hand-over, though some of it is used up.
		h.Set("Grpc-Timeout", formatGRPCTimeout(x.arrival.deadline.Sub(p.Now())))
	}
}

// once keeps http.Transport from sending a request again when the connection breaks after it was sent: it does so for methods that are
// idempotent by RFC 9110, if there is no body, and for an Idempotency-Key. An agent may have begun, and its ledger knows of one beginning.
func once(out *http.Request) {
	if out.Body != nil {
		return
	}
	switch out.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		out.Body = emptyBody{}
	default:
		for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
			if values, ok := out.Header[name]; ok { // header names have no case; http.Transport looks for this spelling
				delete(out.Header, name)
				out.Header[strings.ToLower(name)] = values
			}
		}
	}
}

// emptyBody is no body, but not one that http.Transport knows to be none: it is asked, and nothing is sent.
type emptyBody struct{}

func (emptyBody) Read([]byte) (int, error) { return 0, io.EOF }
func (emptyBody) Close() error             { return nil }

// agentURL is the request's own URL, byte for byte, below the agent's path.
func agentURL(in *url.URL, path string) *url.URL {
	out := *in
	if path != "" {
		out.Path, out.RawPath = path+in.Path, path+in.EscapedPath()
	}
	return &out
}

// agentFailed answers where the agent gave no response, or the ledger did not let it out.
func (p *Proxy) agentFailed(_ http.ResponseWriter, out *http.Request, err error) {
	x := exchangeOf(out)
	switch e := x.cutBy(); {
	case e != nil:
		x.answerCut(e)
	case errors.Is(context.Cause(out.Context()), errDeadline):
		x.fail("the request's deadline passed before the agent answered")
		p.deadlinePassed(x.w, x)
	case x.w.request.timedOut(x.in.Context()):
		x.fail("the client did not send the rest of its request")
		if p.Refusals != nil {
			p.Refusals.Count(gate.BodyTimeout)
		}
		p.bodyTimedOut(x.w, x)
	case x.in.Context().Err() != nil:
		// The client is gone; nobody reads an answer, and none must be mistaken for the agent's.
		x.log().Debug("the client left before the agent answered")
		panic(http.ErrAbortHandler)
	default:
		x.fail("the agent did not answer: " + err.Error())
		x.log().Warn("the agent did not answer", zap.Error(err))
		if p.Suspect != nil {
			p.Suspect()
		}
		p.badGateway(x.w, x, err)
	}
}
