package discovery

import (
	"cmp"
	"context"
	"slices"

	"github.com/specproxy/specproxy/internal/drain"
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
		if records := v.Versions(name); len(records) > 0 {
			out[name] = specOfView(v, secret, name, records)
		}
	}
	return out
}

// Proxies returns the proxies on record.
func (s StoreSource) Proxies() []routing.Proxy { return s.View().Proxies() }

// SaveProxies writes records of proxies; the last one to write a record wins.
func (s StoreSource) SaveProxies(ctx context.Context, proxies []routing.Proxy) error {
	for batch := range slices.Chunk(proxies, proxyBatch) {
		_, err := s.Update(ctx, func(tx *store.Tx) error {
			for _, p := range batch {
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

// proxyBatch stays well below what etcd takes in one transaction.
const proxyBatch = 50

// specOfView gathers what the builder needs to know.
func specOfView(v *store.View, secret []byte, name string, records []versions.Record) envoy.Spec {
	route, _ := v.Route(name)
	spec := envoy.Spec{Name: name, Route: route}
	exit, _, err := routing.Exit(routing.Newest(route.Splits, records), route.Splits, records)
	if err != nil {
		exit = "" // a spec without a way out has none to keep loaded
	}
	for _, r := range records {
		instances := v.InstancesOf(name, r.Version)
		d, _ := v.Drain(name, r.Version)
		pool := envoy.Pool{
			Version:   r.Version,
			Pin:       routing.Pin(secret, name, r.Version),
			Live:      route.Weight(r.Version) > 0 || len(instances) > 0 || r.Version == exit || draining(d),
			Instances: instances,
		}
		spec.Pools = append(spec.Pools, pool)
		if !pool.Live {
			continue
		}
		// Clients of every live version must find it, and every one of them gets the room it declared.
		hosts := r.Manifest.Hosts
		if len(hosts) == 0 {
			hosts = []string{name + ".agents"}
		}
		spec.Hosts = append(spec.Hosts, hosts...)
		buffer := cmp.Or(r.Manifest.Request.BodyBuffer, versions.DefaultBodyBuffer)
		spec.BodyBuffer = max(spec.BodyBuffer, uint32(buffer))
	}
	return spec
}

// draining says that executions may still run in the pool. One that has drained is live only while it has instances.
func draining(d drain.Drain) bool {
	return d.State == drain.Ordered || d.State == drain.Draining || d.State == drain.Held
}
