package discovery_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/xds"
	"google.golang.org/protobuf/proto"

	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// grpcAgent is a gRPC server that says who it is in a header.
type grpcAgent struct {
	grpc_health_v1.UnimplementedHealthServer
	name, Address string
	calls         atomic.Int64
	release       chan struct{} // if set, a call waits for it
}

func newGRPCAgent(t *testing.T, name string) *grpcAgent {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &grpcAgent{name: name, Address: l.Addr().String()}
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, a)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) }) // ends with Stop
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
	return a
}

func (a *grpcAgent) Check(ctx context.Context, req *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	a.calls.Add(1)
	if req.GetService() == "wait" {
		select {
		case <-a.release:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &grpc_health_v1.HealthCheckResponse{}, grpc.SetHeader(ctx, metadata.Pairs("served-by", a.name))
}

// goClient is a Go program that dials xds:///TARGET with grpc-go's own resolver.
type goClient struct {
	t *testing.T
	grpc_health_v1.HealthClient
	close func()
}

func newGoClient(t *testing.T, control, node, target string) *goClient {
	t.Helper()
	builder, err := xds.NewXDSResolverWithConfigForTesting(fmt.Appendf(nil,
		`{"xds_servers": [{"server_uri": %q, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}], "node": {"id": %q}}`, control, node))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///"+target, grpc.WithResolvers(builder), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	c := &goClient{t: t, HealthClient: grpc_health_v1.NewHealthClient(conn), close: sync.OnceFunc(func() { conn.Close() })}
	t.Cleanup(c.close)
	return c
}

// ask makes one call and returns who answered. md is key, value, …
func (c *goClient) ask(md ...string) (string, error) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(c.t.Context(), md...), time.Minute)
	defer cancel()
	var header metadata.MD
	_, err := c.Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.Header(&header), grpc.WaitForReady(true))
	if err != nil {
		return "", err
	}
	return header.Get("served-by")[0], nil
}

// shares makes n calls and counts who answered.
func (c *goClient) shares(n int) map[string]int {
	c.t.Helper()
	out := map[string]int{}
	for range n {
		who, err := c.ask()
		if err != nil {
			c.t.Fatal(err)
		}
		out[who]++
	}
	return out
}

// twoGRPCVersions is a spec whose 2.0.3 has all the traffic and 2.1.0 none.
func twoGRPCVersions(t *testing.T) (spec envoy.Spec, older, newer *grpcAgent) {
	older, newer = newGRPCAgent(t, "2.0.3"), newGRPCAgent(t, "2.1.0")
	return specOf(shop, 1, []split{{"2.0.3", 10000}, {"2.1.0", 0}},
		map[string][]string{"2.0.3": {older.Address}, "2.1.0": {newer.Address}}), older, newer
}

func TestAGoClientWithoutAProxyFollowsWeightsAndRollbacks(t *testing.T) {
	spec, older, newer := twoGRPCVersions(t)
	newer.release = make(chan struct{})
	src := newSource(spec)
	cp := serve(t, src, "")
	c := newGoClient(t, cp.Address, "go-1", shopHost)
	if got := c.shares(20); got["2.0.3"] != 20 {
		t.Errorf("before: %v", got)
	}
	cp.effective(t, shop, 1, 1)
	if p := cp.Proxies(); len(p) != 1 || p[0].Node != "go-1" || p[0].Version != "gRPC Go "+grpc.Version || p[0].Specs[0].Generation != 1 {
		t.Errorf("proxies: %+v", p)
	}

	src.edit(shop, route(2, split{"2.0.3", 7500}, split{"2.1.0", 2500}))
	cp.effective(t, shop, 2, 1)
	// Acknowledged comes a moment before used: gRPC first connects to the new endpoints.
	eventually(t, "the canary is used", ticking(), func() bool { return c.shares(1)["2.1.0"] > 0 })
	if got := c.shares(1000); got["2.1.0"] < 150 || got["2.1.0"] > 350 {
		t.Errorf("a quarter: %v", got)
	}

	src.edit(shop, route(3, split{"2.0.3", 0}, split{"2.1.0", 10000}))
	cp.effective(t, shop, 3, 1)
	eventually(t, "all on the canary", ticking(), func() bool { return c.shares(10)["2.1.0"] == 10 })

	// What runs when the version is abandoned runs to its end; nothing new begins there, and nobody sees an error.
	running := make(chan error, 1)
	go func() {
		_, err := c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "wait"})
		running <- err
	}()
	before := newer.calls.Load()
	eventually(t, "it runs", ticking(), func() bool { return newer.calls.Load() > before })
	src.edit(shop, func(s *envoy.Spec) {
		route(4, split{"2.0.3", 10000})(s)
		s.Pools = s.Pools[:1] // gone from the catalog at once
	})
	cp.effective(t, shop, 4, 1)
	eventually(t, "all on the good version", ticking(), func() bool { return c.shares(10)["2.0.3"] == 10 })
	if got := c.shares(200); got["2.0.3"] != 200 {
		t.Errorf("after the rollback: %v", got)
	}
	close(newer.release)
	if err := <-running; err != nil {
		t.Errorf("what ran under the abandoned version: %v", err)
	}

	// An instance joins, another leaves.
	second := newGRPCAgent(t, "second")
	src.edit(shop, func(s *envoy.Spec) {
		*s = specOf(shop, 4, []split{{"2.0.3", 10000}}, map[string][]string{"2.0.3": {older.Address, second.Address}})
	})
	eventually(t, "traffic on both", ticking(), func() bool { return c.shares(1)["second"] > 0 })
	src.edit(shop, func(s *envoy.Spec) {
		*s = specOf(shop, 4, []split{{"2.0.3", 10000}}, map[string][]string{"2.0.3": {second.Address}})
	})
	if err := cp.EndpointGone(t.Context(), shop, "2.0.3", older.Address); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other one has all", ticking(), func() bool { return c.shares(10)["second"] == 10 })
}

func TestAGoClientReachesTheVersionOfItsPinAndTheSpecByAnyOfItsNames(t *testing.T) {
	spec, _, _ := twoGRPCVersions(t)
	spec.Hosts = append(spec.Hosts, "support.example")
	cp := serve(t, newSource(spec), "")
	for _, target := range []string{shop, shopHost, shopHost + ":8080", "support.example"} {
		c := newGoClient(t, cp.Address, "go-1", target)
		if who, err := c.ask(); err != nil || who != "2.0.3" {
			t.Errorf("xds:///%s: %s answered, %v", target, who, err)
		}
		if who, err := c.ask("x-spec-pin", pin(shop, "2.1.0")); err != nil || who != "2.1.0" {
			t.Errorf("xds:///%s with a pin: %s answered, %v", target, who, err)
		}
		c.close()
	}
	c := newGoClient(t, cp.Address, "go-2", "nobody.agents")
	// gRPC itself says that a name does not exist only 15 s after it has asked for it.
	brief, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := c.Check(brief, &grpc_health_v1.HealthCheckRequest{}); err == nil {
		t.Error("an unknown host was served")
	}
}

func TestAReconnectingGoClientIsSentNothingAndNeverTakenBack(t *testing.T) {
	spec, _, _ := twoGRPCVersions(t)
	src := newSource(spec)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cp := serveOn(t, src, l, nil)
	relay := envoytest.NewRelay(t, cp.Address)
	c := newGoClient(t, relay.Address, "go-1", shopHost)
	c.shares(1)
	src.edit(shop, route(5, split{"2.0.3", 10000}))
	cp.effective(t, shop, 5, 1)

	before := len(cp.pushes.list())
	relay.Cut()
	eventually(t, "gone", cp.Changes, func() bool { return len(cp.Effect(shop, 5).Gone) == 1 })
	relay.Mend(cp.Address)
	cp.effective(t, shop, 5, 1)
	if n, lines := cp.pushes.resources(before); n != 0 {
		t.Errorf("a reconnect pushed %d resources: %v", n, lines)
	}
	c.shares(1)

	// A replica that lags: it knows generation 4 at first, when the client has 5.
	behind := newSource(spec)
	behind.edit(shop, route(4, split{"2.1.0", 10000}))
	other := serve(t, behind, "")
	relay.Cut()
	relay.Mend(other.Address)
	other.effective(t, shop, 5, 1)
	if got := c.shares(50); got["2.0.3"] != 50 {
		t.Errorf("a replica that lags took the client back: %v", got)
	}
	behind.edit(shop, route(6, split{"2.1.0", 10000}))
	other.effective(t, shop, 6, 1)
	eventually(t, "the newest", ticking(), func() bool { return c.shares(10)["2.1.0"] == 10 })
}

// spoiledWhole is spoiled for the other variant.
type spoiledWhole struct {
	grpc.ServerStream
	on *atomic.Bool
}

func (s spoiledWhole) SendMsg(m any) error {
	res := m.(*discoveryv3.DiscoveryResponse)
	if res.TypeUrl == envoy.TypeRoute && s.on.Load() {
		res = proto.CloneOf(res)
		for _, r := range res.Resources {
			r.Value = []byte("no protobuf")
		}
	}
	return s.ServerStream.SendMsg(res)
}

func TestWhatAGoClientRefusesIsReportedAndTheLastGoodStays(t *testing.T) {
	spec, _, _ := twoGRPCVersions(t)
	src := newSource(spec)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var on atomic.Bool
	cp := serveOn(t, src, l, []grpc.ServerOption{grpc.StreamInterceptor(
		func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(srv, spoiledWhole{ss, &on})
		})})
	c := newGoClient(t, cp.Address, "go-1", shopHost)
	c.shares(1)
	cp.effective(t, shop, 1, 1)
	on.Store(true)
	src.edit(shop, route(2, split{"2.1.0", 10000}))
	eventually(t, "refusal", cp.Changes, func() bool { return len(cp.Effect(shop, 2).Refused) == 1 })
	if r := cp.Effect(shop, 2).Refused[0]; r.Node != "go-1" || r.Refusal == "" || r.Generation != 1 {
		t.Errorf("refusal: %+v", r)
	}
	if got := c.shares(20); got["2.0.3"] != 20 {
		t.Errorf("it does not go on by the last good route: %v", got)
	}
	on.Store(false)
	src.edit(shop, route(3, split{"2.1.0", 10000}))
	cp.effective(t, shop, 3, 1)
	eventually(t, "the next one", ticking(), func() bool { return c.shares(10)["2.1.0"] == 10 })
}

func TestAStreamWithoutANodeIsRefusedWithWhatToDo(t *testing.T) {
	cp := serve(t, newSource(), "")
	conn, err := grpc.NewClient(cp.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&discoveryv3.DiscoveryRequest{TypeUrl: envoy.TypeListener}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil || status.Code(err) != codes.InvalidArgument {
		t.Errorf("err = %v", err)
	}
}
