// Package envoy turns one spec's route and pools into Envoy resources, and writes the bootstrap that makes a stock Envoy ask for them.
//
// Layout: one scope per host name (SRDS, on demand) that points at one RouteConfiguration "spec/<name>", and one EDS cluster
// "<name>@<version>" per live version. So a change of one spec touches only that spec's few hundred bytes, however many specs there are.
//
// Invariants:
//   - a route never names a cluster that the same Resources do not hold;
//   - the weights of a route sum to 10,000, and every live version has its pin;
//   - the same input gives the same bytes, and a resource's version is a hash of its bytes, so replicas agree without talking;
//   - nothing here makes Envoy execute a request twice: it retries only what was never sent.
//
// The package is pure: no clock, no I/O, no goroutines, no store.
package envoy

import (
	"slices"

	"github.com/specproxy/specproxy/internal/routing"
)

// Spec is all that the builder needs to know about one spec.
type Spec struct {
	Name string
	// Hosts are the names that clients use, without port. A host belongs to one spec; who decides that is the caller.
	Hosts []string
	// Route is the generation in force. Its zero value is a spec that is not routed yet: it has no scope, no route and no clusters.
	Route routing.Route
	// Pools are the versions to choose from. Every version that Route gives weight to, or leads a header to, must be among them and live.
	Pools []Pool
	// BodyBuffer is the size in bytes up to which Envoy keeps a request's body for a hand-over; 0 is versions.DefaultBodyBuffer.
	BodyBuffer uint32
	// Rehearsal under way; nil: none.
	Rehearsal *Rehearsal
}

// Rehearsal is a route of its own beside the real one, which only synthetic executions take: they go to one version or the other as a whole.
type Rehearsal struct {
	// Pin is what synthetic executions carry in HeaderPin, and nobody else knows.
	Pin string
	// Round is told to the sidecar, whose answer names it. Mark is the same for those who wait for acknowledgements.
	Round string
	Mark  string
	// To gets everything, Versions are all that may.
	To       string
	Versions []string
}

// Pool is one version with its instances.
type Pool struct {
	Version string
	// Pin is the x-spec-pin token of the version.
	Pin string
	// Live versions are in the route and have a cluster: those with weight, with instances, the way out, and the draining ones.
	Live bool
	// Instances in any health; only ready and leaving ones become endpoints.
	Instances []routing.Instance
}

// needs is the transport that demands most of a caller, among those by which the pool's instances take requests. Instances that have no traffic
// yet count too, so that an Envoy has the cluster before it has the endpoint.
func (p Pool) needs() routing.Transport {
	most := 0
	for _, in := range p.Instances {
		most = max(most, slices.Index(routing.Transports, in.Transport))
	}
	return routing.Transports[most]
}

// cluster is the name of the pool's cluster. It tells what the cluster is able to do, so a pool whose first instance with TLS comes moves to a
// cluster of another name, as traffic moves to another version: an Envoy first gets the new cluster with its endpoints, then the route, and
// loses the old one last. One that cannot use TLS refuses the cluster and stays where it is.
func (p Pool) cluster(spec string) string { return routing.ClusterOver(spec, p.Version, p.needs()) }

// RouteName is the name of a spec's RouteConfiguration.
func RouteName(spec string) string { return routePrefix + spec }

// SpecOfRoute is the reverse of RouteName; false if the name is not one.
func SpecOfRoute(name string) (string, bool) {
	if len(name) <= len(routePrefix) || name[:len(routePrefix)] != routePrefix {
		return "", false
	}
	return name[len(routePrefix):], true
}

// SpecOfCluster is the spec that a cluster name, see routing.Cluster, belongs to; false if the name is not one.
func SpecOfCluster(name string) (string, bool) {
	for i := range len(name) {
		if name[i] == '@' && i > 0 {
			return name[:i], true
		}
	}
	return "", false
}

const routePrefix = "spec/"
