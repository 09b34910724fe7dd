package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/agentproto/grpc"
	"github.com/specproxy/specproxy/internal/agentproto/plain"
	"github.com/specproxy/specproxy/internal/agentproto/terminal"
	"github.com/specproxy/specproxy/internal/drain"
)

// response remembers what was sent and lets informational responses pass, without headers of ours: they are no answer yet, and the ledger has
// nothing to decide over them.
type response struct {
	http.ResponseWriter
	status int
	// account is what is told of the request in the end.
	account account
	// request is the request's body; nil if it has none.
	request *watchedBody
	// old: the client speaks HTTP/1.0 and knows no informational responses.
	old bool
	// waits: the client sends its body after 100 (Continue), which net/http says when that is first read. That is when the agent has said so,
	// or has kept its silence for long; the agent's own is not passed on, lest the client gets two.
	waits bool
	// tunnel is the agent's end of an upgraded connection; nil if there is none.
	tunnel *tunnel
}

// watchedBody knows whether a request has ended, and that nobody reads it after its handler has returned.
type watchedBody struct {
	io.ReadCloser
	http2 bool
	// trailer is the request's; its values are there once the body has ended.
	trailer http.Header
	ended   atomic.Bool
	// cut: its exchange is over, nobody wants to read on.
	cut atomic.Bool
	// heard is when the last bytes came, in nanoseconds of Unix time.
	heard atomic.Int64
	// pause bounds how long the next bytes may take; 0: nothing does. On HTTP/1.1 it is set through control.
	pause    time.Duration
	control  *http.ResponseController
	paused   atomic.Bool // they took longer
	closed   atomic.Bool
	retiring atomic.Bool

	mu      sync.Mutex // held over every Read: the transport reads on a goroutine of its own
	retired bool
}

// errInterrupted ends the reading of a request whose exchange has been cut.
var errInterrupted = errors.New("the exchange has been cut")

// Close may come during a Read and from several goroutines, where net/http lets an HTTP/2 body be closed by one.
func (b *watchedBody) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	return b.ReadCloser.Close()
}

// alarm closes an HTTP/2 body whose next bytes do not come. net/http has a deadline for that, but to set it takes a message to the connection's loop.
type alarm struct {
	timer *time.Timer
	body  atomic.Pointer[watchedBody]
}

var alarms = sync.Pool{New: func() any {
	a := new(alarm)
	a.timer = time.AfterFunc(time.Hour, a.ring)
	a.timer.Stop()
	return a
}}

func (a *alarm) ring() {
	if b := a.body.Load(); b != nil {
		b.paused.Store(true)
		_ = b.Close()
	}
}

// inTime reads from an HTTP/2 body.
func (b *watchedBody) inTime(p []byte) (int, error) {
	a := alarms.Get().(*alarm)
	a.body.Store(b)
	a.timer.Reset(b.pause)
	n, err := b.ReadCloser.Read(p)
	if a.timer.Stop() { // else it rings, and is nobody else's
		a.body.Store(nil)
		alarms.Put(a)
	}
	return n, err
}

// interrupt ends a Read under way and refuses those that follow. What still comes is left for retire.
func (b *watchedBody) interrupt(w *response) {
	b.cut.Store(true)
	switch {
	case b.mu.TryLock():
		b.mu.Unlock() // nobody reads
	case b.http2:
		_ = b.Close() // in net/http an HTTP/2 body may be closed during a Read
	case !b.ended.Load():
		_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
	}
}

// A client that still sends after an early answer is listened to until it is silent for a while, and no longer than lingerAll. On HTTP/2 the
// end of the answer waits for that, so the while is short there.
const (
	lingerHTTP1 = 500 * time.Millisecond
	lingerAll   = 10 * time.Second
)

var lingerHTTP2 = 20 * time.Millisecond // a test that must not depend on the machine's speed lengthens it

// retire ends the reading of a request for good. Where it was answered early, what the client still sends is read first: HTTP/1.1 would
// close the connection with a part of it unread, and the client could lose the answer; HTTP/2 would reset the stream for each further frame,
// which Envoy answers by ending the connection and all that runs on it. In full-duplex mode net/http may wait for ever on an HTTP/1.1
// connection whose body comes to its end after the handler has returned, so that nothing is read then.
func (b *watchedBody) retire(w *response, answered bool) {
	silent := lingerHTTP1
	if b.http2 {
		silent = lingerHTTP2
		quiet := time.Since(time.Unix(0, b.heard.Load()))
		answered = answered && (b.heard.Load() == 0 || quiet < silent)
	}
	controller := http.NewResponseController(w)
	b.retiring.Store(true)
	switch {
	case b.ended.Load():
		return
	case answered:
		if !grpc.IsContentType(w.Header().Get("Content-Type")) { // a status without a message must stay one frame
			_ = controller.Flush()
		}
		_ = controller.SetReadDeadline(time.Now().Add(silent)) // also for a Read under way
	case b.http2:
		return // net/http sees to it
	default:
		_ = controller.SetReadDeadline(time.Unix(1, 0))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retired = true
	if answered && !b.ended.Load() {
		b.drain(controller, silent)
	}
	if !b.http2 {
		_ = controller.SetReadDeadline(time.Unix(1, 0))
	}
}

// drain reads until the request ends or its client is silent. b.mu is held.
func (b *watchedBody) drain(controller *http.ResponseController, silent time.Duration) {
	buffer := buffers.Get()
	defer buffers.Put(buffer)
	for end := time.Now().Add(lingerAll); time.Now().Before(end); {
		_ = controller.SetReadDeadline(time.Now().Add(silent))
		if _, err := b.ReadCloser.Read(buffer); err != nil {
			return
		}
	}
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var until time.Time
	deadline := b.pause > 0 && !b.http2
	if deadline {
		until = time.Now().Add(b.pause)
		_ = b.control.SetReadDeadline(until)
	}
	// Looked at after the deadline was set, so that the last one is theirs who end the reading.
	if b.retired || b.retiring.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.cut.Load() {
		return 0, errInterrupted
	}
	var n int
	var err error
	if b.pause > 0 && b.http2 {
		n, err = b.inTime(p)
	} else {
		n, err = b.ReadCloser.Read(p)
	}
	b.heard.Store(time.Now().UnixNano())
	switch {
	case err == io.EOF: //nolint:errorlint // io.Reader's contract
		strip(b.trailer)
		b.ended.Store(true)
		if deadline {
			_ = b.control.SetReadDeadline(time.Time{})
		}
	case deadline && errors.Is(err, os.ErrDeadlineExceeded) && !time.Now().Before(until): // else it was brought forward, to end this Read
		b.paused.Store(true)
	}
	return n, err
}

// timedOut says whether the client did not send the rest of its request in time. When a Read fails, net/http cancels the request's context
// before that Read returns, so that whoever acts on the context may ask too early: it waits.
func (b *watchedBody) timedOut(ctx context.Context) bool {
	if b == nil || b.pause == 0 {
		return false
	}
	if ctx.Err() != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
	}
	return b.paused.Load()
}

// Unwrap lets http.ResponseController reach the server's own writer.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		if strip(w.Header()); !w.old && (!w.waits || status != http.StatusContinue) {
			w.ResponseWriter.WriteHeader(status)
		}
		return
	}
	if w.request != nil && !w.request.http2 && !w.request.ended.Load() {
		// What is left of the request belongs to this exchange and must not be taken for the next one. (In full-duplex mode net/http does not
		// see to that by itself.)
		w.Header().Set("Connection", "close")
	}
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// fromAgent takes what the agent says with headers, asks the ledger whether the response may go out, and prepares its body. An error makes
// agentFailed answer instead.
func (p *Proxy) fromAgent(res *http.Response) error {
	x := exchangeOf(res.Request)
	p.heard.Store(p.Now().UnixNano())
	x.answered.Store(true)
	x.heed(res.Header)
	if err := x.execution.Respond(p.Now()); err != nil {
		var refused drain.ErrRefused
		if errors.As(err, &refused) {
			x.cut(refused.Decision) // the ledger decides over many before it tells each: its call is on its way
		}
		return err
	}
	if x.cutBy() != nil {
		return errCut
	}
	p.Changed()
	strip(res.Header)
	res.Header[headerVersion] = p.version
	res.Header.Set(headerPin, x.pin)
	res.Header[headerExecution] = x.ids
	maskRedirect(res, x.arrival)
	strip(res.Trailer)
	if res.StatusCode == http.StatusSwitchingProtocols {
		return x.upgraded(res)
	}
	x.captured.respond(res.Header)
	s := &stream{body: res.Body, x: x, res: res, framing: framingOf(res)}
	if grpc.IsContentType(res.Header.Get("Content-Type")) {
		s.grpcStatus(res.Header)
		// Not announced, so that a cut can put other trailers in their place.
		res.Trailer = nil
	} else if res.StatusCode < http.StatusBadRequest {
		s.watcher = terminal.Watch(res.Header)
	}
	res.Body = s
	return nil
}

// heed takes the agent's statements from headers or trailers.
func (x *exchange) heed(h http.Header) {
	if values := h.Values(headerEffects); len(values) > 0 {
		acts, err := plain.ParseEffects(values)
		if err != nil {
			x.log().Warn("the agent reports effects in a form that is not understood; they count as unknown", zap.Error(err))
		}
		for _, act := range acts {
			act.At = x.proxy.Now()
			x.execution.Report(act)
		}
	}
	if value := h.Get(headerOutcome); value != "" {
		outcome, err := plain.ParseOutcome(value)
		if err != nil {
			x.log().Warn("the agent states an outcome in a form that is not understood; it is ignored", zap.Error(err))
			return
		}
		x.execution.SetOutcome(outcome.Success, outcome.Reason)
	}
}

// maskRedirect keeps Envoy from following a redirect that is not ours: it is the client's to follow, byte for byte as the agent wrote it. Envoy
// follows a 307 by its Location, and puts this one back on the way to the client.
func maskRedirect(res *http.Response, a arrival) {
	location := res.Header["Location"]
	if !a.viaEnvoy() || res.StatusCode != http.StatusTemporaryRedirect || len(location) == 0 {
		return
	}
	res.Header[headerLocation] = location[:1]
	delete(res.Header, "Location")
}

// stream is an agent's response body on its way to the client. It ends with the agent's trailers, or, if an order cuts it where the protocol
// has a way to say so, with the retry signal in the protocol's own words.
type stream struct {
	body io.ReadCloser
	x    *exchange
	res  *http.Response
	// framing is nil if the protocol cannot end early: a cut then breaks the connection.
	framing framing
	// watcher reads what the protocol says of the outcome; nil if it can say nothing.
	watcher *terminal.Watcher
	// held is the beginning of a frame whose end has not come, out is on its way to the client.
	held, out []byte
	err       error // what Read returns after out
}

// holdLimit bounds held. A longer frame goes out in pieces, and a cut in its middle can only break the connection.
const holdLimit = 64 << 10

func (s *stream) Close() error {
	s.settle()
	return s.body.Close()
}

func (s *stream) Read(p []byte) (int, error) {
	for {
		if len(s.out) > 0 {
			n := copy(p, s.out)
			s.out = s.out[n:]
			return n, nil
		}
		if s.err != nil {
			return 0, s.err
		}
		n, err := s.body.Read(p)
		if s.watcher != nil {
			s.watcher.Write(p[:n])
		}
		if s.x.captured != nil {
			s.x.captured.response.take(p[:n], err == io.EOF)
		}
		s.x.proxy.heard.Store(s.x.proxy.Now().UnixNano())
		if err != nil {
			s.err = s.last(err)
		}
		if s.framing == nil {
			if n > 0 || err != nil {
				return n, s.err
			}
			continue
		}
		if n > 0 && err == nil && len(s.held) == 0 && !s.framing.torn() && s.framing.whole(p[:n]) == n {
			return n, nil // as nearly always: events or messages come whole, and nothing of them is kept
		}
		s.release(p[:n])
		if err != nil {
			s.conclude(err)
		}
	}
}

// release moves whole frames from what was held and what has come to out.
func (s *stream) release(chunk []byte) {
	s.held = append(s.held, chunk...)
	whole := s.framing.whole(s.held)
	if whole == 0 && len(s.held) > holdLimit {
		s.framing.tear(s.held)
		whole = len(s.held)
	}
	if whole == len(s.held) {
		s.out, s.held = s.held, nil
		return
	}
	s.out, s.held = s.held[:whole:whole], append([]byte(nil), s.held[whole:]...)
}

// conclude puts the end of the body behind out: what was held, or the retry signal in its place.
func (s *stream) conclude(err error) {
	e := s.x.cutBy()
	switch {
	case err == io.EOF: //nolint:errorlint // io.Reader's contract
		s.out, s.held = append(s.out, s.held...), nil
	case e != nil && !s.framing.torn():
		s.out = append(s.out, s.framing.signal(s.x.signal(e), s.res)...)
		s.held, s.err = nil, io.EOF
	}
}

// last turns the end of the agent's body into what the proxy's copy must see, and takes the agent's last words.
func (s *stream) last(err error) error {
	if err == io.EOF { //nolint:errorlint // io.Reader's contract
		s.x.heed(s.res.Trailer)
		s.grpcStatus(s.res.Trailer)
		strip(s.res.Trailer)
		return err
	}
	if s.x.in.Context().Err() == nil {
		s.x.fail("the agent broke off its response: " + err.Error())
	}
	return err
}

// settle takes what the protocol showed of the outcome.
func (s *stream) settle() {
	if s.watcher == nil {
		return
	}
	o := s.watcher.End()
	s.watcher = nil
	if o.Known && s.x.cutBy() == nil {
		s.x.execution.Infer(o.Success, o.Reason)
	}
}

// grpcStatus counts a gRPC status other than OK as a failure, where the agent states nothing else.
func (s *stream) grpcStatus(h http.Header) {
	if status := h.Get("Grpc-Status"); status != "" && status != "0" {
		s.x.fail(grpcFailure(status, h.Get("Grpc-Message")))
	}
}

func grpcFailure(status, message string) string {
	if decoded, err := url.PathUnescape(message); err == nil {
		message = decoded
	}
	if _, err := strconv.Atoi(status); err != nil || message == "" {
		return fmt.Sprintf("gRPC status %q", status)
	}
	return fmt.Sprintf("gRPC status %s: %s", status, message)
}
