package envoy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/versions"
)

// Header names between Envoy and the sidecars.
const (
	HeaderPin         = "x-spec-pin"
	HeaderInstance    = "x-spec-instance"
	HeaderRoute       = "x-spec-route"
	HeaderTarget      = "x-spec-target"
	HeaderMirror      = "x-spec-mirror"
	HeaderBuffer      = "x-spec-buffer"
	HeaderDeadline    = "x-spec-deadline"
	HeaderHop         = "x-spec-hop"
	HeaderOrigin      = "x-spec-origin"
	HeaderLocation    = "x-spec-location"
	HeaderRehearsal   = "x-spec-rehearsal"
	HeaderVersion     = "x-spec-version"
	HeaderExecutionID = "x-execution-id"
)

// extensionName names extensions inside a route, where Envoy goes by the type of their configuration alone. A route is pushed whole with every
// flip, so what is in it is short.
const extensionName = "x"

// RehearsalPath is where synthetic executions are sent. A sidecar answers there itself, whatever the route was, so none ever reaches an agent.
const RehearsalPath = "/.well-known/specproxy/rehearsal"

// route makes the RouteConfiguration: that of a rehearsal, if there is one, an exact match of each live version's pin, then of each header that leads
// to a version, then the weighted route, which alone has a name. A pin goes first: it is what a hand-over comes back with.
func route(s Spec, pools []Pool) (*Resource, error) {
	buffer := s.BodyBuffer
	if buffer == 0 {
		buffer = versions.DefaultBodyBuffer
	}
	name := RouteName(s.Name)

	vh := &routev3.VirtualHost{
		Name:    s.Name,
		Domains: []string{"*"},
		// What Envoy has read of a body up to this size can be sent again by a hand-over. It also bounds what a request may hold in memory. Twice
		// what the sidecars are told: Envoy 1.36 never sends the rest of a body that is larger than half of it, if the request had to wait for
		// its routes first and is handed over then.
		RequestBodyBufferLimit: wrapperspb.UInt64(2 * uint64(buffer)),
		RetryPolicy:            retryPolicy,
		// Tells the sidecar that the request came through an Envoy of ours and that a 307 will be followed.
		RequestHeadersToAdd: []*corev3.HeaderValueOption{overwrite(HeaderBuffer, strconv.FormatUint(uint64(buffer), 10))},
	}
	weighted := &routev3.WeightedCluster{
		RandomValueSpecifier: &routev3.WeightedCluster_UseHashPolicy{UseHashPolicy: wrapperspb.Bool(true)},
	}
	var targets []Target
	clusters := make(map[string]string, len(pools))
	mark := ""
	if r := rehearsal(s, pools); r != nil {
		vh.Routes, mark = append(vh.Routes, r), s.Rehearsal.Mark
	}
	for _, p := range pools {
		cluster, weight := p.cluster(s.Name), s.Route.Weight(p.Version)
		clusters[p.Version] = cluster
		targets = append(targets, Target{Cluster: cluster, New: s.Route.Carries(p.Version)})
		vh.Routes = append(vh.Routes, pinRoute(cluster, p.Pin))
		weighted.Clusters = append(weighted.Clusters, &routev3.WeightedCluster_ClusterWeight{Name: cluster, Weight: wrapperspb.UInt32(weight)})
	}
	generation := strconv.FormatUint(s.Route.Generation, 10)
	for _, t := range s.Route.HeaderTargets {
		vh.Routes = append(vh.Routes, headerRoute(clusters[t.Version], t, generation))
	}
	action := routeAction()
	action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted}
	// Without the header there is no hash, and Envoy draws at random.
	action.HashPolicy = []*routev3.RouteAction_HashPolicy{{PolicySpecifier: &routev3.RouteAction_HashPolicy_Header_{
		Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: HeaderExecutionID},
	}}}
	drawn := &routev3.Route{
		Name:   name,
		Match:  everyPath(),
		Action: &routev3.Route_Route{Route: action},
		// An outcome is judged by the weights under which it was assigned.
		RequestHeadersToAdd: []*corev3.HeaderValueOption{overwrite(HeaderRoute, generation)},
	}
	if shadow := s.Route.Shadow; shadow != nil {
		vh.Routes = append(vh.Routes, mirrored(drawn, *shadow, clusters[shadow.Version]))
	}
	vh.Routes = append(vh.Routes, drawn)

	r, err := newResource(name, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{vh}})
	if err != nil {
		return nil, err
	}
	// With the generation in front, a replica that lags can tell that an Envoy already has a newer route than its own.
	r.Version = generation + "." + r.Version
	r.Generation, r.Clusters, r.Mark = s.Route.Generation, targets, mark
	return r, nil
}

// GenerationOf reads the route generation from the version of a RouteConfiguration; 0 if it is none of ours.
func GenerationOf(version string) uint64 {
	number, _, found := strings.Cut(version, ".")
	if !found {
		return 0
	}
	generation, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return 0
	}
	return generation
}

// mirrored is the weighted route for the share of requests that are copied. The share is part of the match, not of the copying, so that both the
// request and its copy can be told what they are: they carry the version that gets the copy, which no draw leads to, the generation that the shadow
// began with, and a name that they have in common. The version's sidecars know by its own name that what they got is the copy, whatever else in it a
// client has chosen.
func mirrored(drawn *routev3.Route, shadow routing.Shadow, cluster string) *routev3.Route {
	r := proto.CloneOf(drawn)
	r.Match.RuntimeFraction = &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{
		Numerator: shadow.BasisPoints, Denominator: typev3.FractionalPercent_TEN_THOUSAND,
	}}
	r.GetRoute().RequestMirrorPolicies = []*routev3.RouteAction_RequestMirrorPolicy{{Cluster: cluster, DisableShadowHostSuffixAppend: true}}
	r.RequestHeadersToAdd = append(r.RequestHeadersToAdd, overwrite(HeaderMirror, fmt.Sprintf("%s %d %%UNIQUE_ID%%", shadow.Version, shadow.Since)))
	return r
}

// pinRoute sends who holds a version's pin to that version, whatever the weights.
func pinRoute(cluster, pin string) *routev3.Route {
	r := whereHeaderIs(HeaderPin, pin, cluster)
	// A request that is handed over still carries what the weighted route put on it the first time.
	r.RequestHeadersToRemove = []string{HeaderRoute}
	return r
}

// headerRoute sends who carries a header to the version that it leads to. The generation goes under another name than that of the weighted route:
// nothing was drawn, so it says nothing about the weights, but a fenced sidecar can tell by it that this Envoy is cut off.
func headerRoute(cluster string, t routing.HeaderTarget, generation string) *routev3.Route {
	r := whereHeaderIs(t.Header, t.Value, cluster)
	r.RequestHeadersToAdd = []*corev3.HeaderValueOption{overwrite(HeaderTarget, generation)}
	return r
}

func whereHeaderIs(name, value, cluster string) *routev3.Route {
	match := everyPath()
	match.Headers = []*routev3.HeaderMatcher{{
		Name: name,
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_Exact{Exact: value},
		}},
	}}
	action := routeAction()
	action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: cluster}
	return &routev3.Route{Match: match, Action: &routev3.Route_Route{Route: action}}
}

// rehearsal sends the synthetic executions to one version or the other, by weights as the real route does. It is left out if one of the versions has
// no pool: a route must not name a cluster that is not there.
func rehearsal(s Spec, pools []Pool) *routev3.Route {
	if s.Rehearsal == nil {
		return nil
	}
	weighted := &routev3.WeightedCluster{}
	for _, p := range pools {
		if !slices.Contains(s.Rehearsal.Versions, p.Version) {
			continue
		}
		weight := uint32(0)
		if p.Version == s.Rehearsal.To {
			weight = routing.Full
		}
		weighted.Clusters = append(weighted.Clusters, &routev3.WeightedCluster_ClusterWeight{Name: p.cluster(s.Name), Weight: wrapperspb.UInt32(weight)})
	}
	if len(weighted.Clusters) != len(s.Rehearsal.Versions) {
		return nil
	}
	r := pinRoute("", s.Rehearsal.Pin)
	action := routeAction()
	action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted}
	r.Action = &routev3.Route_Route{Route: action}
	r.RequestHeadersToAdd = []*corev3.HeaderValueOption{overwrite(HeaderRehearsal, s.Rehearsal.Round)}
	return r
}

func everyPath() *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
}

// routeAction holds what every route shares. Deadlines are the sidecar's business: Envoy's own (15 s, 5 min idle) would cut long streams.
func routeAction() *routev3.RouteAction {
	return &routev3.RouteAction{
		Timeout:                durationpb.New(0),
		IdleTimeout:            durationpb.New(0),
		InternalRedirectPolicy: internalRedirects,
	}
}

// retryPolicy is for what provably never reached an agent, on another host. Every other kind could execute a request twice. Nobody
// changes it.
var retryPolicy = connectFailures()

func connectFailures() *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:    "connect-failure",
		NumRetries: wrapperspb.UInt32(connectRetries),
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       extensionName,
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: packed(&previoushostsv3.PreviousHostsPredicate{})},
		}},
		HostSelectionRetryMaxAttempts: hostPicks,
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: durationpb.New(retryBase),
			MaxInterval:  durationpb.New(10 * retryBase),
		},
	}
}

// internalRedirects lets Envoy follow a sidecar's 307. It names no routes that may be reached so, which would be repeated in every route of every
// push: a sidecar shows Envoy no redirect but its own, and hides those of its agent in HeaderLocation. Schemes may differ, since behind a TLS
// terminator Envoy sees http where the client said https. Nobody changes it.
var internalRedirects = &routev3.InternalRedirectPolicy{
	MaxInternalRedirects:     wrapperspb.UInt32(4),
	RedirectResponseCodes:    []uint32{307},
	AllowCrossSchemeRedirect: true,
	ResponseHeadersToCopy:    []string{HeaderPin, HeaderInstance, HeaderDeadline, HeaderHop, HeaderOrigin},
}

func overwrite(key, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: key, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func extension(name string, config *anypb.Any) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: config}
}
