//go:build long

package discovery_test

import (
	"net"
	"testing"

	"google.golang.org/grpc"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// withheld keeps scopes back until free is closed.
type withheld struct {
	grpc.ServerStream
	free chan struct{}
}

func (w withheld) SendMsg(m any) error {
	if m.(*discoveryv3.DeltaDiscoveryResponse).TypeUrl == envoy.TypeScope {
		select {
		case <-w.free:
		case <-w.Context().Done():
			return w.Context().Err()
		}
	}
	return w.ServerStream.SendMsg(m)
}

// Envoy waits 15 s for its first scopes, then it listens without. What it is asked for then must not kill it, as it does with the on_demand
// filter and scopes in the listener, and is answered once the scopes have come.
func TestLongHostsAskedForBeforeTheFirstScope(t *testing.T) {
	spec, _, _ := twoVersions(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := make(chan struct{})
	cp := serveOn(t, newSource(spec), l, []grpc.ServerOption{grpc.StreamInterceptor(
		func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(srv, withheld{ss, free})
		})})
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	for range 3 {
		for _, body := range []string{"", "body"} {
			wantReply(t, ask(t, e, "POST", shopHost, "/", body), 404, "")
			wantReply(t, ask(t, e, "POST", "nobody.agents", "/", body), 404, "")
		}
	}
	close(free)
	eventually(t, "the scopes", ticking(), func() bool { return ask(t, e, "POST", shopHost, "/", "x").body == "2.0.3 x" })
	wantReply(t, ask(t, e, "POST", "nobody.agents", "/", ""), 404, "")
}
