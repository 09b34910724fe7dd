package flip

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/specproxy/specproxy/bench/rig"
)

// everything is the name of the one RouteConfiguration.
const everything = "all"

// startSingle brings up what is compared with: all specs in one RouteConfiguration with the least in it that routes them, served by
// go-control-plane's own cache and delta server. No store, no API call and no sidecar is in the way of its flips.
func startSingle(ctx context.Context, o Options, specs int) (s *subject, err error) {
	s = &subject{layout: single, specs: specs}
	dir := filepath.Join(o.Dir, fmt.Sprintf("single-%d", specs))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return s, fmt.Errorf("working directory: %w", err)
	}
	var agents []any
	for _, v := range versionsOfSpec {
		address, stop, err := startAgent(ctx, v)
		if err != nil {
			return s, err
		}
		s.stack.Push(stop)
		agents = append(agents, strings.Split(address, ":")[1])
	}
	cache := cachev3.NewLinearCache(resourcev3.RouteType)
	s.shift = func(_ context.Context, to int) error { return cache.UpdateResource(everything, allInOne(specs, to)) }
	if err := s.shift(ctx, 0); err != nil {
		return s, fmt.Errorf("one RouteConfiguration: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return s, fmt.Errorf("one RouteConfiguration: %w", err)
	}
	gs := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(gs, serverv3.NewServer(ctx, cache, nil))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = gs.Serve(l) // Ends by Stop alone.
	}()
	s.stack.Push(func() {
		gs.Stop()
		<-done
	})
	if s.wire, err = rig.NewRelay(ctx, l.Addr().String()); err != nil {
		return s, err
	}
	s.stack.Push(s.wire.Stop)
	starting, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not up after %s", startTimeout))
	defer cancel()
	_, port, err := net.SplitHostPort(s.wire.Address())
	if err != nil {
		return s, err
	}
	envoy, err := rig.StartEnvoyFrom(starting, dir, "envoy", fmt.Appendf(nil, singleBootstrap, append([]any{port}, agents...)...))
	if err != nil {
		return s, err
	}
	s.stack.Push(envoy.Stop)
	address, err := envoy.Listener(starting)
	if err != nil {
		return s, err
	}
	s.probe = newProbe(address, spec+".agents")
	s.stack.Push(s.probe.stop)
	return s, s.probe.settle(starting, versionsOfSpec[0])
}

// allInOne routes the measured spec by weight and every other one to a single cluster.
func allInOne(specs, to int) *routev3.RouteConfiguration {
	config := &routev3.RouteConfiguration{Name: everything, VirtualHosts: make([]*routev3.VirtualHost, 0, specs)}
	weighted := &routev3.WeightedCluster{}
	for i, v := range versionsOfSpec {
		share := uint32(full - almost)
		if i == to {
			share = almost
		}
		weighted.Clusters = append(weighted.Clusters, &routev3.WeightedCluster_ClusterWeight{Name: v, Weight: wrapperspb.UInt32(share)})
	}
	add := func(name string, action *routev3.RouteAction) {
		config.VirtualHosts = append(config.VirtualHosts, &routev3.VirtualHost{
			Name: name, Domains: []string{name + ".agents"},
			Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: action},
			}},
		})
	}
	add(spec, &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted}})
	for i := range specs - 1 {
		add(rig.Seeded(i), &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: versionsOfSpec[0]}})
	}
	return config
}

// singleBootstrap wants the ports of the control plane and of the two agents.
const singleBootstrap = `
node: {id: single, cluster: single}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{envoy_grpc: {cluster_name: xds}}]
static_resources:
  listeners:
  - name: agents
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: agents
          rds: {route_config_name: all, config_source: {ads: {}, resource_api_version: V3}}
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: xds
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}
  - name: 1.0.0
    type: STATIC
    load_assignment: {cluster_name: 1.0.0, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}
  - name: 2.0.0
    type: STATIC
    load_assignment: {cluster_name: 2.0.0, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}
`
