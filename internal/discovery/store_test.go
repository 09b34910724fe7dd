package discovery_test

import (
	"slices"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir(), Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func write(t *testing.T, s *store.Store, fn func(*store.Tx)) {
	t.Helper()
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
		t.Fatal(err)
	}
}

func record(version string, first uint64, standing versions.Standing, m versions.Manifest) versions.Record {
	m.Name, m.Version = "a", version
	return versions.Record{
		Spec: "a", Version: version, Digest: "sha256:" + version, Manifest: m, Standing: standing,
		FirstWeight: first, HeldAll: standing == versions.Good,
	}
}

func TestTheStoresSpecsHaveTheLiveVersions(t *testing.T) {
	s := openStore(t)
	write(t, s, func(tx *store.Tx) {
		tx.PutVersion(record("1.0.0", 1, versions.Good, versions.Manifest{}))        // long gone
		tx.PutVersion(record("1.1.0", 2, versions.Good, versions.Manifest{}))        // the way out
		tx.PutVersion(record("1.2.0", 3, versions.Quarantined, versions.Manifest{})) // draining
		tx.PutVersion(record("1.3.0", 4, versions.Quarantined, versions.Manifest{})) // drained
		tx.PutVersion(record("1.4.0", 0, versions.Published, versions.Manifest{Hosts: []string{"canary.example"}}))
		tx.PutVersion(record("1.5.0", 5, versions.Candidate,
			versions.Manifest{Hosts: []string{"a.example"}, Request: versions.Request{BodyBuffer: 4 << 20}}))
		tx.PutRoute(routing.Route{Spec: "a", Generation: 5, Splits: []routing.Split{{Version: "1.5.0", BasisPoints: routing.Full}}})
		tx.PutDrain(drain.Drain{Spec: "a", Version: "1.2.0", State: drain.Draining})
		tx.PutDrain(drain.Drain{Spec: "a", Version: "1.3.0", State: drain.Drained})
		tx.PutInstance(routing.Instance{ID: "i", Spec: "a", Version: "1.4.0", Address: "10.0.0.1:80", Health: routing.Ready})
		b := record("1.0.0", 0, versions.Published, versions.Manifest{})
		b.Spec = "b"
		tx.PutVersion(b)
	})
	all := discovery.FromStore(s).Read(nil)
	if len(all) != 2 {
		t.Fatalf("specs: %v", all)
	}
	a := all["a"]
	var live []string
	for _, p := range a.Pools {
		if p.Live {
			live = append(live, p.Version)
		}
		if p.Pin != routing.Pin(s.View().Secret(), "a", p.Version) {
			t.Errorf("version %s has the pin %q", p.Version, p.Pin)
		}
	}
	if want := []string{"1.1.0", "1.2.0", "1.4.0", "1.5.0"}; !slices.Equal(live, want) {
		t.Errorf("live: %q, want %q", live, want)
	}
	for _, host := range []string{"a.agents", "canary.example", "a.example"} {
		if !slices.Contains(a.Hosts, host) {
			t.Errorf("hosts %q lack %s", a.Hosts, host)
		}
	}
	if a.BodyBuffer != 4<<20 {
		t.Errorf("body buffer %d", a.BodyBuffer)
	}
	if res, err := envoy.Build(a); err != nil || len(res.Clusters) != 4 {
		t.Errorf("resources: %+v, %v", res, err)
	}
	if b := all["b"]; len(b.Route.Splits) != 0 {
		t.Errorf("a spec without a route: %+v", b)
	}
	if some := discovery.FromStore(s).Read([]string{"a", "nobody"}); len(some) != 1 {
		t.Errorf("by name: %v", some)
	}
}

func TestTheStoreKeepsProxies(t *testing.T) {
	s := openStore(t)
	at := time.Date(2026, 11, 20, 14, 0, 0, 0, time.UTC)
	var proxies []routing.Proxy
	for i := range 120 {
		proxies = append(proxies, routing.Proxy{Node: "edge-" + string(rune('a'+i%26)) + string(rune('a'+i/26)), LastSeen: at, Specs: []string{"a"}})
	}
	if err := discovery.FromStore(s).SaveProxies(t.Context(), "", proxies); err != nil {
		t.Fatal(err)
	}
	d := discovery.New(discovery.Options{Store: s, Log: zaptest.NewLogger(t)})
	if got := d.Proxies(); len(got) != 0 {
		t.Errorf("proxies of another day: %+v", got)
	}
	proxies[0].LastSeen = time.Now()
	if err := discovery.FromStore(s).SaveProxies(t.Context(), "", proxies[:1]); err != nil {
		t.Fatal(err)
	}
	if e := d.Effect("a", 1); len(e.Gone) != 1 || e.Gone[0].Node != proxies[0].Node {
		t.Errorf("effect: %+v", e)
	}
}
