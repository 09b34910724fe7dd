package envoy

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	mutationfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	ondemandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	headersessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/header/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// ListenerName is the name of the one listener.
const ListenerName = "agents"

// ListenerOptions are the choices an operator has.
type ListenerOptions struct {
	// ScopeHeader is the request header whose value, up to a port, is a spec's host name; empty: :authority. See CheckScopeHeader.
	ScopeHeader string
	// RouteWait bounds how long a request waits for its spec's routes to be fetched, then it is answered 504 or 408; 0: 10 s. It is no
	// bound on requests that have a route.
	RouteWait time.Duration
	// TrustedHops is how many proxies in front of this Envoy may say who the client is and whether it came by TLS: with 0 the next hop is
	// the client, whatever x-forwarded-for and x-forwarded-proto say.
	TrustedHops uint32
}

const (
	// clientNames are the x-spec-* headers that a client must not set: all but the pin, which is a capability. RE2 has no negative
	// lookahead, so the pin is left out letter by letter.
	clientNames = `x-spec-(|p|pi|pin.+|[^p].*|p[^i].*|pi[^n].*)`
	// controlNames would let a client switch on Envoy's own retries, hedging and timeouts, and so have its work executed twice.
	controlNames = `x-envoy-(retry-.*|retriable-.*|max-retries|hedge-.*|upstream-.*)`
)

// connectionBuffer bounds what Envoy holds of one connection, in bytes. Envoy 1.40.0 now and then never reads on when a request's body passes
// this bound while its route is still being fetched on demand, so it lies above the bodies that agents usually get; Envoy's default is 1 MiB.
const connectionBuffer = 4 << 20

// Listener makes the one HTTP listener of an Envoy at host:port; the host is an IP address, port 0 lets the system choose.
func Listener(addr string, opts ListenerOptions) (*Resource, error) {
	l, err := listener(addr, opts)
	if err != nil {
		return nil, err
	}
	return newResource(ListenerName, l)
}

func listener(addr string, opts ListenerOptions) (*listenerv3.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen address %q is not host:port", addr)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return nil, fmt.Errorf("listen address %q: %q is not an IP address", addr, host)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("listen address %q: %q is not a port", addr, port)
	}
	if err := CheckScopeHeader(opts.ScopeHeader); err != nil {
		return nil, err
	}
	return &listenerv3.Listener{
		Name:                          ListenerName,
		Address:                       ipAddress(ip.String(), uint32(n)),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(connectionBuffer),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(connectionManager(opts))},
		}}}},
	}, nil
}

func connectionManager(opts ListenerOptions) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix: ListenerName,
		// For requests without a route only: every route sets its own idle timeout to none. If a host is removed while the first request
		// for it waits for the routes, Envoy (1.40.0) forgets that request, and without a timeout it would hang for ever.
		StreamIdleTimeout: durationpb.New(cmp.Or(opts.RouteWait, routeWait)),
		// A slow client must still finish its headers.
		RequestHeadersTimeout:      durationpb.New(headersTimeout),
		UseRemoteAddress:           wrapperspb.Bool(true),
		XffNumTrustedHops:          opts.TrustedHops,
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		HttpProtocolOptions:        &corev3.Http1ProtocolOptions{EnableTrailers: true},
		UpgradeConfigs:             []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		// Runs once per client request, before routing, and not again on an internal redirect: what a client sends is gone, what a
		// hand-over copies survives.
		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{
			extension("envoy.http.early_header_mutation.header_mutation", packed(&earlyv3.HeaderMutation{
				Mutations: []*mutationv3.HeaderMutation{removeMatching(clientNames), removeMatching(controlNames)},
			})),
		},
		RouteSpecifier: &hcmv3.HttpConnectionManager_ScopedRoutes{ScopedRoutes: &hcmv3.ScopedRoutes{
			Name:            "specs",
			ScopeKeyBuilder: scopeKey(opts.ScopeHeader),
			RdsConfigSource: overADS(),
			// Only over ADS: with inline scopes the on_demand filter crashes Envoy 1.40.0 on an unknown host.
			ConfigSpecifier: &hcmv3.ScopedRoutes_ScopedRds{ScopedRds: &hcmv3.ScopedRds{ScopedRdsConfigSource: overADS()}},
		}},
		HttpFilters: []*hcmv3.HttpFilter{
			// First, so that on the way back it runs last: none of these is the client's business.
			filter("envoy.filters.http.header_mutation", packed(&mutationfilterv3.HeaderMutation{Mutations: &mutationfilterv3.Mutations{
				ResponseMutations: []*mutationv3.HeaderMutation{
					unmask("location", HeaderLocation),
					remove(HeaderLocation), remove(HeaderInstance), remove(HeaderDeadline), remove(HeaderHop), remove(HeaderOrigin),
				},
			}})),
			filter("envoy.filters.http.on_demand", packed(&ondemandv3.OnDemand{})),
			filter("envoy.filters.http.stateful_session", packed(&sessionv3.StatefulSession{
				// Strict: who names an instance gets that instance or an error, never its neighbour.
				Strict: true,
				SessionState: extension("envoy.http.stateful_session.header",
					packed(&headersessionv3.HeaderBasedSessionState{Name: HeaderInstance})),
			})),
			filter("envoy.filters.http.router", packed(&routerv3.Router{SuppressEnvoyHeaders: true})),
		},
	}
}

// CheckScopeHeader refuses names that no request can carry to the point where routes are chosen.
func CheckScopeHeader(name string) error {
	lower := strings.ToLower(name)
	switch {
	case name == "" || lower == ":authority":
		return nil
	case strings.HasPrefix(lower, "x-spec-") || strings.HasPrefix(lower, "x-envoy-"):
		return fmt.Errorf("scope header %q: what clients send as x-spec-* or x-envoy-* is dropped; choose another name", name)
	case lower == "host":
		return fmt.Errorf("scope header %q: Envoy knows it as :authority, which is the default", name)
	case !httpguts.ValidHeaderFieldName(lower):
		return fmt.Errorf("scope header %q is not the name of a header", name)
	}
	return nil
}

// scopeKey takes a header's value up to a port.
func scopeKey(header string) *hcmv3.ScopedRoutes_ScopeKeyBuilder {
	if header == "" {
		header = ":authority"
	}
	return &hcmv3.ScopedRoutes_ScopeKeyBuilder{Fragments: []*hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder{{
		Type: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_{
			HeaderValueExtractor: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor{
				Name:             strings.ToLower(header),
				ElementSeparator: ":",
				ExtractType:      &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_Index{Index: 0},
			},
		},
	}}}
}

func filter(name string, config *anypb.Any) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
}

func remove(header string) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Remove{Remove: header}}
}

// unmask gives the client an agent's own redirect, which the sidecar hides from the router so that it is not followed here.
func unmask(header, masked string) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Append{Append: &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: header, Value: "%RESP(" + masked + ")%"},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		// Without a masked one nothing is written.
		KeepEmptyValue: false,
	}}}
}

func removeMatching(regex string) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{
		RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{KeyMatcher: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: regex}},
		}},
	}}
}
