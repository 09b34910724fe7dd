// Package proxy is the sidecar's data path: it takes requests from Envoy and other sidecars, keeps the ledger of the executions they are, and
// passes them to the agent, or, once the version is fenced, on to the version that takes over.
//
// Invariants:
//   - a request reaches the agent only after the ledger admitted it, and its execution ends in the ledger when its last exchange does,
//     upgraded connections included;
//   - the first response byte leaves only after the ledger allowed it; what an order cut is answered by a hand-over or a retry signal, never
//     by a truncated success;
//   - no x-spec-* header crosses the sidecar: what a client, a proxy or an agent says with one is consumed here.
package proxy

import (
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/agent"
	"github.com/specproxy/specproxy/internal/sidecar/execid"
	"github.com/specproxy/specproxy/internal/sidecar/gate"
	"github.com/specproxy/specproxy/internal/sidecar/posture"
	"github.com/specproxy/specproxy/internal/versions"
)

// Config is what the data path needs. Every field but Captures, Ended, Peers, BufferTotal, BodyPause, Suspect, Refusals, Begun, Metrics, Access and Tracer is required.
type Config struct {
	Ref      versions.Ref
	Digest   string
	Instance string
	// BodyBuffer bounds, in bytes, the request bodies that are kept for a hand-over by forwarding; BufferTotal all of them together, 0: no bound.
	BodyBuffer  int
	BufferTotal int64
	// Peers is how other sidecars are spoken to that take requests over TLS; nil: they cannot be.
	Peers func() (*tls.Config, error)
	// BodyPause is how long a client may leave a request's body of stated length unfinished without a byte; 0: for ever.
	BodyPause time.Duration
	Contract  drain.Contract
	// Segments are the attributes that the ledger counts by.
	Segments []drain.Attribute
	// Captures keeps the bodies of failing executions, for excerpts; nil: none is looked at.
	Captures *capture.Keeper
	Ledger   *drain.Ledger
	// Shadows is where copies of requests are kept, apart from all others; nil: none are taken. Mirrored is called with the end of each, and of each
	// request that was copied; nil: nobody wants to know.
	Shadows  *drain.Ledger
	Mirrored func(m Mirror, isCopy bool, row drain.Row)
	// Posture is the newest applied State; nil before the first.
	Posture func() *posture.Posture
	Agent   agent.Endpoint
	// Changed is called after every change of the ledger or of PassedOn; it must be quick.
	Changed func()
	// Ended is called with every execution that has ended.
	Ended func(drain.Row)
	Now   func() time.Time
	// Random draws from [0,1): a client's place in the span of a retry signal.
	Random func() float64
	// Suspect is called when the agent did not answer a request; it must be quick. May be nil.
	Suspect func()
	// Refusals counts what was not kept for lack of room.
	Refusals *gate.Refusals
	// Begun is closed once requests can be served; those that come before wait for it. nil: they can.
	Begun <-chan struct{}
	// Metrics is where counts of requests are shown; nil: nowhere.
	Metrics prometheus.Registerer
	// Access gets a line for every request; nil: none is written.
	Access *zap.Logger
	// Tracer makes a span of every request; nil: nothing is traced, and the trace context passes as it came.
	Tracer trace.Tracer
	Log    *zap.Logger
}

// Proxy is an http.Handler. It must be served by net/http, which recovers http.ErrAbortHandler.
type Proxy struct {
	Config
	toAgent   *httputil.ReverseProxy
	toTarget  *httputil.ReverseProxy
	targets   *targets
	keepsBody bool // the contract may hand over, so a body that a redirect cannot replay is worth keeping
	peeks     bool // the contract asks which tools a request calls, or which skill it asks for
	headers   []string
	segments  []string // header of each attribute, as net/http writes it
	version   []string // and digest, as headers have them; nobody changes them
	digest    []string
	passedOn  atomic.Uint64
	// acted counts copies that did more than read; shadowless: no more are taken.
	acted      atomic.Uint64
	shadowless atomic.Bool
	budget     budget
	captured   budget
	heard      atomic.Int64 // when the agent last sent anything, in nanoseconds of Unix time
	metrics    *metrics
	minter     atomic.Pointer[execid.Minter]

	mu      sync.Mutex
	active  map[*exchange]struct{}
	running int           // requests in ServeHTTP
	idle    chan struct{} // closed and replaced whenever running falls to 0
	leaving bool          // CutAll was called

	gone context.Context // ends with CutAll
	end  context.CancelFunc
}

// New makes the data path.
func New(c Config) *Proxy {
	p := &Proxy{Config: c, targets: newTargets(c.Peers), keepsBody: c.Contract.CanHandOver() || c.Contract.ShutdownHandsOver(),
		peeks: c.Contract.NamesTools() || c.Contract.NamesSkills(), headers: c.Contract.HeaderNames(), active: map[*exchange]struct{}{}, idle: make(chan struct{})}
	for _, a := range c.Segments {
		p.segments = append(p.segments, http.CanonicalHeaderKey(a.Header))
	}
	p.metrics = newMetrics(c.Metrics)
	p.version, p.digest = []string{c.Ref.String()}, []string{c.Digest}
	errorLog := zap.NewStdLog(c.Log.WithOptions(zap.IncreaseLevel(max(zap.WarnLevel, c.Log.Level()))))
	p.gone, p.end = context.WithCancel(context.Background())
	p.budget = budget{limit: c.BufferTotal, refusals: c.Refusals}
	p.captured = budget{limit: capturedTotal}
	p.toAgent = &httputil.ReverseProxy{
		Rewrite: p.rewriteForAgent, Transport: newAgentTransport(c.Agent), ModifyResponse: p.fromAgent, ErrorHandler: p.agentFailed,
		BufferPool: buffers, ErrorLog: errorLog, FlushInterval: flushInterval,
	}
	p.toTarget = &httputil.ReverseProxy{
		Rewrite: p.rewriteForTarget, Transport: p.targets, ModifyResponse: fromTarget, ErrorHandler: p.targetFailed,
		BufferPool: buffers, ErrorLog: errorLog, FlushInterval: flushInterval,
	}
	return p
}

// PassedOn counts the requests that reached this fenced sidecar and were passed on.
func (p *Proxy) PassedOn() uint64 { return p.passedOn.Load() }

// flushInterval bounds how long the beginning of a response of known length is kept back: the client is to see it, and a cut must find out
// there what the ledger believes to be sent. Streams are flushed at once.
const flushInterval = 10 * time.Millisecond

// ServeHTTP serves one exchange.
func (p *Proxy) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	p.enter()
	defer p.exit()
	if r.URL.Path == rehearsalPath {
		p.rehearse(rw, r)
		return
	}
	w := &response{ResponseWriter: rw, old: !r.ProtoAtLeast(1, 1)}
	if r.ContentLength != 0 {
		strip(r.Trailer) // the names; values come with the end
		w.waits = strings.EqualFold(r.Header.Get("Expect"), "100-continue")
		w.request = &watchedBody{ReadCloser: r.Body, http2: r.ProtoMajor == 2, trailer: r.Trailer}
		if r.ContentLength > 0 { // what has no stated length may be one side of a conversation
			w.request.pause = p.BodyPause
		}
		if !w.request.http2 {
			// A proxy must not wait for the end of the request before it passes the response on, nor read what the agent is to get.
			w.request.control = http.NewResponseController(w)
			_ = w.request.control.EnableFullDuplex()
		}
		r.Body = w.request
		answered := false // not if the handler panics, which ends the connection or the stream
		defer func() { w.request.retire(w, answered) }()
		p.serve(w, r)
		answered = true
		return
	}
	p.serve(w, r)
}

func (p *Proxy) serve(w *response, r *http.Request) {
	p.awaitBegun(r)
	a := read(r, p.Now())
	r = p.open(w, r, a)
	defer p.settle(w, r)
	if r.Method == http.MethodConnect {
		writeProblem(w, a.kind, codes.Unimplemented, http.StatusNotImplemented, "CONNECT is not supported", "an agent is no tunnel", false)
		return
	}
	if a.shadow = p.shadow(a); a.shadow {
		p.serveShadow(w, r, a)
		return
	}
	// The fence may be lifted between the ledger's answer and the look at the posture; it does not flap.
	for range 3 {
		state := p.Posture()
		if state == nil {
			p.notReady(w, a)
			return
		}
		x := p.admit(w, r, a, state)
		if x != nil {
			w.account.exchange = x
			x.run()
			return
		}
		if fenced := p.Posture(); fenced.Fence != nil {
			p.passOn(w, r, a, fenced.Fence)
			return
		}
	}
	p.notReady(w, a)
}

// awaitBegun holds what a proxy sends to a sidecar that has only just been started again at its address.
func (p *Proxy) awaitBegun(r *http.Request) {
	if p.Begun == nil {
		return
	}
	select {
	case <-p.Begun:
		return
	default:
	}
	select {
	case <-p.Begun:
	case <-r.Context().Done():
	}
}

// admit asks the ledger. It returns nil if the version is fenced; that of copies has no fence.
func (p *Proxy) admit(w *response, r *http.Request, a arrival, state *posture.Posture) *exchange {
	ledger, place := p.Ledger, drain.Place{}
	if a.shadow {
		ledger, a.route = p.Shadows, 0
	} else {
		place = p.place(r)
	}
	id, key := p.identify(r, state.Key, ledger)
	ctx, cancel := context.WithCancelCause(r.Context())
	x := &exchange{proxy: p, w: w, in: r, arrival: a, ctx: ctx, cancel: cancel, id: id, ids: []string{id}, pin: state.Pin}
	admitted, _ := ledger.Admit(drain.Begin{
		ID: id, Key: key, Method: r.Method, Path: r.URL.Path, RouteGeneration: a.route, Started: a.at, Deadline: a.deadline,
		HandedOverFrom: a.origin, Origin: p.origin(a.origin), GRPC: a.kind == grpcCall, Redirectable: a.redirectable(), Headers: p.ruled(r.Header), Place: place, Cut: x.cut,
	})
	if admitted == nil {
		cancel(nil)
		return nil
	}
	x.execution = admitted
	if p.Captures != nil && !a.shadow {
		x.captured = newCaptured(p, r)
	}
	if p.peeks {
		x.observe(nil)
	}
	p.Changed()
	return x
}

// place is where the request is counted by attributes.
func (p *Proxy) place(r *http.Request) drain.Place {
	return drain.PlaceOf(p.Segments, r.URL.Path, func(i int) []string { return r.Header[p.segments[i]] })
}

// origin is where a hand-over came from, by its execution's id: another version, or another instance of this one.
func (p *Proxy) origin(id string) string {
	if id == "" {
		return ""
	}
	version, instance, ok := execid.Claims(id)
	switch {
	case !ok:
		return ""
	case version == p.Ref.Version:
		return drain.OriginInstance(instance)
	}
	return version
}

// maxHeader bounds the part of a header's value that rules see, or that is kept as a key, in bytes.
const maxHeader = 256

// ruled keeps those headers that rules look at.
func (p *Proxy) ruled(h http.Header) map[string]string {
	var kept map[string]string
	for _, name := range p.headers {
		values := h.Values(name)
		if len(values) == 0 {
			continue
		}
		if kept == nil {
			kept = make(map[string]string, len(p.headers))
		}
		kept[name] = strings.Clone(values[0][:min(len(values[0]), maxHeader)])
	}
	return kept
}

// identify finds the execution a request belongs to. An id that we minted and that is live here is joined; anything else that a client sends
// as an id is its key and no more.
func (p *Proxy) identify(r *http.Request, secret []byte, ledger *drain.Ledger) (id, key string) {
	key = r.Header.Get("Idempotency-Key")
	if sent := r.Header.Get(headerExecution); sent != "" {
		if _, instance, ok := execid.Verify(secret, sent); ok && instance == p.Instance {
			if _, live := ledger.Join(sent); live {
				return sent, key
			}
		}
		if key == "" {
			key = sent
		}
	}
	var random [execid.RandomSize]byte
	_, _ = crand.Read(random[:]) // never fails
	if len(key) > maxHeader {
		key = strings.Clone(key[:maxHeader])
	}
	return p.minterFor(secret).Mint(random), key
}

// minterFor is the one of the last State's key, which hardly ever changes.
func (p *Proxy) minterFor(secret []byte) *execid.Minter {
	m := p.minter.Load()
	if m == nil || !m.Uses(secret) {
		m = execid.NewMinter(secret, p.Ref.Version, p.Instance)
		p.minter.Store(m)
	}
	return m
}

var errLeaving = errors.New("the instance is leaving")

// CutAll ends every running exchange, and each that still comes, with the retry signal. It does not wait.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	p.leaving = true
	cut := make([]*exchange, 0, len(p.active))
	for x := range p.active {
		cut = append(cut, x)
	}
	p.mu.Unlock()
	for _, x := range cut {
		x.leave()
	}
	p.end()
}

// AwaitIdle returns when no request is being served, or with ctx's error.
func (p *Proxy) AwaitIdle(ctx context.Context) error {
	for {
		p.mu.Lock()
		running, idle := p.running, p.idle
		p.mu.Unlock()
		if running == 0 {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// CloseIdle closes the connections that wait for use.
func (p *Proxy) CloseIdle() {
	p.end()
	p.targets.close()
	p.toAgent.Transport.(*agentTransport).close()
}

func (p *Proxy) enter() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running++
}

func (p *Proxy) exit() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running--; p.running == 0 {
		close(p.idle)
		p.idle = make(chan struct{})
	}
}

// start registers an exchange; false if the instance is already cutting everything.
func (p *Proxy) start(x *exchange) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active[x] = struct{}{}
	return !p.leaving
}

func (p *Proxy) finish(x *exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.active, x)
}
