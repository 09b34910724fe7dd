package discovery

import (
	"cmp"
	"context"
	"slices"
	"strconv"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// StoreSource reads specs from, and keeps proxies in, the store.
type StoreSource struct{ *store.Store }

// FromStore makes the Source and Memory of a server whose records are in the store.
func FromStore(s *store.Store) StoreSource { return StoreSource{s} }

// Read returns specs as the newest view has them.
func (s StoreSource) Read(names []string) map[string]envoy.Spec {
	v := s.View()
	if names == nil {
		names = v.Specs()
	}
	secret := v.Secret()
	out := make(map[string]envoy.Spec, len(names))
	for _, name := range names {
		if v.Known(name) {
			out[name] = specOfView(v, secret, name)
		}
	}
	return out
}

// Proxies returns the proxies on record.
func (s StoreSource) Proxies() []routing.Proxy { return s.View().Proxies() }

// ProxiesRevision is when a proxy or replica last changed.
func (s StoreSource) ProxiesRevision() int64 { return s.View().ProxiesRevision() }

// Replicas returns those that live.
func (s StoreSource) Replicas() []routing.Replica { return s.View().Replicas() }

// Acks returns what the replicas told.
func (s StoreSource) Acks(spec string) []routing.Acks { return s.View().Acks(spec) }

// SaveAcks tells the other replicas.
func (s StoreSource) SaveAcks(ctx context.Context, self string, acks []routing.Acks) error {
	for batch := range slices.Chunk(acks, ackBatch) {
		if err := s.Store.SaveAcks(ctx, self, batch); err != nil {
			return err
		}
	}
	return nil
}

// SaveProxies writes records of proxies; the last replica that a proxy connected to has the word about it.
func (s StoreSource) SaveProxies(ctx context.Context, self string, proxies []routing.Proxy) error {
	for batch := range slices.Chunk(proxies, proxyBatch) {
		_, err := s.Update(ctx, func(tx *store.Tx) error {
			for _, p := range batch {
				if old, ok := tx.Proxy(p.Node); ok && p.Replica == "" && old.Replica != "" && old.Replica != self {
					if lives := func(r routing.Replica) bool { return r.ID == old.Replica }; p.Forgotten == nil || slices.ContainsFunc(s.View().Replicas(), lives) {
						continue
					}
				}
				tx.PutProxy(p)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// proxyBatch and ackBatch stay well below what etcd takes in one transaction: 128 operations, 1.5 MB.
const proxyBatch, ackBatch = 50, 50

// specOfView gathers what the builder needs to know, which is the versions that are live: those with weight, with instances, with executions
// that may still run, and the way out. Versions that only lie in the archive cost nothing here.
func specOfView(v *store.View, secret []byte, name string) envoy.Spec {
	route, _ := v.Route(name)
	spec := envoy.Spec{Name: name, Route: route}
	named := route.Carried()
	if route.Shadow != nil {
		named = append(named, route.Shadow.Version)
	}
	records := v.Relevant(name, named)
	exit, _, err := routing.Exit(routing.Newest(route.Splits, records), route.Splits, records)
	if err == nil {
		named = append(named, exit) // a spec without a way out has none to keep loaded
	}
	instances := map[string][]routing.Instance{}
	for _, in := range v.Instances(name) {
		instances[in.Version] = append(instances[in.Version], in)
		named = append(named, in.Version)
	}
	for _, d := range v.UnfinishedDrains(name) {
		named = append(named, d.Version)
	}
	versions.Sort(named)
	for _, version := range slices.Compact(named) {
		r, ok := v.Version(name, version)
		if !ok {
			continue
		}
		spec.Pools = append(spec.Pools, envoy.Pool{
			Version: version, Pin: routing.Pin(secret, name, version), Live: true, Instances: instances[version],
		})
		// Clients of every live version must find it, and every one of them gets the room it declared.
		hosts := r.Manifest.Hosts
		if len(hosts) == 0 {
			hosts = []string{name + ".agents"}
		}
		spec.Hosts = append(spec.Hosts, hosts...)
		buffer := cmp.Or(r.Manifest.Request.BodyBuffer, versions.DefaultBodyBuffer)
		spec.BodyBuffer = max(spec.BodyBuffer, uint32(buffer))
	}
	if ro, ok := v.Rollout(name); ok {
		if round := ro.RoundInForce(); round != nil {
			spec.Rehearsal = &envoy.Rehearsal{Pin: round.Pin, Round: strconv.Itoa(round.Number), Mark: round.Mark(), To: ro.Stable, Versions: []string{ro.Stable, ro.Canary}}
			if round.Weight() > 0 {
				spec.Rehearsal.To = ro.Canary
			}
		}
	}
	return spec
}
