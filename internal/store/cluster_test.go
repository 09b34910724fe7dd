package store_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
)

// etcd starts a member that listens on loopback, as a cluster would, and returns its address and a client.
func etcd(t *testing.T) (address string, client *clientv3.Client) {
	t.Helper()
	c := embed.NewConfig()
	c.Dir = filepath.Join(t.TempDir(), "etcd")
	c.ListenPeerUrls = nil
	c.ListenClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	c.TickMs, c.ElectionMs = 10, 100
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	member, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(member.Close)
	<-member.Server.ReadyNotify()
	address = member.Clients[0].Addr().String()
	client, err = clientv3.New(clientv3.Config{Endpoints: []string{address}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return address, client
}

func join(t *testing.T, address string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{Endpoints: []string{address}})
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

func TestReplicasShareOneTruth(t *testing.T) {
	address, _ := etcd(t)
	a, b := join(t, address), join(t, address)
	if !slices.Equal(a.View().Secret(), b.View().Secret()) {
		t.Error("two replicas have two secrets")
	}
	// Whoever comes second bases its generation on the first one's, however stale its view is.
	for range 20 {
		for _, s := range []*store.Store{a, b} {
			update(t, s, func(tx *store.Tx) {
				r, _ := tx.Route("a")
				tx.PutRoute(route("a", r.Generation+1, "1.0.0"))
			})
		}
	}
	rev := b.View().Revision()
	if _, err := a.Wait(t.Context(), rev-1); err != nil {
		t.Fatal(err)
	}
	if r, _ := a.View().Route("a"); r.Generation != 40 || len(a.View().History("a")) != 40 {
		t.Errorf("generation %d, %d in the history, want 40", r.Generation, len(a.View().History("a")))
	}
}

func TestClusterThatDoesNotAnswer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrUnexpectedEOF)
	_, err = store.Open(ctx, store.Options{Endpoints: []string{ln.Addr().String()}})
	if err == nil || !strings.Contains(err.Error(), ln.Addr().String()) || !strings.Contains(err.Error(), "--etcd-endpoints") {
		t.Errorf("err = %v", err)
	}
}

func TestCompactedPastTheView(t *testing.T) {
	address, client := etcd(t)
	wire := newWire(t, address)
	cutOff, healthy := join(t, wire.address()), join(t, address)
	update(t, healthy, func(tx *store.Tx) {
		tx.PutRoute(route("gone", 1, "1.0.0"))
		tx.PutInstance(routing.Instance{ID: "i", Spec: "gone", Version: "1.0.0"})
	})
	if _, err := cutOff.Wait(t.Context(), healthy.View().Revision()-1); err != nil {
		t.Fatal(err)
	}
	old := cutOff.View()

	wire.cut()
	update(t, healthy, func(tx *store.Tx) { tx.DeleteInstance("i") })
	rev := update(t, healthy, func(tx *store.Tx) { tx.PutRoute(route("new", 1, "1.0.0")) })
	if _, err := client.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	// Both replicas enter themselves among the members meanwhile, so that the view may move, but not as far as these.
	stale := cutOff.View()
	if _, ok := stale.Instance("i"); !ok {
		t.Fatal("the deletion arrived although etcd was out of reach")
	}
	if _, ok := stale.Route("new"); ok {
		t.Fatal("the new route arrived although etcd was out of reach")
	}
	wire.mend()

	if _, err := cutOff.Wait(t.Context(), rev-1); err != nil {
		t.Fatal(err)
	}
	v := cutOff.View()
	if _, ok := v.Instance("i"); ok || len(v.InstancesOf("gone", "1.0.0")) != 0 {
		t.Error("an instance whose deletion was compacted away is still there")
	}
	if _, ok := v.Route("new"); !ok {
		t.Error("a route that was written meanwhile is not there")
	}
	if specs, _, complete := cutOff.Changed(old.Revision()); complete {
		t.Errorf("Changed claims to know all changes (%v) across the gap", specs)
	}
	next := update(t, healthy, func(tx *store.Tx) { tx.PutRoute(route("new", 2, "1.0.0")) })
	if _, err := cutOff.Wait(t.Context(), next-1); err != nil {
		t.Fatal(err)
	}
	if specs, _, complete := cutOff.Changed(v.Revision()); !complete || !slices.Equal(specs, []string{"new"}) {
		t.Errorf("after the gap Changed = %v, %v", specs, complete)
	}
}

const routeKey = "specproxy/v1/routes/a"

func TestDamagedRecordIsNamed(t *testing.T) {
	address, client := etcd(t)
	s := join(t, address)
	update(t, s, func(tx *store.Tx) { tx.PutRoute(route("a", 1, "1.0.0")) })
	resp, err := client.Put(t.Context(), routeKey, `{"spec":"a","generation":`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(t.Context(), resp.Header.Revision-1); err != nil {
		t.Fatal(err)
	}
	if r, ok := s.View().Route("a"); !ok || r.Generation != 1 {
		t.Error("the running replica did not keep the last legible route")
	}
	_, err = s.Update(t.Context(), func(tx *store.Tx) error {
		r, _ := tx.Route("a")
		tx.PutRoute(route("a", r.Generation+1, "1.0.0"))
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), routeKey) {
		t.Errorf("an update based on a damaged record: err = %v", err)
	}
	if _, err := store.Open(t.Context(), store.Options{Endpoints: []string{address}}); err == nil || !strings.Contains(err.Error(), routeKey) {
		t.Errorf("open with a damaged record: err = %v", err)
	}
	if _, err := client.Put(t.Context(), routeKey, `{"spec":"a","generation":7}`); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(t.Context(), resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *store.Tx) { tx.PutRoute(route("a", 8, "1.0.0")) })
}

func TestUnknownKeysAreLeftAlone(t *testing.T) {
	address, client := etcd(t)
	if _, err := client.Put(t.Context(), "specproxy/v1/inventions/x", "of a newer version"); err != nil {
		t.Fatal(err)
	}
	s := join(t, address)
	update(t, s, func(tx *store.Tx) { tx.PutRoute(route("a", 1, "1.0.0")) })
}

// wire is a TCP relay that can be cut: then it drops its connections and takes no new ones.
type wire struct {
	ln     net.Listener
	target string
	wg     sync.WaitGroup

	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func newWire(t *testing.T, target string) *wire {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{ln: ln, target: target}
	w.wg.Go(w.accept)
	t.Cleanup(func() {
		ln.Close()
		w.cut()
		w.wg.Wait()
	})
	return w
}

func (w *wire) address() string { return w.ln.Addr().String() }

func (w *wire) accept() {
	for {
		in, err := w.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", w.target)
		if err != nil {
			in.Close()
			continue
		}
		if !w.keep(in, out) {
			continue
		}
		w.wg.Go(func() { pass(out, in) })
		w.wg.Go(func() { pass(in, out) })
	}
}

// pass copies until from ends, and then ends to.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from) // Broken connections are what the wire is for.
	to.Close()
}

func (w *wire) keep(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		for _, c := range conns {
			c.Close()
		}
		return false
	}
	w.conns = append(w.conns, conns...)
	return true
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = false
}

// What was overwritten or deleted cannot be read at an earlier revision any more, and replicas go on.
func TestForgetLeavesNoHistory(t *testing.T) {
	address, client := etcd(t)
	s, other := join(t, address), join(t, address)
	secret := capture.Part{Text: "a secret of a customer"}
	before := update(t, s, func(tx *store.Tx) {
		tx.PutExcerpt(store.Excerpt{Spec: "shop", Version: "1.0.0", Execution: "x", Request: secret})
		tx.PutRoute(route("shop", 1, "1.0.0"))
	})
	readable := func() bool {
		then, err := client.Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithRev(before))
		if err != nil {
			if !errors.Is(err, rpctypes.ErrCompacted) {
				t.Fatal(err)
			}
			return false
		}
		return slices.ContainsFunc(then.Kvs, func(kv *mvccpb.KeyValue) bool { return strings.Contains(string(kv.Value), secret.Text) })
	}
	update(t, s, func(tx *store.Tx) {
		tx.PutExcerpt(store.Excerpt{Spec: "shop", Version: "1.0.0", Execution: "x", Erased: true})
	})
	if !readable() {
		t.Fatal("the test cannot see history")
	}
	for range 2 { // the second time there is nothing to forget
		if err := s.Forget(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if readable() {
		t.Error("what was overwritten can be read at the revision before")
	}
	rev := update(t, s, func(tx *store.Tx) { tx.PutRoute(route("shop", 2, "1.0.0")) })
	if _, err := other.Wait(t.Context(), rev-1); err != nil {
		t.Fatal(err)
	}
	if r, _ := other.View().Route("shop"); r.Generation != 2 {
		t.Errorf("the other replica is at %+v", r)
	}
}
