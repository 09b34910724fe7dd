package discovery

import (
	"context"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// Source is where the specs come from.
type Source interface {
	// Wait returns the newest revision once it is greater than after, else ctx's error.
	Wait(ctx context.Context, after int64) (int64, error)
	// Changed names the specs that changed after a revision, and the revision up to which that holds. If complete is false any may have.
	Changed(after int64) (specs []string, revision int64, complete bool)
	// Read returns the named specs, or all of them if names is nil, no older than the last revision that Changed returned. A spec that
	// does not exist is not in the answer.
	Read(names []string) map[string]envoy.Spec
}

// Memory keeps the proxies that were ever seen, and shares what is known of them with the other replicas.
type Memory interface {
	// ProxiesRevision is the newest at which the answer of Proxies, Replicas or Acks changed.
	ProxiesRevision() int64
	Proxies() []routing.Proxy
	// SaveProxies writes records of proxies: of those that are connected to this replica, which is self, and of those that were until now and
	// have no replica in their record. Of the latter, one that has gone on to another replica meanwhile is that one's,
	// unless it is forgotten.
	SaveProxies(ctx context.Context, self string, proxies []routing.Proxy) error
	// Self is this replica's id; empty: it is alone, or not among the others just now. The channel is closed when that changes; it may be nil.
	Self() (id string, changed <-chan struct{})
	// Replicas that live.
	Replicas() []routing.Replica
	// Acks that the replicas told of a spec, or of all if it is empty.
	Acks(spec string) []routing.Acks
	// SaveAcks tells the other replicas, as self.
	SaveAcks(ctx context.Context, self string, acks []routing.Acks) error
}
