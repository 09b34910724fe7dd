package discovery_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing/synctest"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// world is a control plane in memory. It lives in a synctest bubble, so "nothing more happens" is a fact and not a wait.
type world struct {
	t   tb
	src *source
	cp  *controlPlane
	l   *bufconn.Listener
}

func newWorld(t tb, specs ...envoy.Spec) *world {
	src := newSource(specs...)
	return worldOf(t, src)
}

func worldOf(t tb, src *source, change ...func(*discovery.Options)) *world {
	l := bufconn.Listen(1 << 20)
	return &world{t: t, src: src, cp: serveOn(t, src, l, nil, change...), l: l}
}

// client is a delta ADS client that does only what the test tells it.
type client struct {
	t      tb
	node   *corev3.Node
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	close  func()

	mu    sync.Mutex
	inbox []*discoveryv3.DeltaDiscoveryResponse
}

func (w *world) connect(node string, opts ...grpc.DialOption) *client {
	w.t.Helper()
	c := w.dial(node, opts...)
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			res, err := c.stream.Recv()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.inbox = append(c.inbox, res)
			c.mu.Unlock()
		}
	})
	hangUp := c.close
	c.close = sync.OnceFunc(func() {
		hangUp()
		reader.Wait()
		synctest.Wait()
	})
	w.t.Cleanup(c.close)
	return c
}

// dial opens a stream that nobody reads yet.
func (w *world) dial(node string, opts ...grpc.DialOption) *client {
	w.t.Helper()
	opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return w.l.DialContext(ctx) }))
	conn, err := grpc.NewClient("passthrough:memory", opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	metadata, err := structpb.NewStruct(map[string]any{envoy.MetadataListen: "127.0.0.1:10000"})
	if err != nil {
		w.t.Fatal(err)
	}
	return &client{t: w.t, node: &corev3.Node{Id: node, Metadata: metadata}, stream: stream, close: func() {
		cancel()
		conn.Close()
	}}
}

func (c *client) send(req *discoveryv3.DeltaDiscoveryRequest) {
	c.t.Helper()
	req.Node, c.node = c.node, nil // as Envoy does: with the first message only
	if err := c.stream.Send(req); err != nil {
		c.t.Fatal(err)
	}
}

// resume asks for a type with what the client has from an earlier stream, "name=version".
func (c *client) resume(typeURL string, have map[string]string, names ...string) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: names, InitialResourceVersions: have})
}

func (c *client) subscribe(typeURL string, names ...string) {
	c.t.Helper()
	c.resume(typeURL, nil, names...)
}

func (c *client) unsubscribe(typeURL string, names ...string) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesUnsubscribe: names})
}

func (c *client) ack(res *discoveryv3.DeltaDiscoveryResponse) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: res.TypeUrl, ResponseNonce: res.Nonce})
}

func (c *client) nack(res *discoveryv3.DeltaDiscoveryResponse, why string) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: res.TypeUrl, ResponseNonce: res.Nonce, ErrorDetail: &statuspb.Status{Message: why}})
}

// take waits until nothing moves any more and empties the inbox.
func (c *client) take() []*discoveryv3.DeltaDiscoveryResponse {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.inbox
	c.inbox = nil
	return out
}

// expect compares all that came since the last look with lines such as "CDS +a@1 -b@1", and returns the responses.
func (c *client) expect(want ...string) []*discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	got := c.take()
	var lines []string
	for _, res := range got {
		lines = append(lines, line(res))
	}
	if !slices.Equal(lines, want) {
		c.t.Fatalf("the client was sent %q, want %q", lines, want)
	}
	return got
}

// accept is expect, and then acknowledges all of it.
func (c *client) accept(want ...string) {
	c.t.Helper()
	for _, res := range c.expect(want...) {
		c.ack(res)
	}
}

var shortNames = map[string]string{
	envoy.TypeCluster: "CDS", envoy.TypeEndpoint: "EDS", envoy.TypeListener: "LDS", envoy.TypeScope: "SRDS", envoy.TypeRoute: "RDS",
}

func line(res *discoveryv3.DeltaDiscoveryResponse) string {
	words := []string{shortNames[res.TypeUrl]}
	for _, r := range res.Resources {
		words = append(words, "+"+r.Name)
	}
	for _, name := range res.RemovedResources {
		words = append(words, "-"+name)
	}
	return strings.Join(words, " ")
}

// ab is the spec "s" at a generation, with the versions given; the last one gets all the traffic.
func ab(generation uint64, versions ...string) envoy.Spec {
	instances := map[string][]string{}
	for i, v := range versions {
		instances[v] = []string{fmt.Sprintf("10.0.0.%d:80", i+1)}
	}
	s := specOf("s", generation, []split{{versions[len(versions)-1], 10000}}, instances)
	return s
}

// boot does what Envoy does at its start, and then asks for the routes of s.
func (c *client) boot() {
	c.t.Helper()
	c.subscribe(envoy.TypeCluster)
	c.accept("CDS")
	c.subscribe(envoy.TypeRoute, "spec/s")
}
