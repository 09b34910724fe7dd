package envoy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Type URLs of the resources, as they stand in discovery requests.
const (
	TypeListener = "type.googleapis.com/envoy.config.listener.v3.Listener"
	TypeScope    = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
	TypeRoute    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	TypeCluster  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	TypeEndpoint = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
)

// Resource is one Envoy resource, marshalled once and shared by all streams: nobody changes it.
type Resource struct {
	Name string
	// Version is a hash of the bytes, 16 hex digits; that of a RouteConfiguration begins with its generation and a dot.
	Version string
	Body    *anypb.Any

	// Generation and Clusters are set on RouteConfigurations: the route generation, and what the route refers to.
	Generation uint64
	Clusters   []Target
	// Mark is set on a RouteConfiguration with a rehearsal: its round's.
	Mark string
	// Open is set on ClusterLoadAssignments: the addresses that get new work, sorted.
	Open []string
}

// Target is a cluster that a route refers to.
type Target struct {
	Cluster string
	// New executions come to it, by weight or by a header; else only a pin reaches it.
	New bool
}

// Takes says whether the assignment gives new work to address.
func (r *Resource) Takes(address string) bool {
	_, found := slices.BinarySearch(r.Open, address)
	return found
}

// Resources is what one spec looks like to Envoy.
type Resources struct {
	Spec string
	// Scopes are named by their host, sorted.
	Scopes []*Resource
	// Route is nil for a spec that is not routed.
	Route *Resource
	// Clusters and Assignments have the same names, sorted.
	Clusters    []*Resource
	Assignments []*Resource
	// Skipped says, in words, what was left out so that the rest could be built.
	Skipped []string
}

// newResource marshals a message and names its content.
func newResource(name string, message proto.Message) (*Resource, error) {
	// Deterministic: map order must not make two replicas disagree about the version.
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("marshal %s: %w", name, err)
	}
	sum := sha256.Sum256(value)
	return &Resource{
		Name:    name,
		Version: hex.EncodeToString(sum[:8]),
		Body: &anypb.Any{
			TypeUrl: "type.googleapis.com/" + string(message.ProtoReflect().Descriptor().FullName()),
			Value:   value,
		},
	}, nil
}

// packed is an extension's configuration. Marshalling one of Envoy's own messages cannot fail: they hold no invalid UTF-8 but names that
// the builder checked.
func packed(message proto.Message) *anypb.Any {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		panic(fmt.Sprintf("marshal %s: %v", message.ProtoReflect().Descriptor().FullName(), err))
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(message.ProtoReflect().Descriptor().FullName()), Value: value}
}
