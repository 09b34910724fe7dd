package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/agent"
	"github.com/specproxy/specproxy/internal/sidecar/gate"
	"github.com/specproxy/specproxy/internal/sidecar/posture"
	"github.com/specproxy/specproxy/internal/sidecar/proxy"
	"github.com/specproxy/specproxy/internal/versions"
)

// bufferTotal is the rig's bound of all kept bodies, in bytes.
const bufferTotal = 8 << 10

// bodyPause is the rig's bound of pauses in bodies.
const bodyPause = 500 * time.Millisecond

// patience bounds every wait for something that must happen.
const patience = time.Minute

// rig is a data path on a real socket, with a real ledger, before an agent that is an in-process server.
type rig struct {
	t      *testing.T
	ledger *drain.Ledger
	keeper *posture.Keeper
	proxy  *proxy.Proxy
	addr   string
	random float64
	ahead  atomic.Int64 // of the proxy's clock, in nanoseconds
	ended  chan drain.Row
	// shadows is the ledger of copies; mirrored has what was told of those and of their requests.
	shadows  *drain.Ledger
	mirrored chan mirrored
	// refusals of the gate.
	refusals gate.Refusals
	// generation of the last State.
	generation uint64
}

// mirrored is one call of Config.Mirrored.
type mirrored struct {
	proxy.Mirror
	isCopy bool
	row    drain.Row
}

func newRig(t *testing.T, contract drain.Contract, handler http.Handler) *rig {
	t.Helper()
	r := newRigAt(t, contract, endpoint(serve(t, handler)))
	r.state(nil)
	return r
}

func endpoint(addr string) agent.Endpoint { return agent.Endpoint{Network: "tcp", Address: addr} }

// newRigAt has no State yet.
func newRigAt(t *testing.T, contract drain.Contract, at agent.Endpoint) *rig {
	t.Helper()
	r := &rig{t: t, ledger: drain.NewLedger(contract), random: 0.5, ended: make(chan drain.Row, 1000)}
	r.shadows, r.mirrored = drain.NewLedger(contract), make(chan mirrored, 1000)
	r.keeper = posture.New(filepath.Join(t.TempDir(), "state"), r.ledger, time.Now)
	r.proxy = proxy.New(proxy.Config{
		Ref: versions.Ref{Spec: "customer-service", Version: "2.1.0"}, Digest: "sha256:feed", Instance: "one", BodyBuffer: 1 << 10, Contract: contract,
		Ledger: r.ledger, Posture: r.keeper.Current, Agent: at, Changed: func() {}, Ended: func(row drain.Row) { r.ended <- row },
		Now: func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) }, Random: func() float64 { return r.random }, Log: zaptest.NewLogger(t),
		Shadows: r.shadows, Mirrored: func(m proxy.Mirror, isCopy bool, row drain.Row) { r.mirrored <- mirrored{m, isCopy, row} },
		BufferTotal: bufferTotal, BodyPause: bodyPause, Refusals: &r.refusals,
	})
	t.Cleanup(r.proxy.CloseIdle)
	r.addr = r.open(gate.Limits{})
	return r
}

// open serves the data path behind its gate, as the sidecar does.
func (r *rig) open(limits gate.Limits) string {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	limits = limits.WithDefaults()
	server := gate.Server(r.proxy, limits, &r.refusals, zaptest.NewLogger(r.t))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(gate.Listener(l, limits, &r.refusals))
	}()
	r.t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return l.Addr().String()
}

// serve runs a handler on loopback, for HTTP/1.1 and h2c, until the test ends.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.DisableGeneralOptionsHandler = true // "OPTIONS *" is the handler's
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.Listener.Addr().String()
}

// state applies the next State, with a fence or without.
func (r *rig) state(f *sidecarv1.Fence) {
	r.t.Helper()
	r.generation++
	if applied, err := r.keeper.Apply(&sidecarv1.State{Generation: r.generation, Pin: "pin210", ExecutionKey: []byte("key"), Fence: f}); err != nil || !applied {
		r.t.Fatalf("apply state: %v %v", applied, err)
	}
}

// fence abandons the version in favour of 2.0.3 at these addresses.
func (r *rig) fence(addresses ...string) {
	r.t.Helper()
	r.state(&sidecarv1.Fence{
		Generation: 7, TargetVersion: "2.0.3", TargetPin: "pin203", TargetAddresses: addresses, Postmortem: "PM-1",
		OrderedAt: timestamppb.Now(), RetrySpread: durationpb.New(4 * time.Second),
	})
}

// settle orders by onPromote, with 2.2.0 at these addresses as the target.
func (r *rig) settle(addresses ...string) {
	r.t.Helper()
	r.generation++
	order := &sidecarv1.Fence{Generation: 7, TargetVersion: "2.2.0", TargetPin: "pin220", TargetAddresses: addresses, Kind: "promote", OrderedAt: timestamppb.Now()}
	state := &sidecarv1.State{Generation: r.generation, Pin: "pin210", ExecutionKey: []byte("key"), Settle: order}
	if applied, err := r.keeper.Apply(state); err != nil || !applied {
		r.t.Fatalf("apply state: %v %v", applied, err)
	}
}

// request builds one as our Envoy would send it, unless headers say otherwise. Header pairs follow; an empty value removes the header.
func (r *rig) request(method, path, body string, headers ...string) *http.Request {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	r.t.Cleanup(cancel)
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+r.addr+path, reader)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Host = "customer-service.agents"
	req.Header.Set("X-Spec-Buffer", "1024")
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
		} else {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	return req
}

// client follows no redirect: Envoy does.
func client(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetUnencryptedHTTP2(http2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// do sends a request over HTTP/1.1.
func (r *rig) do(req *http.Request) *http.Response {
	r.t.Helper()
	res, err := client(r.t, false).Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// later sends a request and delivers the response when its headers come.
func (r *rig) later(req *http.Request) <-chan *http.Response {
	r.t.Helper()
	c := client(r.t, false)
	answered := make(chan *http.Response, 1)
	go func() {
		res, err := c.Do(req)
		if err != nil {
			r.t.Errorf("%s %s: %v", req.Method, req.URL.Path, err)
			close(answered)
			return
		}
		answered <- res
	}()
	return answered
}

func get[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			t.Fatalf("%s: nothing came", what)
		}
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing came in %s", what, patience)
	}
	panic("unreachable")
}

func read(t *testing.T, res *http.Response) string {
	t.Helper()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("read body: %v", err)
	}
	return string(data)
}

// endedRow is the next execution that ended.
func (r *rig) endedRow() drain.Row {
	r.t.Helper()
	return get(r.t, "the end of an execution", r.ended)
}

// held is an agent that says when a request has reached it and waits for leave to answer; it notices when it is cut.
type held struct {
	reached chan *http.Request
	answer  chan func(http.ResponseWriter, *http.Request)
	cut     chan error
}

func newHeld() *held {
	return &held{reached: make(chan *http.Request, 10), answer: make(chan func(http.ResponseWriter, *http.Request), 10), cut: make(chan error, 10)}
}

func (h *held) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	h.reached <- r
	select {
	case f := <-h.answer:
		f(w, r)
	case <-r.Context().Done():
		h.cut <- r.Context().Err()
	}
}

// reply answers with a text.
func reply(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// events reads a stream line by line.
func lines(t *testing.T, body io.Reader) func() string {
	t.Helper()
	b := bufio.NewReader(body)
	return func() string {
		t.Helper()
		line, err := b.ReadString('\n')
		if err != nil {
			t.Fatalf("read a line: %v (got %q)", err, line)
		}
		return strings.TrimSuffix(line, "\n")
	}
}

// contracts for the tests.
var (
	completes = drain.Contract{Effects: drain.Guarded, Default: drain.Action{OnRollback: drain.Complete}}
	cancels   = drain.Contract{Effects: drain.Guarded, Default: drain.Action{OnRollback: drain.Cancel, RetryAfter: drain.Range{Min: time.Second, Max: 4 * time.Second}}}
	handsOver = drain.Contract{Effects: drain.Guarded, Default: drain.Action{OnRollback: drain.Complete}, Rules: []drain.Rule{{
		When: drain.Match{Effects: drain.AnyOf{drain.EffectsNone}}, Action: drain.Action{OnRollback: drain.Handover, Else: drain.Cancel},
	}}}
)

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}
