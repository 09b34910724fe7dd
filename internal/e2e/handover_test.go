package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// handsOver is a contract that hands over whatever has not acted.
const handsOver = `effects: guarded
default: {onRollback: complete, within: 5m, then: cancel}
rules:
  - when: {effects: none}
    onRollback: handover
    else: cancel`

// bufferLimit is the size up to which the matrix's spec lets Envoy keep a request's body.
const bufferLimit = 64 << 10

// wire is how a request travels.
type wire string

const (
	http1    wire = "HTTP/1.1"
	chunked  wire = "HTTP/1.1 chunked"
	http2    wire = "HTTP/2"
	streamed wire = "HTTP/2 of unknown length"
	unary    wire = "gRPC unary"
	sending  wire = "gRPC client-streaming"
)

var wires = []wire{http1, chunked, http2, streamed, unary, sending}

// edges is a spec "shop" of two names with a good version 1.0.0 and 1.1.0, which is to be abandoned; another spec "billing"; and an Envoy.
type edges struct {
	*world
	good, bad, billing *mirror
	envoy              string
	pins               map[string]string // of shop's versions
	grpc               *grpc.ClientConn
	http               map[bool]*http.Client // by HTTP/2
	scheme             string                // default: http
}

// startEdges starts them with a generated Envoy.
func startEdges(t *testing.T) *edges {
	t.Helper()
	e := startShop(t)
	e.through(e.world.envoy("edge-1").Address)
	for _, m := range []*mirror{e.good, e.bad} {
		e.deploy("shop", m.version)
		e.pins[m.version] = e.first("shop.agents")
	}
	e.first("billing.agents")
	return e
}

// through sends what is asked from here on to an Envoy.
func (e *edges) through(envoy string) {
	e.envoy = envoy
	e.conn()
}

// startShop starts all but the Envoy.
func startShop(t *testing.T) *edges {
	t.Helper()
	e := &edges{world: startXDS(t), good: startMirror(t, older), bad: startMirror(t, newer), billing: startMirror(t, "1.0.0"), pins: map[string]string{}}
	e.publish("billing", "1.0.0", completeContract)
	e.sidecar("billing:1.0.0", e.billing.url)
	for _, m := range []*mirror{e.good, e.bad} {
		e.publish("shop", m.version, handsOver, "hosts: [shop.agents, shop.example]", fmt.Sprintf("request: {bodyBuffer: %d}", bufferLimit))
		e.sidecar("shop:"+m.version, m.url)
		e.ready("shop", m.version, 1)
	}
	e.ready("billing", "1.0.0", 1)
	e.deploy("billing", "1.0.0")
	return e
}

// conn makes the clients. None follows redirects or retries.
func (e *edges) conn() {
	e.http = map[bool]*http.Client{}
	for _, two := range []bool{false, true} {
		tr := &http.Transport{Protocols: new(http.Protocols), MaxIdleConnsPerHost: 64, DisableCompression: true}
		tr.Protocols.SetHTTP1(!two)
		tr.Protocols.SetUnencryptedHTTP2(two)
		e.t.Cleanup(tr.CloseIdleConnections)
		e.http[two] = &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	conn, err := grpc.NewClient("passthrough:///"+e.envoy, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("shop.agents"), grpc.WithDisableRetry())
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { conn.Close() })
	e.grpc = conn
}

// first waits for a host's first answer, and returns the pin that came with it.
func (e *edges) first(host string) (pin string) {
	e.t.Helper()
	eventually(e.t, "answer of "+host, func() error {
		a := e.ask(question{name: "first", wire: http1, host: host})
		pin = a.header.Get("X-Spec-Pin")
		if a.err != nil || a.status != 200 || pin == "" {
			return fmt.Errorf("%v", a)
		}
		return nil
	})
	return pin
}

// question is one request.
type question struct {
	name string
	wire wire
	host string // default: shop.agents
	path string // default: /work
	size int
	more []string // headers, name and value in turn
}

// reply is what its client got: the status is that of HTTP, or 200 and the code of gRPC.
type reply struct {
	status int
	code   codes.Code
	header http.Header
	body   string
	err    error
}

func (r reply) String() string {
	return fmt.Sprintf("HTTP %d, gRPC %s, %q, %v (error: %v)", r.status, r.code, r.body[:min(len(r.body), 200)], r.header, r.err)
}

// payload is random, so that a body that comes in the wrong order or twice is seen.
func payload(size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = r.Read(b)
	return b
}

func (e *edges) ask(q question) reply {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if q.wire == unary || q.wire == sending {
		return e.call(ctx, q)
	}
	body := payload(q.size)
	var in io.Reader = bytes.NewReader(body)
	if q.wire == chunked || q.wire == streamed {
		in = struct{ io.Reader }{in}
	}
	return e.send(ctx, q, in)
}

func (e *edges) send(ctx context.Context, q question, in io.Reader) reply {
	path, host := cmp.Or(q.path, "/work"), cmp.Or(q.host, "shop.agents")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, cmp.Or(e.scheme, "http")+"://"+e.envoy+path, in)
	if err != nil {
		return reply{err: err}
	}
	req.Host = host
	req.Header.Set(askName, q.name)
	req.Header.Set("Authorization", "Bearer of-the-client")
	for i := 0; i+1 < len(q.more); i += 2 {
		req.Header.Set(q.more[i], q.more[i+1])
	}
	res, err := e.http[q.wire == http2 || q.wire == streamed].Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return reply{status: res.StatusCode, header: res.Header, body: string(text), err: err}
}

// call sends a gRPC message, or a stream of four.
func (e *edges) call(ctx context.Context, q question) reply {
	ctx = metadata.AppendToOutgoingContext(ctx, append([]string{askName, q.name}, q.more...)...)
	client, body, header, trailer := testgrpc.NewTestServiceClient(e.grpc), payload(q.size), metadata.MD{}, metadata.MD{}
	got := len(body)
	var err error
	if q.wire == unary {
		var res *testgrpc.SimpleResponse
		res, err = client.UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: &testgrpc.Payload{Body: body}}, grpc.Header(&header), grpc.Trailer(&trailer), grpc.MaxCallRecvMsgSize(1<<26))
		if err == nil && !bytes.Equal(res.GetPayload().GetBody(), body) {
			err = errors.New("the payload is not what was sent")
		}
	} else {
		got, err = stream(ctx, client, body, grpc.Header(&header), grpc.Trailer(&trailer))
	}
	r := reply{status: 200, code: status.Code(err), header: http.Header{}, body: fmt.Sprintf("%d bytes", got)}
	for name, values := range metadata.Join(header, trailer) {
		r.header[http.CanonicalHeaderKey(name)] = values
	}
	if r.code == codes.Unknown || r.code == codes.Internal {
		r.err = err // neither a sidecar nor the agent says so
	}
	return r
}

func stream(ctx context.Context, client testgrpc.TestServiceClient, body []byte, opts ...grpc.CallOption) (int, error) {
	s, err := client.StreamingInputCall(ctx, opts...)
	if err != nil {
		return 0, err
	}
	const parts = 4
	for i := range parts {
		part := body[i*len(body)/parts : (i+1)*len(body)/parts]
		if err := s.Send(&testgrpc.StreamingInputCallRequest{Payload: &testgrpc.Payload{Body: part}}); err != nil {
			break // the status says why
		}
	}
	res, err := s.CloseAndRecv()
	return int(res.GetAggregatedPayloadSize()), err
}

// answeredBy checks an answer: whole, of the right version, and with no word that is between proxies.
func (e *edges) answeredBy(q question, a reply, by *mirror, others ...*mirror) {
	e.t.Helper()
	e.clean(q, a)
	want := fmt.Sprintf("%d bytes", q.size)
	if q.wire != unary && q.wire != sending {
		want = by.version + " " + cmp.Or(q.path, "/work") + " " + sum(payload(q.size))
	}
	if a.err != nil || a.status != 200 || a.code != codes.OK || a.body != want || a.header.Get("X-Spec-Version") != "shop:"+by.version || a.header.Get("X-Spec-Pin") != e.pins[by.version] {
		e.t.Errorf("%s: %v, want %q", q.name, a, want)
	}
	e.began(q, 1, by)
	e.began(q, 0, others...)
}

// cancelled checks a retry signal.
func (e *edges) cancelled(q question, a reply) {
	e.t.Helper()
	e.clean(q, a)
	signal := a.status == http.StatusServiceUnavailable && a.header.Get("X-Should-Retry") == "true"
	if q.wire == unary || q.wire == sending {
		signal = a.code == codes.Aborted
	}
	if want := "from=1.1.0, to=1.0.0, effects=none"; a.err != nil || !signal || a.header.Get("X-Spec-Rollback") != want || a.header.Get("X-Spec-Pin") != "" {
		e.t.Errorf("%s: %v, want a signal to retry", q.name, a)
	}
	e.began(q, 0, e.good)
}

func (e *edges) clean(q question, a reply) {
	e.t.Helper()
	for name, values := range a.header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-spec-") && lower != "x-spec-version" && lower != "x-spec-pin" && lower != "x-spec-rollback" {
			e.t.Errorf("%s: the client is shown %s: %q", q.name, name, values)
		}
	}
}

// began checks how often agents have got a request.
func (e *edges) began(q question, times int, at ...*mirror) {
	e.t.Helper()
	for _, m := range at {
		if got := len(m.requests(q.name)); got != times {
			e.t.Errorf("%s: %s got it %d times, want %d", q.name, m.version, got, times)
		}
	}
}

// sizes of bodies, around Envoy's limit. A gRPC message is a few bytes longer than its payload.
func sizes(w wire) []int {
	if w == unary || w == sending {
		return []int{0, 1000, bufferLimit - 100, bufferLimit + 1, 5 * bufferLimit}
	}
	return []int{0, 1000, bufferLimit, bufferLimit + 1, 5 * bufferLimit}
}

// paths that a hand-over must not change by a byte.
var paths = []string{
	"/a%2Fb/c%20d;e=f", "//two//slashes//", "/q?x=1&y=%zz&&z", "/empty?", "/tilde~'()*!$&,;=:@", "/x?to=http://billing.agents/&q=\"'", "/" + strings.Repeat("long/", 1000),
}

// TestHandOverMatrix runs every kind of request into a rollback, and then into the pool that was abandoned.
func TestHandOverMatrix(t *testing.T) {
	e := startEdges(t)
	var running []question
	for _, w := range wires {
		for _, size := range sizes(w) {
			running = append(running, question{name: fmt.Sprintf("running, %s, %d bytes", w, size), wire: w, size: size})
		}
	}
	for i, path := range paths {
		running = append(running, question{name: "running, path " + strconv.Itoa(i), wire: http1, path: path, size: 10})
	}
	before := e.bad.names()
	var wg sync.WaitGroup
	answers := make([]reply, len(running))
	for i, q := range running {
		q.more = append(q.more, askHold, newer)
		wg.Go(func() { answers[i] = e.ask(q) })
	}
	unfinished := e.unfinished(&wg)
	eventually(t, "requests at 1.1.0", func() error {
		if n := e.bad.names() - before; n != len(running)+len(unfinished) {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	e.inFlight("shop", newer, len(running)+len(unfinished))
	e.rollback("shop")
	wg.Wait()
	for i, q := range running {
		if q.size > bufferLimit {
			e.cancelled(q, answers[i])
		} else {
			e.answeredBy(q, answers[i], e.good)
		}
		e.began(q, 1, e.bad)
	}
	for _, u := range unfinished {
		e.cancelled(u.question, *u.answer)
		e.began(u.question, 1, e.bad)
	}

	t.Run("passed on", func(t *testing.T) { e.in(t).passedOn("passed on") })
	t.Run("passed on by an Envoy that has served nothing", func(t *testing.T) {
		fresh := *e.in(t)
		fresh.through(e.world.envoy("edge-2").Address)
		fresh.passedOn("passed on afresh")
	})
	t.Run("redirects of agents", func(t *testing.T) { e.in(t).redirects() })
	t.Run("early answers", func(t *testing.T) { e.in(t).early() })
}

// in is for a subtest.
func (e *edges) in(t *testing.T) *edges {
	w := *e.world
	w.t = t
	sub := *e
	sub.world = &w
	return &sub
}

// passedOn sends every kind of request to the abandoned pool, all at once.
func (e *edges) passedOn(prefix string) {
	var all []question
	for _, w := range wires {
		for _, size := range sizes(w) {
			all = append(all, question{name: fmt.Sprintf("%s, %s, %d bytes", prefix, w, size), wire: w, size: size})
		}
	}
	for i, path := range paths {
		all = append(all, question{name: fmt.Sprintf("%s, path %d", prefix, i), wire: http1, path: path, size: 10})
	}
	answers := make([]reply, len(all))
	var wg sync.WaitGroup
	for i, q := range all {
		q.more = []string{"X-Spec-Pin", e.pins[newer]}
		wg.Go(func() { answers[i] = e.ask(q) })
	}
	wg.Wait()
	for i, q := range all {
		e.answeredBy(q, answers[i], e.good, e.bad)
	}
}

// pending is a request whose client has not sent its end.
type pending struct {
	question
	answer *reply
}

// unfinished begins requests that nobody can begin again, since they have not come to their end.
func (e *edges) unfinished(wg *sync.WaitGroup) []pending {
	var all []pending
	for _, w := range []wire{chunked, streamed} {
		p := pending{question{name: "unfinished, " + string(w), wire: w, size: 1000, more: []string{askHold, newer}}, &reply{}}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		in, out := io.Pipe()
		go func() { _, _ = out.Write(payload(p.size)) }()
		wg.Go(func() {
			defer cancel()
			defer context.AfterFunc(ctx, func() { in.Close() })() // a client whose request is not over waits for it even then
			*p.answer = e.send(ctx, p.question, in)
			in.Close()
		})
		all = append(all, p)
	}
	return all
}

// targets of agents' redirects: to its own host, by its other name, to another spec, to a stranger.
var targets = []string{
	"/next?a=b#c", "next", "//billing.agents/take",
	"http://shop.agents/next", "https://shop.agents/next?x=1#y", "http://shop.agents:8080/next", "http://SHOP.agents", "http://shop.example/next",
	"http://billing.agents/take", "https://billing.agents:443/take", "http://stranger.example/take", "",
}

// redirects lets an agent answer every redirect there is, on every way to it.
func (e *edges) redirects() {
	ways := map[string]question{
		"at once":                   {wire: http1, size: 10},
		"at once, HTTP/2":           {wire: http2, size: 10},
		"pinned":                    {wire: http1, size: 10, more: []string{"X-Spec-Pin", e.pins[older]}},
		"by its other name":         {wire: http1, size: 10, host: "shop.example"},
		"after a redirect of ours":  {wire: http1, size: 10, more: []string{"X-Spec-Pin", e.pins[newer]}},
		"after a redirect, HTTP/2":  {wire: http2, size: 10, more: []string{"X-Spec-Pin", e.pins[newer]}},
		"after forwarding":          {wire: http1, size: bufferLimit + 1, more: []string{"X-Spec-Pin", e.pins[newer]}},
		"after forwarding, HTTP/2":  {wire: streamed, size: bufferLimit + 1, more: []string{"X-Spec-Pin", e.pins[newer]}},
		"after forwarding, no end":  {wire: chunked, size: 2 * bufferLimit, more: []string{"X-Spec-Pin", e.pins[newer]}},
		"pinned, by its other name": {wire: http1, size: 10, host: "shop.example", more: []string{"X-Spec-Pin", e.pins[older]}},
	}
	before := e.billing.names()
	for way, q := range ways {
		for _, status := range []int{301, 302, 303, 307, 308} {
			for _, to := range targets {
				q := q
				q.name = fmt.Sprintf("%d to %q %s", status, to, way)
				q.more = append([]string{askStatus, strconv.Itoa(status), askTo, to}, q.more...)
				a := e.ask(q)
				e.clean(q, a)
				if a.err != nil || a.status != status || strings.Join(a.header.Values("Location"), "|") != to || a.header.Get("X-Spec-Version") != "shop:"+older {
					e.t.Errorf("%s: %v", q.name, a)
				}
				e.began(q, 1, e.good)
				e.began(q, 0, e.bad, e.billing)
			}
		}
	}
	if n := e.billing.names() - before; n != 0 {
		e.t.Errorf("the other spec's agent got %d of the requests", n)
	}
}

// early lets agents answer before they have read the request, some of which never ends.
func (e *edges) early() {
	for _, w := range []wire{http1, chunked, http2, streamed} {
		for _, pin := range []string{"", e.pins[newer]} {
			for _, status := range []int{200, 401, 413, 500} {
				q := question{name: fmt.Sprintf("%d early, %s, pinned %v", status, w, pin != ""), wire: w, size: 5 * bufferLimit, more: []string{askStatus, strconv.Itoa(status), "X-Spec-Pin", pin}}
				a := e.ask(q)
				e.clean(q, a)
				if a.err != nil || a.status != status || a.header.Get("X-Spec-Version") != "shop:"+older {
					e.t.Errorf("%s: %v", q.name, a)
				}
				e.began(q, 1, e.good)
				e.began(q, 0, e.bad)
			}
		}
	}
}
