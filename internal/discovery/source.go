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

// Memory keeps the proxies that were ever seen.
type Memory interface {
	Proxies() []routing.Proxy
	SaveProxies(ctx context.Context, proxies []routing.Proxy) error
}
