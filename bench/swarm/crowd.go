package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/specproxy/specproxy/bench/rig"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// window is at least what makes gRPC's clients keep it as it is, instead of measuring the line with a ping for every message: Envoy does not.
const window = 64 << 10

// crowd is all clients. What they share is counted here.
type crowd struct {
	address    string
	routesOnly bool
	members    []*member
	ctx        context.Context // of the connections that stand
	cancel     context.CancelFunc
	running    sync.WaitGroup

	bytes, pushes, resources atomic.Int64

	mu sync.Mutex
	// armed are the arrivals of the route that is waited for; missing counts clients without: of a route since armed, of a first answer since
	// connected, and of a route at all.
	arrivals                     []int64
	armed                        int
	unrouted, unanswered, absent int
	moved                        chan struct{}
	failed                       error
}

// member is one client: what it has, by type and name. Its own goroutine alone touches that.
type member struct {
	crowd *crowd
	node  string
	have  map[string]map[string]string
	armed atomic.Int64 // the number of the route that it waits for has come when this is the crowd's
}

func newCrowd(address string, streams int, routesOnly bool) *crowd {
	c := &crowd{address: address, routesOnly: routesOnly, absent: streams, moved: make(chan struct{})}
	for i := range streams {
		m := &member{crowd: c, node: fmt.Sprintf("e-%05d", i), have: map[string]map[string]string{}}
		for _, typeURL := range []string{envoy.TypeCluster, envoy.TypeEndpoint, envoy.TypeListener, envoy.TypeScope, envoy.TypeRoute} {
			m.have[typeURL] = map[string]string{}
		}
		c.members = append(c.members, m)
	}
	return c
}

// connect starts all clients at once.
func (c *crowd) connect(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		return errors.New("the clients are connected")
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.unanswered = len(c.members)
	for _, m := range c.members {
		c.running.Go(func() {
			if err := m.run(c.ctx); err != nil && c.ctx.Err() == nil {
				c.fail(fmt.Errorf("%s: %w", m.node, err))
			}
		})
	}
	return nil
}

// drop cuts all connections, as a network does that fails: without a goodbye.
func (c *crowd) drop() {
	c.mu.Lock()
	cancel := c.cancel
	c.cancel = nil
	c.mu.Unlock()
	if cancel != nil {
		cancel()
		c.running.Wait()
	}
}

func (c *crowd) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = errors.Join(c.failed, err)
	c.move()
}

// move wakes whoever waits; the caller holds mu.
func (c *crowd) move() {
	close(c.moved)
	c.moved = make(chan struct{})
}

// until waits for a condition, which is asked under mu.
func (c *crowd) until(ctx context.Context, what string, ok func() bool) error {
	for {
		c.mu.Lock()
		done, failed, moved := ok(), c.failed, c.moved
		c.mu.Unlock()
		switch {
		case failed != nil:
			return failed
		case done:
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		}
	}
}

func (c *crowd) settled(ctx context.Context) error {
	return c.until(ctx, "every client's route", func() bool { return c.absent == 0 })
}

func (c *crowd) answered(ctx context.Context) error {
	return c.until(ctx, "every client's first answer", func() bool { return c.unanswered == 0 })
}

func (c *crowd) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed++
	c.arrivals, c.unrouted = c.arrivals[:0], len(c.members)
}

func (c *crowd) await(ctx context.Context) (Arrivals, error) {
	if err := c.until(ctx, "the route at every client", func() bool { return c.unrouted == 0 }); err != nil {
		return Arrivals{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Sorted(slices.Values(c.arrivals))
	return Arrivals{P50: all[len(all)/2], P99: all[len(all)*99/100], Last: all[len(all)-1]}, nil
}

func (c *crowd) reset() {
	c.bytes.Store(0)
	c.pushes.Store(0)
	c.resources.Store(0)
}

func (c *crowd) counts() Counts {
	return Counts{Bytes: c.bytes.Load(), Pushes: c.pushes.Load(), Resources: c.resources.Load()}
}

// routed notes that a client has a route more; first: it had none before.
func (c *crowd) routed(m *member, at int64, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if first {
		if c.absent--; c.absent == 0 {
			c.move()
		}
	}
	if c.unrouted == 0 || m.armed.Swap(int64(c.armed)) == int64(c.armed) {
		return
	}
	c.arrivals = append(c.arrivals, at)
	if c.unrouted--; c.unrouted == 0 {
		c.move()
	}
}

func (c *crowd) answer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unanswered--; c.unanswered == 0 {
		c.move()
	}
}

// dial makes a connection that counts, and that is reset when it is closed, so that thousands of them leave nothing behind.
func (c *crowd) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // An error shows at the next use.
	}
	return counted{conn, &c.bytes}, nil
}

// counted counts what is read.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// run is one connection's life.
func (m *member) run(ctx context.Context) error {
	conn, err := grpc.NewClient("passthrough:"+m.crowd.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(m.crowd.dial),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window), grpc.WithReadBufferSize(4<<10))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if err := m.hello(stream); err != nil {
		return err
	}
	answered := false
	for {
		res, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the server ended the stream")
			}
			return err
		}
		if err := m.take(stream, res, time.Now().UnixNano()); err != nil {
			return err
		}
		// The first answer of this type comes even if there is nothing to say.
		if !answered && (m.crowd.routesOnly || res.TypeUrl == envoy.TypeCluster) {
			answered = true
			m.crowd.answer()
		}
	}
}

type sender interface {
	Send(*discoveryv3.DeltaDiscoveryRequest) error
}

// hello asks for everything, with what the client has, in Envoy's order.
func (m *member) hello(stream sender) error {
	metadata, err := structpb.NewStruct(map[string]any{envoy.MetadataListen: "127.0.0.1:10000"})
	if err != nil {
		return err
	}
	route := envoy.RouteName(rig.Pair)
	requests := []*discoveryv3.DeltaDiscoveryRequest{
		{TypeUrl: envoy.TypeCluster}, {TypeUrl: envoy.TypeEndpoint, ResourceNamesSubscribe: slices.Sorted(maps.Keys(m.have[envoy.TypeCluster]))},
		{TypeUrl: envoy.TypeListener}, {TypeUrl: envoy.TypeScope}, {TypeUrl: envoy.TypeRoute, ResourceNamesSubscribe: []string{route}},
	}
	if m.crowd.routesOnly {
		requests = requests[len(requests)-1:]
	}
	requests[0].Node = &corev3.Node{Id: m.node, Cluster: m.node, Metadata: metadata}
	for _, req := range requests {
		if req.TypeUrl == envoy.TypeEndpoint && len(req.ResourceNamesSubscribe) == 0 {
			continue
		}
		req.InitialResourceVersions = maps.Clone(m.have[req.TypeUrl])
		if err := stream.Send(req); err != nil {
			return err
		}
	}
	return nil
}

// take acknowledges a response, and asks for the endpoints of new clusters.
func (m *member) take(stream sender, res *discoveryv3.DeltaDiscoveryResponse, at int64) error {
	have := m.have[res.TypeUrl]
	if len(res.Resources) > 0 {
		m.crowd.pushes.Add(1)
		m.crowd.resources.Add(int64(len(res.Resources)))
	}
	var fresh, gone []string
	for _, r := range res.Resources {
		if _, had := have[r.Name]; !had {
			fresh = append(fresh, r.Name)
		}
		have[r.Name] = r.Version
	}
	for _, name := range res.RemovedResources {
		delete(have, name)
		gone = append(gone, name)
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: res.TypeUrl, ResponseNonce: res.Nonce}); err != nil {
		return err
	}
	switch {
	case res.TypeUrl == envoy.TypeRoute && len(res.Resources) > 0:
		m.crowd.routed(m, at, len(fresh) > 0)
	case res.TypeUrl == envoy.TypeCluster && len(fresh)+len(gone) > 0:
		return stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: envoy.TypeEndpoint, ResourceNamesSubscribe: fresh, ResourceNamesUnsubscribe: gone})
	}
	return nil
}

// after is what follows a word in a text; empty if the word is not in it.
func after(text, word string) string {
	_, rest, _ := strings.Cut(text, word)
	return rest
}
