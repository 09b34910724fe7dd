package fanout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	"github.com/specproxy/specproxy/bench/rig"
	"github.com/specproxy/specproxy/bench/swarm"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// Child is what this program is when it was started again: a server to compare with, PEER STREAMS.
func Child(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 2 {
		return fmt.Errorf("fanout: %q is not PEER STREAMS", args)
	}
	streams, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("fanout: %w", err)
	}
	if err := swarm.EnoughFiles(streams); err != nil {
		return err
	}
	var p peer
	switch args[0] {
	case bare:
		p = &broadcast{streams: map[chan *discoveryv3.DeltaDiscoveryResponse]struct{}{}}
	case linear:
		p = newLinear(ctx)
	default:
		return fmt.Errorf("fanout: no peer is called %q", args[0])
	}
	return serve(ctx, p, out)
}

// peer is a server that has one route and gives it to whoever asks.
type peer interface {
	register(gs *grpc.Server)
	// flip replaces the route.
	flip(generation uint64) error
}

func serve(ctx context.Context, p peer, out io.Writer) error {
	generation := uint64(1)
	if err := p.flip(generation); err != nil {
		return err
	}
	l, err := rig.Listen(ctx)
	if err != nil {
		return err
	}
	// As xds does.
	gs := grpc.NewServer(grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
	p.register(gs)
	go func() { _ = gs.Serve(l) }() // Ends by Stop alone.
	defer gs.Stop()
	mux := http.NewServeMux()
	mux.HandleFunc("/address", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%q", l.Addr())
	})
	mux.HandleFunc("/flip", func(w http.ResponseWriter, _ *http.Request) {
		generation++ // one flip at a time
		if err := p.flip(generation); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return swarm.Serve(ctx, mux, out)
}

// routeOf is the route of the measured spec, as xds makes it.
func routeOf(generation uint64) (*envoy.Resource, error) {
	to := int(generation % 2)
	s := envoy.Spec{Name: rig.Pair, Route: routing.Route{Spec: rig.Pair, Generation: generation, Splits: []routing.Split{
		{Version: rig.PairVersions[to], BasisPoints: routing.Full - 1}, {Version: rig.PairVersions[1-to], BasisPoints: 1},
	}}}
	for _, v := range rig.PairVersions {
		s.Pools = append(s.Pools, envoy.Pool{Version: v, Pin: routing.Pin([]byte("peer"), rig.Pair, v), Live: true})
	}
	res, err := envoy.Build(s)
	if err != nil {
		return nil, fmt.Errorf("fanout: route: %w", err)
	}
	return res.Route, nil
}

// broadcast is the least that a gRPC server can do: it sends one message to every stream and reads what comes back.
type broadcast struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	mu      sync.Mutex
	message *discoveryv3.DeltaDiscoveryResponse
	streams map[chan *discoveryv3.DeltaDiscoveryResponse]struct{}
}

func (b *broadcast) register(gs *grpc.Server) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(gs, b)
}

func (b *broadcast) flip(generation uint64) error {
	r, err := routeOf(generation)
	if err != nil {
		return err
	}
	message := &discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: envoy.TypeRoute, Nonce: strconv.FormatUint(generation, 36),
		Resources: []*discoveryv3.Resource{{Name: r.Name, Version: r.Version, Resource: r.Body}},
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.message = message
	for stream := range b.streams {
		stream <- message // it has taken the one before, or nobody would flip again
	}
	return nil
}

// DeltaAggregatedResources sends every message to the stream, beginning with the current one.
func (b *broadcast) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	if _, err := g.Recv(); err != nil {
		return err
	}
	messages := make(chan *discoveryv3.DeltaDiscoveryResponse, 2)
	b.mu.Lock()
	messages <- b.message
	b.streams[messages] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.streams, messages)
	}()
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := g.Recv(); err != nil {
				ended <- err
				return
			}
		}
	}()
	for {
		select {
		case message := <-messages:
			if err := g.Send(message); err != nil {
				return err
			}
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// linearPeer is go-control-plane's LinearCache and its server.
type linearPeer struct {
	cache  *cachev3.LinearCache
	server serverv3.Server
}

func newLinear(ctx context.Context) *linearPeer {
	cache := cachev3.NewLinearCache(resourcev3.RouteType)
	return &linearPeer{cache: cache, server: serverv3.NewServer(ctx, cache, nil)}
}

func (p *linearPeer) register(gs *grpc.Server) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(gs, p.server)
}

func (p *linearPeer) flip(generation uint64) error {
	r, err := routeOf(generation)
	if err != nil {
		return err
	}
	config := &routev3.RouteConfiguration{}
	if err := proto.Unmarshal(slices.Clone(r.Body.Value), config); err != nil {
		return fmt.Errorf("fanout: route: %w", err)
	}
	return p.cache.UpdateResource(r.Name, config)
}
