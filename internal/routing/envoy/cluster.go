package envoy

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/specproxy/specproxy/internal/routing"
)

const (
	connectTimeout = time.Second
	headersTimeout = 30 * time.Second
	routeWait      = 10 * time.Second
	retryBase      = 5 * time.Millisecond
	// upstreamIdle is shorter than the sidecars' own idle timeout, so that it is always Envoy that closes an idle connection and no
	// request is ever written to one that is closing.
	upstreamIdle = time.Minute
	// connectRetries is how many more hosts are tried where nobody answers, hostPicks how often the load balancer is asked for one that
	// was not tried yet.
	connectRetries = 5
	hostPicks      = 32
	// unixPathMax is what fits into a sockaddr_un with its final zero.
	unixPathMax = 107
	// unlimited is what circuit breakers are set to: long streams count, and Envoy's default of 1,024 would refuse them.
	unlimited = 1 << 30
)

// cluster makes one version's cluster. Its bytes depend on the name alone, so a cluster is never updated, only added and removed:
// an update would make Envoy warm it anew and ask for its endpoints again.
func cluster(name string, needs routing.Transport) (*Resource, error) {
	return newResource(name, &clusterv3.Cluster{
		Name:                          name,
		TransportSocketMatches:        transportSockets[needs],
		ClusterDiscoveryType:          shared.ClusterDiscoveryType,
		EdsClusterConfig:              shared.EdsClusterConfig,
		ConnectTimeout:                shared.ConnectTimeout,
		LbPolicy:                      shared.LbPolicy,
		CommonLbConfig:                shared.CommonLbConfig,
		CircuitBreakers:               shared.CircuitBreakers,
		TypedExtensionProtocolOptions: shared.TypedExtensionProtocolOptions,
	})
}

// shared is all of a cluster but its name. Nobody changes it.
var shared = commonCluster()

func commonCluster() *clusterv3.Cluster {
	return &clusterv3.Cluster{
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: overADS()},
		ConnectTimeout:       durationpb.New(connectTimeout),
		LbPolicy:             clusterv3.Cluster_LEAST_REQUEST,
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{
			// In panic a pool whose hosts are all draining would still get new work.
			HealthyPanicThreshold: &typev3.Percent{Value: 0},
			// The default merges endpoint changes for a second.
			UpdateMergeWindow: durationpb.New(0),
			// A request that names a draining instance belongs to an execution there and must still reach it.
			OverrideHostStatus: &corev3.HealthStatusSet{Statuses: []corev3.HealthStatus{
				corev3.HealthStatus_UNKNOWN, corev3.HealthStatus_HEALTHY, corev3.HealthStatus_DEGRADED, corev3.HealthStatus_DRAINING,
			}},
		},
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{
			thresholds(corev3.RoutingPriority_DEFAULT), thresholds(corev3.RoutingPriority_HIGH),
		}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(&httpv3.HttpProtocolOptions{
				CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(upstreamIdle)},
				// gRPC needs HTTP/2 end to end; everything else is cheaper at the sidecar as HTTP/1.1.
				UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
					UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
						HttpProtocolOptions:  &corev3.Http1ProtocolOptions{EnableTrailers: true},
						Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
					},
				},
			}),
		},
	}
}

func thresholds(priority corev3.RoutingPriority) *clusterv3.CircuitBreakers_Thresholds {
	return &clusterv3.CircuitBreakers_Thresholds{
		Priority:           priority,
		MaxConnections:     wrapperspb.UInt32(unlimited),
		MaxPendingRequests: wrapperspb.UInt32(unlimited),
		MaxRequests:        wrapperspb.UInt32(unlimited),
		MaxRetries:         wrapperspb.UInt32(unlimited),
	}
}

// assignment makes one version's endpoints: ready instances take new work, leaving ones only what names them, starting ones nothing.
func assignment(name string, instances []routing.Instance) (r *Resource, skipped []string, err error) {
	byAddress := map[string]routing.Instance{}
	for _, in := range instances {
		switch in.Health {
		case routing.Ready, routing.Leaving:
		case routing.Starting:
			continue
		default:
			skipped = append(skipped, fmt.Sprintf("instance %s of %s: health %q is unknown", in.ID, name, in.Health))
			continue
		}
		// Two instances at one address: one of them has died and its port was taken again. The ready one, else the younger one, is real.
		if other, taken := byAddress[in.Address]; taken && !replaces(in, other) {
			continue
		}
		byAddress[in.Address] = in
	}
	addresses := make([]string, 0, len(byAddress))
	for a := range byAddress {
		addresses = append(addresses, a)
	}
	slices.Sort(addresses)

	endpoints := make([]*endpointv3.LbEndpoint, 0, len(addresses))
	var open []string
	for _, a := range addresses {
		in := byAddress[a]
		address, err := socketAddress(a)
		if err != nil {
			skipped = append(skipped, fmt.Sprintf("instance %s of %s: %v", in.ID, name, err))
			continue
		}
		if !slices.Contains(routing.Transports, in.Transport) {
			skipped = append(skipped, fmt.Sprintf("instance %s of %s: transport %q is unknown", in.ID, name, in.Transport))
			continue
		}
		status := corev3.HealthStatus_HEALTHY
		if in.Health == routing.Leaving {
			status = corev3.HealthStatus_DRAINING
		} else {
			open = append(open, a)
		}
		endpoints = append(endpoints, &endpointv3.LbEndpoint{
			HealthStatus:   status,
			Metadata:       transportMetadata[in.Transport],
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address}},
		})
	}
	slices.Sort(skipped)
	a := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	if len(endpoints) > 0 {
		// gRPC clients refuse a locality without an id and leave out one without a weight; to Envoy both mean nothing here.
		a.Endpoints = []*endpointv3.LocalityLbEndpoints{{
			Locality: &corev3.Locality{}, LoadBalancingWeight: wrapperspb.UInt32(1), LbEndpoints: endpoints,
		}}
	}
	if r, err = newResource(name, a); err != nil {
		return nil, nil, err
	}
	r.Open = open
	return r, skipped, nil
}

func replaces(in, other routing.Instance) bool {
	if (in.Health == routing.Ready) != (other.Health == routing.Ready) {
		return in.Health == routing.Ready
	}
	if !in.RegisteredAt.Equal(other.RegisteredAt) {
		return in.RegisteredAt.After(other.RegisteredAt)
	}
	return cmp.Less(other.ID, in.ID)
}

// socketAddress reads host:port or unix:/path. EDS takes no names: Envoy would refuse the whole assignment for one of them.
func socketAddress(address string) (*corev3.Address, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("address %q is not an absolute unix path", address)
		}
		if len(path) > unixPathMax {
			return nil, fmt.Errorf("address %q is longer than a unix path may be (%d bytes)", address, unixPathMax)
		}
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address %q is not host:port", address)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return nil, fmt.Errorf("address %q has no usable port", address)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() != "" {
		return nil, fmt.Errorf("address %q is not an IP address; advertise one", address)
	}
	return ipAddress(ip.String(), uint32(n)), nil
}

func ipAddress(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       ip,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func overADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}
