package swarm_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/specproxy/specproxy/bench/rig"
	"github.com/specproxy/specproxy/bench/swarm"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// server gives whoever asks for routes one, unless it is brought along, and another one when it is told to.
type server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	flip chan struct{}
	came atomic.Int64
}

func (s *server) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	req, err := g.Recv()
	if err != nil {
		return err
	}
	s.came.Add(1)
	send := func(version string) error {
		res := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: envoy.TypeRoute, Nonce: version}
		if version != req.GetInitialResourceVersions()[envoy.RouteName(rig.Pair)] {
			res.Resources = []*discoveryv3.Resource{{Name: envoy.RouteName(rig.Pair), Version: version, Resource: &anypb.Any{}}}
		}
		return g.Send(res)
	}
	if err := send("1"); err != nil {
		return err
	}
	select {
	case <-s.flip:
		if err := send("2"); err != nil {
			return err
		}
	case <-g.Context().Done():
	}
	<-g.Context().Done()
	return nil
}

// The clients count what they get, tell when a route has come to all of them, and come back with what they have.
func TestAChildIsWhatItsParentIsTold(t *testing.T) {
	const clients = 5
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, gs := &server{flip: make(chan struct{})}, grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(gs, s)
	go func() { _ = gs.Serve(l) }() // ends with Stop
	defer gs.Stop()
	out, in := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- swarm.Child(ctx, []string{l.Addr().String(), "5", "true"}, in) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var said struct{ Address string }
	if err := json.Unmarshal([]byte(line), &said); err != nil {
		t.Fatal(err)
	}
	call := func(what string, answer any) {
		t.Helper()
		if err := swarm.Call(t.Context(), "http://"+said.Address+what, answer); err != nil {
			t.Fatal(err)
		}
	}
	var counts swarm.Counts
	if call("/counts", &counts); counts.Pushes != clients || counts.Resources != clients || counts.Bytes == 0 {
		t.Errorf("connected: %+v", counts)
	}
	call("/drop", nil)
	call("/reset", nil)
	call("/return", nil)
	if call("/counts", &counts); counts.Resources != 0 || counts.Bytes == 0 || s.came.Load() != 2*clients {
		t.Errorf("came back: %+v, %d streams in all", counts, s.came.Load())
	}
	call("/arm", nil)
	began := time.Now().UnixNano()
	for range clients {
		s.flip <- struct{}{}
	}
	var arrivals swarm.Arrivals
	if call("/await", &arrivals); arrivals.P50 < began || arrivals.P99 < arrivals.P50 || arrivals.Last < arrivals.P99 {
		t.Errorf("arrivals: %+v", arrivals)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestMoreConnectionsThanFilesAreRefused(t *testing.T) {
	if err := swarm.EnoughFiles(1 << 40); err == nil {
		t.Error("a million million connections are allowed")
	}
}
