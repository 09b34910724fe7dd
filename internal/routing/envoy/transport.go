package envoy

import (
	"errors"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/specproxy/specproxy/internal/routing"
)

// SidecarName is the DNS name that the certificate of every sidecar must carry, and the SNI that it is asked by: sidecars are reached by
// addresses that come and go, and an authority may vouch for others than sidecars too.
const SidecarName = "specproxy-sidecar"

// Secrets of an Envoy's bootstrap, which clusters refer to: the files are on Envoy's machine, and its key never leaves it.
const (
	SecretSidecars = "specproxy-sidecars" // the authority of sidecars
	SecretProxy    = "specproxy-proxy"    // Envoy's own certificate
)

const (
	// matchNamespace is where Envoy looks for what chooses an endpoint's transport socket.
	matchNamespace = "envoy.transport_socket_match"
	matchKey       = "specproxy"
)

// transportSockets are what a cluster needs for the transports of its endpoints, an endpoint's choice among them is in its metadata. One without
// metadata is spoken to plainly. Nobody changes it.
var transportSockets = map[routing.Transport][]*clusterv3.Cluster_TransportSocketMatch{
	routing.TLS:       {socketFor(routing.TLS)},
	routing.MutualTLS: {socketFor(routing.MutualTLS), socketFor(routing.TLS)},
}

// transportMetadata marks endpoints. Nobody changes it.
var transportMetadata = map[routing.Transport]*corev3.Metadata{
	routing.TLS:       {FilterMetadata: map[string]*structpb.Struct{matchNamespace: mark(routing.TLS)}},
	routing.MutualTLS: {FilterMetadata: map[string]*structpb.Struct{matchNamespace: mark(routing.MutualTLS)}},
}

func mark(t routing.Transport) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{matchKey: structpb.NewStringValue(string(t))}}
}

func socketFor(t routing.Transport) *clusterv3.Cluster_TransportSocketMatch {
	common := &tlsv3.CommonTlsContext{
		// ALPN is left to Envoy, which knows whether it opens a connection for HTTP/1.1 or HTTP/2.
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
			ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: SecretSidecars},
		},
	}
	if t == routing.MutualTLS {
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{{Name: SecretProxy}}
	}
	return &clusterv3.Cluster_TransportSocketMatch{
		Name: string(t), Match: mark(t),
		TransportSocket: &corev3.TransportSocket{
			Name: tlsSocketName,
			ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(&tlsv3.UpstreamTlsContext{
				CommonTlsContext: common, Sni: SidecarName,
			})},
		},
	}
}

const tlsSocketName = "envoy.transport_sockets.tls"

// sidecarSecrets are what clusters of sidecars with TLS refer to, as far as an Envoy was given the files.
func sidecarSecrets(t BootstrapTLS) ([]*tlsv3.Secret, error) {
	if t.CA == "" {
		return nil, errors.New("a certificate for sidecars without their authority: give --sidecar-ca too")
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, errors.New("--sidecar-cert and --sidecar-key go together")
	}
	secrets := []*tlsv3.Secret{{
		Name: SecretSidecars,
		Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: file(t.CA),
			MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
				SanType: tlsv3.SubjectAltNameMatcher_DNS,
				Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: SidecarName}},
			}},
		}},
	}}
	if t.Cert != "" {
		secrets = append(secrets, &tlsv3.Secret{
			Name: SecretProxy,
			Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: file(t.Cert), PrivateKey: file(t.Key)}},
		})
	}
	return secrets, nil
}
