package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	tracesv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/envoytest"
)

const examples = "../../examples/envoy/"

var portValue = regexp.MustCompile(`port_value: (\d+)`)

// example reads a configuration from examples/envoy with other ports: those of ports, any for an admin page, and else what the system chooses.
func (e *edges) example(file string, ports map[int]string, more ...string) []byte {
	e.t.Helper()
	text, err := os.ReadFile(examples + file)
	if err != nil {
		e.t.Fatal(err)
	}
	_, ports[18000], _ = net.SplitHostPort(e.world.grpc)
	out := portValue.ReplaceAllStringFunc(string(text), func(s string) string {
		n, _ := strconv.Atoi(portValue.FindStringSubmatch(s)[1])
		if port, ok := ports[n]; ok {
			return "port_value: " + port
		}
		return "port_value: 0"
	})
	return []byte(strings.NewReplacer(more...).Replace(out))
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// deployed deploys 1.0.0 and then 1.1.0 through the Envoy, learns the pins, and rolls back.
func (e *edges) deployed() {
	e.t.Helper()
	for _, m := range []*mirror{e.good, e.bad} {
		e.deploy("shop", m.version)
		e.pins[m.version] = e.first("shop.agents")
	}
	e.rollback("shop")
}

// handedOver sends n requests to the abandoned version, which go to the good one by a redirect of ours.
func (e *edges) handedOver(n int, more ...string) {
	e.t.Helper()
	for i := range n {
		q := question{name: fmt.Sprintf("handed over %d", i), wire: wires[i%4], path: fmt.Sprintf("/handed-over/%d", i), size: 100, more: append([]string{"X-Spec-Pin", e.pins[newer]}, more...)}
		e.answeredBy(q, e.ask(q), e.good, e.bad)
	}
}

func TestExampleGeneratedConfiguration(t *testing.T) {
	e := startShop(t)
	envoy := envoytest.Start(t, envoytest.Config{Bootstrap: e.example("generated.yaml", map[int]string{}, "127.0.0.1:10000", "127.0.0.1:0")})
	e.through(envoy.Address)
	e.deployed()
	e.handedOver(4)
}

func TestExampleFragmentBesideWhatAnEnvoyHas(t *testing.T) {
	if out := fails(t, 0, nil, "xds", "bootstrap", "--fragment", "--node", "edge-1", "--listen", "127.0.0.1:10000"); !bytes.Equal([]byte(out), exampleFile(t, "fragment.yaml")) {
		t.Error("examples/envoy/fragment.yaml is not what `xds bootstrap --fragment` prints")
	}
	e := startShop(t)
	own := freeAddress(t)
	envoy := envoytest.Start(t, envoytest.Config{
		Bootstrap: e.example("existing.yaml", map[int]string{8080: port(own)}),
		Overlay:   e.example("fragment.yaml", map[int]string{}),
	})
	e.through(envoy.Address)
	e.deployed()
	e.handedOver(4)
	e.through(own)
	if a := e.ask(question{name: "own", wire: http1, host: "example.org"}); a.status != 200 || a.body != "own" {
		t.Errorf("what the Envoy did before: %v", a)
	}
	res, err := e.client.ListProxies(t.Context(), connect.NewRequest(&operatorv1.ListProxiesRequest{}))
	if err != nil || len(res.Msg.GetProxies()) != 1 {
		t.Fatalf("proxies %v: %v", res, err)
	}
	for _, p := range res.Msg.GetProxies() {
		if p.GetNode() != "edge-1" || !p.GetConnected() || p.GetRefusal() != "" {
			t.Errorf("proxy %v", p)
		}
	}
}

func exampleFile(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(examples + file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Where an example extends the fragment, all of the fragment is in it, in its order.
func TestExamplesHoldTheFragment(t *testing.T) {
	tree := func(file string) (out any) {
		if err := yaml.Unmarshal(exampleFile(t, file), &out); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		return out
	}
	fragment := tree("fragment.yaml")
	for _, file := range []string{"tls.yaml", "observe.yaml", "filters.yaml"} {
		if missing := lacks(fragment, tree(file), ""); missing != "" {
			t.Errorf("%s lacks %s of fragment.yaml", file, missing)
		}
	}
}

// lacks is the path of something in want that is not in got; "" if there is nothing.
func lacks(want, got any, path string) string {
	switch want := want.(type) {
	case map[string]any:
		has, _ := got.(map[string]any)
		for key, value := range want {
			if missing := lacks(value, has[key], path+"."+key); missing != "" {
				return missing
			}
		}
		return ""
	case []any:
		has, _ := got.([]any)
		for i, value := range want {
			for ; ; has = has[1:] {
				if len(has) == 0 {
					return fmt.Sprintf("%s[%d]", path, i)
				}
				if lacks(value, has[0], "") == "" {
					break
				}
			}
			has = has[1:]
		}
		return ""
	}
	if !reflect.DeepEqual(want, got) {
		return path
	}
	return ""
}

func TestExampleTLSAtTheEdge(t *testing.T) {
	e := startShop(t)
	id := newIdentity(t)
	secret := filepath.Join(t.TempDir(), "edge-secret.yaml")
	if err := os.WriteFile(secret, e.example("edge-secret.yaml", map[int]string{}, "edge.crt", id.cert, "edge.key", id.key), 0o600); err != nil {
		t.Fatal(err)
	}
	envoy := envoytest.Start(t, envoytest.Config{Bootstrap: e.example("tls.yaml", map[int]string{}, "edge-secret.yaml}", secret+"}")})
	pool := x509.NewCertPool()
	if raw, err := os.ReadFile(id.cert); err != nil || !pool.AppendCertsFromPEM(raw) {
		t.Fatalf("certificate: %v", err)
	}
	e.through(envoy.Address)
	e.scheme = "https"
	for two, client := range e.http {
		tr := client.Transport.(*http.Transport)
		tr.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		tr.Protocols.SetUnencryptedHTTP2(false)
		tr.Protocols.SetHTTP2(two)
	}
	e.deployed()
	e.handedOver(4)
	for _, h := range e.good.requests("handed over 0") {
		if h.Get("X-Forwarded-Proto") != "https" {
			t.Errorf("the agent is told that its client came by %q", h.Get("X-Forwarded-Proto"))
		}
	}
	e.redirects()
}

func TestExampleAccessLogsAndStatisticsByVersion(t *testing.T) {
	e := startShop(t)
	file := filepath.Join(t.TempDir(), "access.log")
	envoy := envoytest.Start(t, envoytest.Config{Bootstrap: e.example("observe.yaml", map[int]string{}, "/dev/stdout", file)})
	e.through(envoy.Address)
	e.deployed()
	e.handedOver(4)
	e.ask(question{name: "nobody", wire: http1, host: "nobody.agents", path: "/nobody"})
	var lines map[string][]map[string]any
	eventually(t, "access log", func() error {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		lines = map[string][]map[string]any{}
		for scan := bufio.NewScanner(bytes.NewReader(raw)); scan.Scan(); {
			line := map[string]any{}
			if err := json.Unmarshal(scan.Bytes(), &line); err != nil {
				return err
			}
			path, _ := line["path"].(string)
			lines[path] = append(lines[path], line)
		}
		if len(lines["/nobody"]) == 0 || len(lines["/handed-over/3"]) == 0 {
			return errors.New("the last request is not there")
		}
		return nil
	})
	for i := range 4 {
		path := fmt.Sprintf("/handed-over/%d", i)
		if l := lines[path]; len(l) != 1 || l[0]["version"] != "shop:1.0.0" || l[0]["status"] != 200.0 || l[0]["hops"] != "1" || l[0]["cluster"] != "shop@1.0.0" || l[0]["generation"] != nil {
			t.Errorf("%s is logged as %v", path, l)
		}
	}
	if l := lines["/work"]; len(l) < 2 || l[0]["version"] == nil || l[0]["generation"] == nil {
		t.Errorf("first requests are logged as %v", l)
	}
	if l := lines["/nobody"]; len(l) != 1 || l[0]["status"] != 404.0 || l[0]["version"] != nil {
		t.Errorf("an unknown host is logged as %v", l)
	}
	prometheus, err := envoy.Get(t.Context(), "/stats/prometheus")
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{older, newer} {
		want := regexp.MustCompile(`envoy_cluster_upstream_rq_total\{[^}]*spec="shop",version="` + regexp.QuoteMeta(version) + `"[^}]*\} [1-9]`)
		if !want.Match(prometheus) {
			t.Errorf("no requests of shop:%s in\n%s", version, prometheus)
		}
	}
	if n := bytes.Count(prometheus, []byte(`spec="shop"`)); n > 200 {
		t.Errorf("%d lines of statistics for two versions", n)
	}
}

func TestExampleSecondTierBehindAGateway(t *testing.T) {
	e := startShop(t)
	second := envoytest.Start(t, envoytest.Config{Bootstrap: []byte(fails(t, 0, nil, "xds", "bootstrap", "--node", "tier-2", "--listen", "127.0.0.1:0", "--control", e.world.grpc, "--trusted-hops", "1"))})
	first := envoytest.Start(t, envoytest.Config{Node: "gateway", Listener: "gateway", Bootstrap: e.example("tier/gateway.yaml", map[int]string{10000: port(second.Address)})})
	e.through(first.Address)
	e.deployed()
	e.handedOver(4, "X-Spec-Hop", "4", "X-Spec-Instance", "bm8=")
	for _, h := range e.good.requests("handed over 1") {
		if hops := strings.Split(h.Get("X-Forwarded-For"), ","); len(hops) != 2 {
			t.Errorf("the agent is told of the client and the gateway as %q", hops)
		}
	}
	e.passedOn("passed on behind a gateway")
}

func TestExampleSeveralAgentsOnOneHost(t *testing.T) {
	e := startShop(t)
	inner, front := freeAddress(t), freeAddress(t)
	ports := map[int]string{10000: port(inner), 8080: port(front)}
	envoytest.Start(t, envoytest.Config{
		Bootstrap: e.example("generated.yaml", ports, "127.0.0.1:10000", inner),
		Overlay:   e.example("prefix.yaml", ports, "customer-service", "shop"),
	})
	e.through(inner)
	e.deployed()
	e.through(front)
	for path, want := range map[string]string{
		"/shop/a/b?c=d": "1.0.0 /a/b?c=d", "/shop/": "1.0.0 /", "/shop": "1.0.0 /", "/shop?x=1": "1.0.0 /?x=1", "/billing/x": "1.0.0 /x", "/shop/a%2Fb": "1.0.0 /a%2Fb",
	} {
		for _, pin := range []string{"", e.pins[newer]} { // at once, and handed over
			q := question{name: path + pin, wire: http1, host: "agents.example.com", path: path, size: 3, more: []string{"X-Spec-Pin", pin}}
			a := e.ask(q)
			by, prefix := e.good, "/shop"
			if strings.HasPrefix(path, "/billing") {
				by, prefix = e.billing, "/billing"
			}
			if a.err != nil || a.status != 200 || a.body != want+" "+sum(payload(3)) {
				t.Errorf("%s: %v, want %q", path, a, want)
			}
			if e.began(q, 1, by); len(by.requests(q.name)) == 1 && by.requests(q.name)[0].Get("X-Forwarded-Prefix") != prefix {
				t.Errorf("%s: the agent got %v", path, by.requests(q.name)[0])
			}
		}
	}
	for _, path := range []string{"/", "/shopping", "/other/x"} {
		if a := e.ask(question{name: path, wire: http1, host: "agents.example.com", path: path}); a.status != 404 {
			t.Errorf("%s: %v", path, a)
		}
	}
}

// guards are the services that filters.yaml asks.
type guards struct {
	ratelimitv3.UnimplementedRateLimitServiceServer
	tracesv1.UnimplementedTraceServiceServer

	limited atomic.Int64
	mu      sync.Mutex
	asked   map[string]int // authorization, by path
	spans   []*tracev1.Span
}

func (g *guards) ShouldRateLimit(context.Context, *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	g.limited.Add(1)
	return &ratelimitv3.RateLimitResponse{OverallCode: ratelimitv3.RateLimitResponse_OK}, nil
}

func (g *guards) Export(_ context.Context, in *tracesv1.ExportTraceServiceRequest) (*tracesv1.ExportTraceServiceResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range in.GetResourceSpans() {
		for _, s := range r.GetScopeSpans() {
			g.spans = append(g.spans, s.GetSpans()...)
		}
	}
	return &tracesv1.ExportTraceServiceResponse{}, nil
}

func (g *guards) authorize(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked[r.URL.Path]++
	if r.Header.Get("Authorization") != "Bearer of-the-client" {
		w.WriteHeader(http.StatusForbidden)
	}
}

// start serves authorization and, on another port, rate limits and traces.
func (g *guards) start(t *testing.T) (authz, rest string) {
	t.Helper()
	a, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs, gs := &http.Server{Handler: http.HandlerFunc(g.authorize)}, grpc.NewServer()
	ratelimitv3.RegisterRateLimitServiceServer(gs, g)
	tracesv1.RegisterTraceServiceServer(gs, g)
	var served sync.WaitGroup
	served.Go(func() { _ = hs.Serve(a) })
	served.Go(func() { _ = gs.Serve(b) })
	t.Cleanup(func() {
		hs.Close()
		gs.Stop()
		served.Wait()
	})
	return a.Addr().String(), b.Addr().String()
}

// What stands in front of the agents is asked once for each request, also for one that is handed over.
func TestExampleFiltersCountAHandOverOnce(t *testing.T) {
	e := startShop(t)
	g := &guards{asked: map[string]int{}}
	authz, rest := g.start(t)
	envoy := envoytest.Start(t, envoytest.Config{Bootstrap: e.example("filters.yaml", map[int]string{9191: port(authz), 9192: port(rest), 4317: port(rest)})})
	e.through(envoy.Address)
	e.deploy("shop", older)
	// The very first request waits for its routes, and is begun again when they have come. Before Envoy knows the host it answers 404, and asks nobody.
	var a reply
	eventually(t, "the host to be known", func() error {
		if a = e.ask(question{name: "first of all", wire: http1, path: "/first-of-all"}); a.status == http.StatusNotFound {
			return fmt.Errorf("%v", a)
		}
		return nil
	})
	if a.status != 200 || g.asked["/first-of-all"] != 1 || g.limited.Load() != 1 {
		t.Errorf("%v; authorization was asked %d times, the rate limit %d", a, g.asked["/first-of-all"], g.limited.Load())
	}
	e.deployed()
	before, beforeLocal, beforeAll := g.limited.Load(), e.stat(envoy, "agents.http_local_rate_limit.ok"), e.stat(envoy, "http.agents.downstream_rq_completed")
	const n = 8
	e.handedOver(n)
	for i := range n {
		if path := fmt.Sprintf("/handed-over/%d", i); g.asked[path] != 1 {
			t.Errorf("authorization was asked %d times for %s", g.asked[path], path)
		}
	}
	if got := g.limited.Load() - before; got != n {
		t.Errorf("the rate limit service counted %d of %d", got, n)
	}
	// Envoy's own counters: of the local rate limit, of clients, and at the abandoned version. Envoy may count an answer after the client has it.
	eventually(t, "Envoy's counters", func() error {
		local, answers := e.stat(envoy, "agents.http_local_rate_limit.ok")-beforeLocal, e.stat(envoy, "http.agents.downstream_rq_completed")-beforeAll
		redirects := e.stat(envoy, "cluster.shop@"+newer+".upstream_internal_redirect_succeeded_total")
		if local != n || answers != n || redirects != n {
			return fmt.Errorf("%d passed the local rate limit, %d answers to clients, %d redirects followed, want %d of each", local, answers, redirects, n)
		}
		return nil
	})
	// No client gets past them by naming a hop.
	for _, hop := range []string{"", "1", "4"} {
		q := question{name: "no right " + hop, wire: http1, path: "/no-right", more: []string{"Authorization", "none", "X-Spec-Hop", hop, "X-Spec-Pin", e.pins[older]}}
		if a := e.ask(q); a.status != http.StatusForbidden {
			t.Errorf("%s: %v", q.name, a)
		}
		e.began(q, 0, e.good)
	}
	// One span for each request, that of its first pass, and with Envoy 1.36 one of the second pass too; whoever answers in the end gets the same trace.
	eventually(t, "spans", func() error {
		g.mu.Lock()
		defer g.mu.Unlock()
		byTrace := map[string]string{} // to the status
		for _, s := range g.spans {
			attributes := map[string]string{}
			for _, a := range s.GetAttributes() {
				attributes[a.GetKey()] = a.GetValue().GetStringValue()
			}
			if strings.Contains(attributes["http.url"], "/handed-over/") {
				byTrace[hex.EncodeToString(s.GetTraceId())] += attributes["http.status_code"]
			}
		}
		if len(byTrace) != n {
			return fmt.Errorf("%d traces", len(byTrace))
		}
		for i := range n {
			parent := strings.Split(e.good.requests(fmt.Sprintf("handed over %d", i))[0].Get("Traceparent"), "-")
			if len(parent) != 4 || !slices.Contains([]string{"307", "307200", "200307"}, byTrace[parent[1]]) {
				return fmt.Errorf("the agent got the trace %v; traces: %v", parent, byTrace)
			}
		}
		return nil
	})
}

func (e *edges) stat(envoy *envoytest.Envoy, name string) uint64 {
	e.t.Helper()
	n, err := envoy.Stat(e.t.Context(), name)
	if err != nil {
		e.t.Fatal(err)
	}
	return n
}

// What the snippets strip of a client's headers is what the fragment strips.
func TestSnippetsStripWhatTheFragmentStrips(t *testing.T) {
	regexes := regexp.MustCompile(`regex: (x-(?:spec|envoy)-.*)`)
	want := fmt.Sprintf("%q", regexes.FindAllSubmatch(exampleFile(t, "fragment.yaml"), -1))
	for _, file := range []string{"tier/envoyfilter.yaml", "tier/envoypatchpolicy.yaml"} {
		if got := fmt.Sprintf("%q", regexes.FindAllSubmatch(exampleFile(t, file), -1)); got != want {
			t.Errorf("%s strips %s, want %s", file, got, want)
		}
		var tree any
		if err := yaml.Unmarshal(exampleFile(t, file), &tree); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}
