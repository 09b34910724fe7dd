package envoy

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// MetadataListen is the key in an Envoy's node metadata under which it says where it listens, as host:port.
const MetadataListen = "listen"

// MetadataTrustedHops is the key under which it says how many proxies in front of it are trusted, as a number; see ListenerOptions.
const MetadataTrustedHops = "trusted_hops"

// ControlCluster is the static cluster of the control plane in the bootstrap.
const ControlCluster = "xds"

// releaseBytes is how much unused memory Envoy gives back each second: little enough to cost nothing while it is busy.
const releaseBytes = 8 << 20

// BootstrapOptions are what differs from Envoy to Envoy.
type BootstrapOptions struct {
	// Node names this Envoy; every Envoy has its own.
	Node string
	// Listen is the host:port where clients reach it.
	Listen string
	// Admin is the host:port of Envoy's admin page; empty: none.
	Admin string
	// Servers are the xDS addresses, host:port, of all control-plane replicas.
	Servers []string
	// Token is sent as "authorization: Bearer <token>"; empty: none.
	Token string
	// TLS to the control plane; nil: plain text, for loopback only.
	TLS *BootstrapTLS
	// Sidecars verifies sidecars that take requests over TLS, and is what Envoy shows to those that want a certificate; nil: Envoy speaks plainly to
	// sidecars, and refuses the clusters of those that do not.
	Sidecars *BootstrapTLS
	// TrustedHops is as in ListenerOptions.
	TrustedHops uint32
	// Fragment writes what an Envoy with a configuration of its own lacks: the listener is part of it and the operator's to extend, and there is
	// neither an admin page nor a choice of statistics.
	Fragment bool
	// ScopeHeader is as in ListenerOptions, for a fragment; else the control plane knows.
	ScopeHeader string
}

// BootstrapTLS names files on Envoy's machine.
type BootstrapTLS struct {
	// CA verifies the server. Required.
	CA string
	// Cert and Key are the client's own, for mutual TLS. Both or none.
	Cert, Key string
	// ServerName is the name the server's certificate must carry; empty: the host of the first server.
	ServerName string
}

// Bootstrap writes the whole configuration that a stock Envoy needs, as YAML. Equal options give equal bytes.
func Bootstrap(o BootstrapOptions) ([]byte, error) {
	if o.Node == "" {
		return nil, errors.New("bootstrap: no node name; give one with --node")
	}
	listener, err := listener(o.Listen, ListenerOptions{TrustedHops: o.TrustedHops, ScopeHeader: o.ScopeHeader})
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	if o.ScopeHeader != "" && !o.Fragment {
		return nil, errors.New("bootstrap: without --fragment the listener comes from the control plane: give --scope-header to xds instead")
	}
	control, err := controlCluster(o)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	metadata := map[string]*structpb.Value{MetadataListen: structpb.NewStringValue(o.Listen)}
	if o.TrustedHops > 0 {
		metadata[MetadataTrustedHops] = structpb.NewNumberValue(float64(o.TrustedHops))
	}
	b := &bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: o.Node, Cluster: "specproxy", Metadata: &structpb.Struct{Fields: metadata}},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{control}},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			AdsConfig: adsConfig(o.Token),
			CdsConfig: overADS(),
		},
	}
	if o.Sidecars != nil {
		if b.StaticResources.Secrets, err = sidecarSecrets(*o.Sidecars); err != nil {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
	}
	if o.Fragment {
		b.StaticResources.Listeners = []*listenerv3.Listener{listener}
		return toYAML(b)
	}
	b.DynamicResources.LdsConfig = overADS()
	b.StatsConfig = &metricsv3.StatsConfig{StatsMatcher: statsMatcher()}
	// Envoy never gives back by itself what it needed once to take in a large update, such as all the hosts at its start.
	b.MemoryAllocatorManager = &bootstrapv3.MemoryAllocatorManager{BytesToRelease: releaseBytes, MemoryReleaseInterval: durationpb.New(time.Second)}
	if o.Admin != "" {
		address, err := adminAddress(o.Admin)
		if err != nil {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
		b.Admin = &bootstrapv3.Admin{Address: address}
	}
	return toYAML(b)
}

// adsConfig is delta ADS. Envoy's own back-off goes up to 30 s, so long that a restarted control plane would be missed for half a minute.
func adsConfig(token string) *corev3.ApiConfigSource {
	service := &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
		ClusterName: ControlCluster,
		RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
			BaseInterval: durationpb.New(100 * time.Millisecond),
			MaxInterval:  durationpb.New(2 * time.Second),
		}},
	}}}
	if token != "" {
		service.InitialMetadata = []*corev3.HeaderValue{{Key: "authorization", Value: "Bearer " + token}}
	}
	return &corev3.ApiConfigSource{
		ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
		TransportApiVersion:       corev3.ApiVersion_V3,
		SetNodeOnFirstMessageOnly: true,
		GrpcServices:              []*corev3.GrpcService{service},
	}
}

// controlCluster lists every replica: a stream that breaks comes back on another.
func controlCluster(o BootstrapOptions) (*clusterv3.Cluster, error) {
	if len(o.Servers) == 0 {
		return nil, errors.New("no control-plane server; give at least one host:port")
	}
	var endpoints []*endpointv3.LbEndpoint
	kind, first := clusterv3.Cluster_STATIC, ""
	for _, server := range o.Servers {
		host, port, err := net.SplitHostPort(server)
		if err != nil {
			return nil, fmt.Errorf("server %q is not host:port", server)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || host == "" {
			return nil, fmt.Errorf("server %q is not host:port", server)
		}
		if _, err := netip.ParseAddr(host); err != nil {
			kind = clusterv3.Cluster_STRICT_DNS
		}
		if first == "" {
			first = host
		}
		endpoints = append(endpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: ipAddress(host, uint32(n))},
		}})
	}
	c := &clusterv3.Cluster{
		Name:                 ControlCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: kind},
		ConnectTimeout:       durationpb.New(connectTimeout),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: ControlCluster,
			Endpoints:   []*endpointv3.LocalityLbEndpoints{{LbEndpoints: endpoints}},
		},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(&httpv3.HttpProtocolOptions{
				UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
					ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
						ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
							// A server that vanished without a word must be noticed: the stream itself is silent for hours.
							Http2ProtocolOptions: &corev3.Http2ProtocolOptions{ConnectionKeepalive: &corev3.KeepaliveSettings{
								Interval: durationpb.New(10 * time.Second),
								Timeout:  durationpb.New(5 * time.Second),
							}},
						},
					},
				},
			}),
		},
	}
	if o.TLS != nil {
		socket, err := tlsSocket(*o.TLS, first)
		if err != nil {
			return nil, err
		}
		c.TransportSocket = socket
	}
	return c, nil
}

func tlsSocket(t BootstrapTLS, host string) (*corev3.TransportSocket, error) {
	if t.CA == "" {
		return nil, errors.New("TLS without a CA would trust anyone; give the CA file")
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, errors.New("a client certificate needs its key, and the key its certificate")
	}
	name := t.ServerName
	if name == "" {
		name = host
	}
	san := &tlsv3.SubjectAltNameMatcher{
		SanType: tlsv3.SubjectAltNameMatcher_DNS,
		Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name}},
	}
	sni := name
	if _, err := netip.ParseAddr(name); err == nil {
		san.SanType, sni = tlsv3.SubjectAltNameMatcher_IP_ADDRESS, ""
	}
	common := &tlsv3.CommonTlsContext{
		AlpnProtocols: []string{"h2"},
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa:                 file(t.CA),
			MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{san},
		}},
	}
	if t.Cert != "" {
		common.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: file(t.Cert), PrivateKey: file(t.Key)}}
	}
	return &corev3.TransportSocket{
		Name: tlsSocketName,
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(&tlsv3.UpstreamTlsContext{
			CommonTlsContext: common, Sni: sni,
		})},
	}, nil
}

func file(name string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: name}}
}

// statsMatcher keeps what an operator looks at. Envoy's full statistics, several hundred per cluster, are half its memory.
func statsMatcher() *metricsv3.StatsMatcher {
	var patterns []*matcherv3.StringMatcher
	for _, prefix := range []string{
		"cluster_manager.", "listener_manager.", "control_plane.", "server.",
		"http." + ListenerName + ".", "cluster." + ControlCluster + ".",
	} {
		patterns = append(patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}})
	}
	return &metricsv3.StatsMatcher{StatsMatcher: &metricsv3.StatsMatcher_InclusionList{
		InclusionList: &matcherv3.ListStringMatcher{Patterns: patterns},
	}}
}

func adminAddress(addr string) (*corev3.Address, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("admin address %q is not host:port", addr)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return nil, fmt.Errorf("admin address %q: %q is not an IP address", addr, host)
	}
	// The admin page can stop Envoy and shows its whole configuration, and it asks for no password.
	if !ip.IsLoopback() {
		return nil, fmt.Errorf("admin address %q is open to other machines and needs no password; use 127.0.0.1", addr)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("admin address %q: %q is not a port", addr, port)
	}
	return ipAddress(ip.String(), uint32(n)), nil
}

// toYAML goes through JSON, since the protobuf library knows no YAML; its own JSON is deliberately not stable, the YAML is.
func toYAML(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	var tree any
	if err := yaml.Unmarshal(raw, &tree); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(tree); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return out.Bytes(), enc.Close()
}
