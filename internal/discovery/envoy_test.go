package discovery_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// agent is a fake sidecar with its agent: it answers with its name unless handle is set, and remembers the requests.
type agent struct {
	name    string
	Address string
	mu      sync.Mutex
	seen    []*http.Request
	handle  http.HandlerFunc
}

func newAgent(t *testing.T, name string) *agent {
	t.Helper()
	a := &agent{name: name}
	s := httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(s.Close)
	a.Address = s.Listener.Addr().String()
	return a
}

func (a *agent) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.seen = append(a.seen, r)
	handle := a.handle
	a.mu.Unlock()
	if handle != nil {
		handle(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	fmt.Fprintf(w, "%s %s", a.name, body)
}

func (a *agent) answer(h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.handle = h
}

func (a *agent) requests() []*http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]*http.Request(nil), a.seen...)
}

// reply is what a client got.
type reply struct {
	status int
	body   string
	header http.Header
}

// ask sends one request through Envoy; header is key, value, key, value.
func ask(t *testing.T, e *envoytest.Envoy, method, host, path, body string, header ...string) reply {
	t.Helper()
	r, err := try(t.Context(), e, method, host, path, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func try(ctx context.Context, e *envoytest.Envoy, method, host, path, body string, header ...string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+e.Address+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Host = host
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := direct.RoundTrip(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return reply{status: res.StatusCode, body: string(text), header: res.Header}, err
}

// direct follows no redirect.
var direct = &http.Transport{MaxIdleConnsPerHost: 64}

func pin(spec, version string) string { return routing.Pin([]byte("test"), spec, version) }

const (
	shop     = "customer-service"
	shopHost = "customer-service.agents"
)

// twoVersions is a spec with one agent for each of 2.0.3 (all the traffic) and 2.1.0.
func twoVersions(t *testing.T) (spec envoy.Spec, older, newer *agent) {
	older, newer = newAgent(t, "2.0.3"), newAgent(t, "2.1.0")
	return specOf(shop, 1, []split{{"2.0.3", 10000}, {"2.1.0", 0}},
		map[string][]string{"2.0.3": {older.Address}, "2.1.0": {newer.Address}}), older, newer
}

func wantReply(t *testing.T, got reply, status int, body string) {
	t.Helper()
	if got.status != status || body != "" && got.body != body {
		t.Errorf("got %d %q, want %d %q", got.status, got.body, status, body)
	}
}

func TestEnvoyFetchesARouteWithItsFirstRequestAndFollowsEveryFlip(t *testing.T) {
	spec, _, _ := twoVersions(t)
	src := newSource(spec)
	cp := serve(t, src, "")
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})

	if effect := cp.Effect(shop, 1); effect.Total() != 0 {
		t.Errorf("an Envoy without traffic for the spec counts: %+v", effect)
	}
	wantReply(t, ask(t, e, "POST", shopHost, "/", "first"), 200, "2.0.3 first")
	cp.effective(t, shop, 1, 1)
	for generation := uint64(2); generation < 12; generation++ {
		to, weights := "2.1.0", []split{{"2.0.3", 0}, {"2.1.0", 10000}}
		if generation%2 == 1 {
			to, weights = "2.0.3", []split{{"2.0.3", 10000}, {"2.1.0", 0}}
		}
		src.edit(shop, route(generation, weights...))
		cp.effective(t, shop, generation, 1)
		wantReply(t, ask(t, e, "POST", shopHost+":8080", "/", "x"), 200, to+" x")
	}
	wantReply(t, ask(t, e, "GET", shopHost, "/", "", "x-spec-pin", pin(shop, "2.1.0")), 200, "2.1.0 ")
	wantReply(t, ask(t, e, "GET", shopHost, "/", "", "x-spec-pin", "guessed"), 200, "2.0.3 ")
}

func TestUnknownHostIs404(t *testing.T) {
	spec, _, _ := twoVersions(t)
	src := newSource(spec, envoy.Spec{Name: "unrouted", Hosts: []string{"unrouted.agents"}})
	cp := serve(t, src, "", routeWait)
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	for _, host := range []string{"nobody.agents", "unrouted.agents", ":80"} {
		wantReply(t, ask(t, e, "GET", host, "/", ""), 404, "")
	}
	served(t, e, shopHost)

	// Just removed: first one that was in use, then one that never was.
	other := spec
	other.Name, other.Hosts = "other", []string{"other.agents"}
	other.Route.Spec = "other"
	src.put(other)
	src.remove(shop)
	eventually(t, "the host is gone", cp.Changes, func() bool { return cp.Effect(shop, 1).Total() == 0 })
	wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 404, "")
	src.remove("other")
	eventually(t, "the scope is gone", cp.pushes.changes, func() bool { return cp.pushes.removed(envoy.TypeScope, "other.agents") })
	eventually(t, "404", ticking(), func() bool { return ask(t, e, "GET", "other.agents", "/", "").status == 404 })
}

// routeWait keeps a request that Envoy has forgotten from holding up a test. On a busy machine routes may come later: served waits for them.
func routeWait(o *discovery.Options) { o.Listener.RouteWait = 200 * time.Millisecond }

func served(t *testing.T, e *envoytest.Envoy, host string, header ...string) {
	t.Helper()
	eventually(t, host+" is served", ticking(), func() bool { return ask(t, e, "GET", host, "/", "", header...).status == 200 })
}

// Envoy forgets a request that waits for the routes of a host when the host goes. It must still be answered, and soon.
func TestARequestWhoseHostGoesWhileItWaitsIsAnswered(t *testing.T) {
	spec, _, _ := twoVersions(t)
	src := newSource()
	cp := serve(t, src, "", routeWait)
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	for generation := range uint64(20) {
		spec.Route.Generation = generation + 1
		src.put(spec)
		served(t, e, shopHost)
		src.remove(shop)
		if r := ask(t, e, "GET", shopHost, "/", ""); r.status != 200 && r.status != 404 && r.status != 503 && r.status != 504 {
			t.Errorf("got %d %q", r.status, r.body)
		}
		eventually(t, "the host is unknown", ticking(), func() bool { return ask(t, e, "GET", shopHost, "/", "").status == 404 })
	}
}

func TestASilentStreamIsNotCut(t *testing.T) {
	const routeWait = time.Second // longer than routes take to come
	spec, older, _ := twoVersions(t)
	older.answer(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "begin ")
		_ = http.NewResponseController(w).Flush()
		silence := time.NewTimer(2 * routeWait)
		defer silence.Stop()
		select {
		case <-silence.C:
			fmt.Fprint(w, "end")
		case <-r.Context().Done():
		}
	})
	cp := serve(t, newSource(spec), "", func(o *discovery.Options) { o.Listener.RouteWait = routeWait })
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	for range 2 { // the first one waits for its routes, too
		wantReply(t, ask(t, e, "POST", shopHost, "/", "x"), 200, "begin end")
	}
}

func TestClientsCannotSpeakForTheSidecarsOrForEnvoy(t *testing.T) {
	spec, older, _ := twoVersions(t)
	cp := serve(t, newSource(spec), "")
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	forged := []string{
		"x-spec-instance", "x-spec-route", "x-spec-buffer", "x-spec-deadline", "x-spec-hop", "x-spec-origin", "x-spec-outcome",
		"x-spec-effects", "x-spec-version", "x-spec-digest", "x-spec-rollback", "x-spec-p", "x-spec-pi", "x-spec-pins", "x-spec-pan", "x-spec-",
		"x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-retriable-status-codes", "x-envoy-upstream-rq-timeout-ms", "x-envoy-hedge-on-per-try-timeout",
	}
	var header []string
	for _, name := range forged {
		header = append(header, name, "forged")
	}
	header = append(header, "x-spec-pin", "guessed", "x-execution-id", "mine")
	wantReply(t, ask(t, e, "GET", shopHost, "/", "", header...), 200, "2.0.3 ")
	got := older.requests()[0].Header
	for _, name := range forged {
		if got.Get(name) == "forged" {
			t.Errorf("%s reached the sidecar", name)
		}
	}
	for name, want := range map[string]string{
		"x-spec-route": "1", "x-spec-buffer": "1048576", "x-spec-pin": "guessed", "x-execution-id": "mine",
	} {
		if got.Get(name) != want {
			t.Errorf("%s is %q at the sidecar, want %q", name, got.Get(name), want)
		}
	}
	ask(t, e, "GET", shopHost, "/", "", "x-spec-pin", pin(shop, "2.0.3"), "x-spec-route", "forged")
	if got := older.requests()[1].Header.Values("x-spec-route"); len(got) != 0 {
		t.Errorf("a pinned request carries the generation %q", got)
	}

	// With a client's retry headers a failing agent would be asked again.
	older.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	before := len(older.requests())
	wantReply(t, ask(t, e, "POST", shopHost, "/", "pay", "x-envoy-retry-on", "5xx", "x-envoy-max-retries", "3"), 503, "")
	if n := len(older.requests()) - before; n != 1 {
		t.Errorf("one request was executed %d times", n)
	}
}

// redirectTo is how a sidecar hands a request over to a version, and to one of its instances if that is named.
func redirectTo(version, instance string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // Envoy re-sends only what has ended
		w.Header().Set("Location", "http://"+r.Host+r.URL.RequestURI())
		w.Header().Set("x-spec-pin", pin(shop, version))
		w.Header().Set("x-spec-deadline", "2026-11-20T14:00:00Z")
		w.Header().Set("x-spec-hop", "1")
		w.Header().Set("x-spec-origin", "e1")
		if instance != "" {
			w.Header().Set("x-spec-instance", instance)
		}
		w.WriteHeader(307)
	}
}

func TestHandOverReachesTheTargetWithTheBody(t *testing.T) {
	spec, older, newer := twoVersions(t)
	spec.Route.Splits[0].Version = "2.1.0"
	second := newAgent(t, "2.0.3 second")
	spec.Pools[0].Instances = append(spec.Pools[0].Instances,
		routing.Instance{ID: "second", Address: second.Address, Health: routing.Leaving})
	spec.BodyBuffer = 4 << 20
	cp := serve(t, newSource(spec), "")
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	body := strings.Repeat("x", 3<<20)
	newer.answer(redirectTo("2.0.3", ""))
	got := ask(t, e, "POST", shopHost, "/refunds?id=1", body)
	if got.status != 200 || got.body != "2.0.3 "+body {
		t.Fatalf("got %d, %d bytes beginning with %.40q", got.status, len(got.body), got.body)
	}
	at := older.requests()[0]
	for name, want := range map[string]string{
		"x-spec-hop": "1", "x-spec-origin": "e1", "x-spec-deadline": "2026-11-20T14:00:00Z", "x-spec-pin": pin(shop, "2.0.3"), "x-spec-route": "",
	} {
		if at.Header.Get(name) != want {
			t.Errorf("%s is %q at the target, want %q", name, at.Header.Get(name), want)
		}
	}
	if at.Method != "POST" || at.URL.RequestURI() != "/refunds?id=1" || at.Host != shopHost {
		t.Errorf("target got %s %s%s", at.Method, at.Host, at.URL)
	}
	for _, name := range []string{"x-spec-instance", "x-spec-hop", "x-spec-origin", "x-spec-deadline"} {
		if v := got.header.Get(name); v != "" {
			t.Errorf("the client is shown %s: %s", name, v)
		}
	}

	// To one named instance, though it is draining; load balancing never chooses it.
	newer.answer(redirectTo("2.0.3", routing.InstanceKey(second.Address)))
	for range 20 {
		wantReply(t, ask(t, e, "POST", shopHost, "/", "b"), 200, "2.0.3 second b")
		wantReply(t, ask(t, e, "POST", shopHost, "/", "b", "x-spec-pin", pin(shop, "2.0.3")), 200, "2.0.3 b")
	}
}

// A sidecar hides its agent's redirect from Envoy's router, and Envoy shows it to the client.
func TestAHiddenRedirectReachesTheClient(t *testing.T) {
	spec, older, _ := twoVersions(t)
	other := specOf("billing", 1, []split{{"1.0.0", 10000}}, map[string][]string{"1.0.0": {newAgent(t, "billing").Address}})
	cp := serve(t, newSource(spec, other), "")
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	wantReply(t, ask(t, e, "GET", "billing.agents", "/", ""), 200, "billing ")
	for _, location := range []string{"http://" + shopHost + "/x", "http://billing.agents/x", "https://example.com/x", "/x"} {
		older.answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("x-spec-location", location)
			w.WriteHeader(307)
		})
		for _, pinned := range []string{"", pin(shop, "2.0.3")} {
			got := ask(t, e, "GET", shopHost, "/", "", "x-spec-pin", pinned)
			if got.status != 307 || got.header.Get("Location") != location || got.header.Get("x-spec-location") != "" {
				t.Errorf("redirect to %s: client got %d %v", location, got.status, got.header)
			}
		}
	}
}

func TestDrainingEndpointGetsNoNewWork(t *testing.T) {
	spec, _, _ := twoVersions(t)
	leaving := newAgent(t, "leaving")
	spec.Pools[0].Instances = append(spec.Pools[0].Instances, routing.Instance{ID: "l", Address: leaving.Address, Health: routing.Ready})
	src := newSource(spec)
	cp := serve(t, src, "")
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	eventually(t, "traffic on both", ticking(), func() bool {
		ask(t, e, "GET", shopHost, "/", "")
		return len(leaving.requests()) > 0
	})
	src.edit(shop, func(s *envoy.Spec) {
		pool := s.Pools[0]
		pool.Instances = append([]routing.Instance(nil), pool.Instances...)
		pool.Instances[1].Health = routing.Leaving
		s.Pools[0] = pool
	})
	if err := cp.EndpointGone(t.Context(), shop, "2.0.3", leaving.Address); err != nil {
		t.Fatal(err)
	}
	before := len(leaving.requests())
	for range 50 {
		wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "2.0.3 ")
	}
	if n := len(leaving.requests()) - before; n != 0 {
		t.Errorf("%d of 50 requests went to the draining instance", n)
	}
}

func TestReconnectPushesNothing(t *testing.T) {
	spec, _, _ := twoVersions(t)
	src := newSource(spec)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	cp := serveOn(t, src, l, nil)
	relay := envoytest.NewRelay(t, address)
	e := envoytest.Start(t, envoytest.Config{Servers: []string{relay.Address}})
	wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "2.0.3 ")
	cp.effective(t, shop, 1, 1)

	// The same server, a new stream.
	before := len(cp.pushes.list())
	relay.Cut()
	eventually(t, "gone", cp.Changes, func() bool { return len(cp.Effect(shop, 1).Gone) == 1 })
	bytes := relay.Down()
	relay.Mend(address)
	cp.effective(t, shop, 1, 1)
	if n, lines := cp.pushes.resources(before); n != 0 {
		t.Errorf("reconnect pushed %d resources: %v", n, lines)
	}
	if n := relay.Down() - bytes; n > 2000 {
		t.Errorf("reconnect sent %d bytes", n)
	}

	// A new server on the same port, which knows the proxy from its records alone.
	cp.stop()
	wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "2.0.3 ")
	again := serve(t, src, address)
	if gone := again.Effect(shop, 1); len(gone.Gone)+len(gone.Acked)+len(gone.Pending) != 1 {
		t.Errorf("a proxy that was there before the restart is forgotten: %+v", gone)
	}
	again.effective(t, shop, 1, 1)
	if n, lines := again.pushes.resources(0); n != 0 {
		t.Errorf("a restart pushed %d resources: %v", n, lines)
	}
	src.edit(shop, route(2, split{"2.0.3", 0}, split{"2.1.0", 10000}))
	again.effective(t, shop, 2, 1)
	wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "2.1.0 ")
}

// spoiled sends resources of one type that Envoy cannot accept while on is set.
type spoiled struct {
	grpc.ServerStream
	typeURL string
	on      *atomic.Bool
}

func (s spoiled) SendMsg(m any) error {
	res := m.(*discoveryv3.DeltaDiscoveryResponse)
	if res.TypeUrl == s.typeURL && s.on.Load() {
		res = proto.CloneOf(res)
		for _, r := range res.Resources {
			r.Resource.Value = []byte("no protobuf")
		}
	}
	return s.ServerStream.SendMsg(res)
}

func TestRefusedByEnvoyIsReportedAndTheLastGoodStays(t *testing.T) {
	spec, _, _ := twoVersions(t)
	src := newSource(spec)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var on atomic.Bool
	cp := serveOn(t, src, l, []grpc.ServerOption{grpc.StreamInterceptor(
		func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(srv, spoiled{ss, envoy.TypeRoute, &on})
		})})
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "2.0.3 ")
	cp.effective(t, shop, 1, 1)
	on.Store(true)
	src.edit(shop, route(2, split{"2.0.3", 0}, split{"2.1.0", 10000}))
	eventually(t, "refusal", cp.Changes, func() bool { return len(cp.Effect(shop, 2).Refused) == 1 })
	refused := cp.Effect(shop, 2).Refused[0]
	if refused.Node != e.Node || refused.Refusal == "" || refused.Generation != 1 {
		t.Errorf("refusal is reported as %+v", refused)
	}
	if p := cp.Proxies(); len(p) != 1 || !strings.Contains(p[0].Refusal, refused.Refusal) || !strings.HasPrefix(p[0].Version, "envoy 1.") {
		t.Errorf("proxies: %+v", p)
	}
	wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "2.0.3 ")
	on.Store(false)
	src.edit(shop, route(3, split{"2.0.3", 0}, split{"2.1.0", 10000}))
	cp.effective(t, shop, 3, 1)
	wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "2.1.0 ")
}
