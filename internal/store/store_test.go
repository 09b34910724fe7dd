package store_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sync/errgroup"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// open opens a store in dir until the test ends.
func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DataDir: dir, Log: zaptest.NewLogger(t)})
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

// A logger that says less than what etcd is held to must stay so, without a word about it.
func TestQuietLoggerIsTakenAsItIs(t *testing.T) {
	var complaints zaptest.Buffer
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), &complaints, zapcore.DPanicLevel), zap.ErrorOutput(&complaints))
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if got := complaints.String(); got != "" {
		t.Errorf("the logger was complained about: %s", got)
	}
}

func update(t *testing.T, s *store.Store, fn func(*store.Tx)) int64 {
	t.Helper()
	rev, err := s.Update(t.Context(), func(tx *store.Tx) error { fn(tx); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func route(spec string, generation uint64, versions ...string) routing.Route {
	r := routing.Route{Spec: spec, Generation: generation, Kind: routing.KindWeights}
	for _, v := range versions {
		r.Splits = append(r.Splits, routing.Split{Version: v, BasisPoints: uint32(routing.Full / len(versions))})
	}
	return r
}

func TestReadYourWrites(t *testing.T) {
	s := open(t, t.TempDir())
	opened := time.Date(2026, 11, 20, 14, 0, 0, 0, time.UTC)
	rev := update(t, s, func(tx *store.Tx) {
		for _, v := range []string{"10.0.0", "2.0.3", "2.1.0-rc.1", "2.1.0"} {
			tx.PutVersion(versions.Record{Spec: "a", Version: v, Digest: "sha256:" + v, Standing: versions.Published})
		}
		tx.PutVersion(versions.Record{Spec: "a-b", Version: "1.0.0"})
		tx.PutRoute(route("a", 1, "2.0.3"))
		tx.PutInstance(routing.Instance{ID: "i/1", Spec: "a", Version: "2.0.3", Health: routing.Ready})
		tx.PutInstance(routing.Instance{ID: "i2", Spec: "a", Version: "2.0.30"})
		tx.PutInstance(routing.Instance{ID: "i3", Spec: "a-b", Version: "1.0.0"})
		tx.PutDrain(drain.Drain{Spec: "a", Version: "2.1.0", Generation: 1, State: drain.Ordered})
		tx.PutProxy(routing.Proxy{Node: "edge/1", Specs: []string{"a"}})
		tx.PutFailures(store.FailureBatch{Spec: "a", Version: "2.1.0", Instance: "i/1", Seq: 10})
		tx.PutFailures(store.FailureBatch{Spec: "a", Version: "2.1.0", Instance: "i/1", Seq: 9})
		for n := range 11 {
			tx.AppendPostMortem(tx.NextPostMortemID(), opened.Add(time.Duration(n/3)*time.Hour), "ada", postmortem.Opened{Specs: []string{"a"}})
		}
		check(t, "inside the transaction", tx)
	})
	if got := s.View().Revision(); got != rev {
		t.Errorf("view is at revision %d after a commit at %d", got, rev)
	}
	check(t, "after it", s.View())

	update(t, s, func(tx *store.Tx) {
		tx.PutRoute(route("a", 2, "2.1.0", "2.0.3"))
		tx.DeleteInstance("i/1")
		tx.DeleteInstance("never there")
		tx.DeleteFailures("a", "2.1.0")
		if _, ok := tx.Instance("i/1"); ok {
			t.Error("a deleted instance is still there inside its transaction")
		}
	})
	v := s.View()
	if got := v.History("a"); len(got) != 2 || got[0].Generation != 1 || got[1].Generation != 2 {
		t.Errorf("history = %v", got)
	}
	if got := v.InstancesOf("a", "2.0.3"); len(got) != 0 {
		t.Errorf("instances of a:2.0.3 = %v after the deletion", got)
	}
	if got := v.Failures("a", "2.1.0"); len(got) != 0 {
		t.Errorf("failures = %v after the deletion", got)
	}
}

// check looks at the records that TestReadYourWrites wrote.
func check(t *testing.T, when string, r store.Reader) {
	t.Helper()
	var names []string
	for _, v := range r.Versions("a") {
		names = append(names, v.Version)
	}
	var ids []string
	for _, p := range r.PostMortems() {
		ids = append(ids, p.ID)
	}
	_, hasRoute := r.Route("a")
	_, noRoute := r.Route("a-b")
	i, hasInstance := r.Instance("i/1")
	d, hasDrain := r.Drain("a", "2.1.0")
	_, hasPM := r.PostMortem("PM-11")
	batches := r.Failures("a", "2.1.0")
	for _, c := range []struct {
		what string
		ok   bool
	}{
		{"versions in semantic order", slices.Equal(names, []string{"2.0.3", "2.1.0-rc.1", "2.1.0", "10.0.0"})},
		{"specs", slices.Equal(r.Specs(), []string{"a", "a-b"})},
		{"route", hasRoute && !noRoute && len(r.Routes()) == 1},
		{"history", len(r.History("a")) == 1},
		{"instance", hasInstance && i.Health == routing.Ready},
		{"instances of the spec alone", len(r.Instances("a")) == 2},
		{"instances of the version alone", len(r.InstancesOf("a", "2.0.3")) == 1},
		{"drain", hasDrain && d.State == drain.Ordered && len(r.Drains("a")) == 1 && len(r.AllDrains()) == 1},
		{"post-mortems newest first", slices.Equal(ids, []string{"PM-11", "PM-10", "PM-9", "PM-8", "PM-7", "PM-6", "PM-5", "PM-4", "PM-3", "PM-2", "PM-1"})},
		{"post-mortem", hasPM},
		{"proxies", len(r.Proxies()) == 1 && r.Proxies()[0].Node == "edge/1"},
		{"failures in order", len(batches) == 2 && batches[0].Seq == 9},
		{"secret", len(r.Secret()) == 32},
	} {
		if !c.ok {
			t.Errorf("%s: %s: wrong", when, c.what)
		}
	}
}

func TestErrorAborts(t *testing.T) {
	s := open(t, t.TempDir())
	before := s.View().Revision()
	refused := errors.New("no")
	_, err := s.Update(t.Context(), func(tx *store.Tx) error {
		tx.PutRoute(route("a", 1, "1.0.0"))
		return refused
	})
	if !errors.Is(err, refused) {
		t.Errorf("err = %v", err)
	}
	// The next commit must not carry any of it.
	update(t, s, func(tx *store.Tx) { tx.PutRoute(route("b", 1, "1.0.0")) })
	if _, ok := s.View().Route("a"); ok {
		t.Error("an aborted write is there")
	}
	if s.View().Revision() != before+1 {
		t.Errorf("revision moved from %d to %d", before, s.View().Revision())
	}
}

func TestReadOnlyUpdateReturnsItsRevision(t *testing.T) {
	s := open(t, t.TempDir())
	rev := update(t, s, func(tx *store.Tx) { tx.PutRoute(route("a", 1, "1.0.0")) })
	if got := update(t, s, func(tx *store.Tx) { tx.Routes() }); got != rev {
		t.Errorf("revision %d, want %d", got, rev)
	}
}

func TestWritesThatBreakAnInvariantAreRefused(t *testing.T) {
	s := open(t, t.TempDir())
	update(t, s, func(tx *store.Tx) {
		tx.PutVersion(versions.Record{Spec: "a", Version: "1.0.0", Digest: "sha256:1"})
		tx.PutRoute(route("a", 3, "1.0.0"))
		tx.ClaimHost("h", "a")
		tx.PutInstance(routing.Instance{ID: "i", Spec: "a", Version: "1.0.0"})
	})
	for _, c := range []struct {
		name, want string
		fn         func(*store.Tx)
	}{
		{"digest", "cannot become sha256:2", func(tx *store.Tx) {
			tx.PutVersion(versions.Record{Spec: "a", Version: "1.0.0", Digest: "sha256:2"})
		}},
		{"older generation", "generation 2 comes too late", func(tx *store.Tx) { tx.PutRoute(route("a", 2, "1.0.0")) }},
		{"same generation, other splits", "has other splits already", func(tx *store.Tx) { tx.PutRoute(route("a", 3, "2.0.0")) }},
		{"host of another spec", "host h belongs to a", func(tx *store.Tx) { tx.ClaimHost("h", "b") }},
		{"record without a name", "lacks a part of its name", func(tx *store.Tx) { tx.PutProxy(routing.Proxy{}) }},
		{"no generation", "has no generation", func(tx *store.Tx) { tx.PutRoute(route("b", 0, "1.0.0")) }},
		{"instance of another version", "register it under another id", func(tx *store.Tx) {
			tx.PutInstance(routing.Instance{ID: "i", Spec: "a", Version: "2.0.0"})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := s.View().Revision()
			_, err := s.Update(t.Context(), func(tx *store.Tx) error { c.fn(tx); return nil })
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("err = %v, want %q", err, c.want)
			}
			if s.View().Revision() != before {
				t.Error("something was written")
			}
		})
	}
	same := route("a", 3, "1.0.0")
	same.Freeze = &routing.Freeze{PostMortem: "PM-1"}
	update(t, s, func(tx *store.Tx) { tx.PutRoute(same) })
	if r, _ := s.View().Route("a"); r.Freeze == nil {
		t.Error("a route could not be frozen within its generation")
	}
}

func TestConcurrentUpdatesLoseNothing(t *testing.T) {
	s := open(t, t.TempDir())
	const workers, each = 8, 25
	g, ctx := errgroup.WithContext(t.Context())
	for range workers {
		g.Go(func() error {
			for range each {
				_, err := s.Update(ctx, func(tx *store.Tx) error {
					r, _ := tx.Route("a")
					tx.PutRoute(route("a", r.Generation+1, "1.0.0"))
					tx.AppendPostMortem(tx.NextPostMortemID(), time.Now(), "ada", postmortem.Opened{})
					return nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	v := s.View()
	r, _ := v.Route("a")
	if r.Generation != workers*each || len(v.History("a")) != workers*each || len(v.PostMortems()) != workers*each {
		t.Errorf("generation %d, %d in the history, %d post-mortems; want %d of each", r.Generation, len(v.History("a")), len(v.PostMortems()), workers*each)
	}
}

// TestConflicts commits another change between the reads and the commit of a transaction, once for each way to read.
func TestConflicts(t *testing.T) {
	for _, c := range []struct {
		name   string
		read   func(store.Reader)
		change func(*store.Tx)
		reruns bool
	}{
		{"record changed", func(r store.Reader) { r.Route("a") }, func(tx *store.Tx) { tx.PutRoute(route("a", 2, "1.0.0")) }, true},
		{"other record changed", func(r store.Reader) { r.Route("b") }, func(tx *store.Tx) { tx.PutRoute(route("a", 2, "1.0.0")) }, false},
		{"absent record appeared", func(r store.Reader) { r.Version("a", "9.0.0") }, func(tx *store.Tx) { tx.PutVersion(versions.Record{Spec: "a", Version: "9.0.0"}) }, true},
		{"record deleted", func(r store.Reader) { r.Instance("i1") }, func(tx *store.Tx) { tx.DeleteInstance("i1") }, true},
		{"list grew", func(r store.Reader) { r.Versions("a") }, func(tx *store.Tx) { tx.PutVersion(versions.Record{Spec: "a", Version: "9.0.0"}) }, true},
		{"list of another spec grew", func(r store.Reader) { r.Versions("a") }, func(tx *store.Tx) { tx.PutVersion(versions.Record{Spec: "ab", Version: "9.0.0"}) }, false},
		{"listed record changed", func(r store.Reader) { r.History("a") }, func(tx *store.Tx) { tx.PutRoute(route("a", 2, "1.0.0")) }, true},
		{"empty list grew", func(r store.Reader) { r.Drains("a") }, func(tx *store.Tx) { tx.PutDrain(drain.Drain{Spec: "a", Version: "1.0.0"}) }, true},
		{"pool shrank", func(r store.Reader) { r.InstancesOf("a", "1.0.0") }, func(tx *store.Tx) { tx.DeleteInstance("i1") }, true},
		{"pool grew", func(r store.Reader) { r.InstancesOf("a", "1.0.0") }, func(tx *store.Tx) { tx.PutInstance(routing.Instance{ID: "i9", Spec: "a", Version: "1.0.0"}) }, true},
		{"member changed", func(r store.Reader) { r.InstancesOf("a", "1.0.0") }, func(tx *store.Tx) {
			tx.PutInstance(routing.Instance{ID: "i1", Spec: "a", Version: "1.0.0", Health: routing.Ready})
		}, true},
		{"another pool grew", func(r store.Reader) { r.InstancesOf("a", "1.0.0") }, func(tx *store.Tx) { tx.PutInstance(routing.Instance{ID: "i9", Spec: "a", Version: "1.0.00"}) }, false},
		{"a pool of the spec shrank", func(r store.Reader) { r.Instances("a") }, func(tx *store.Tx) { tx.DeleteInstance("i1") }, true},
		{"a pool of another spec grew", func(r store.Reader) { r.Instances("a") }, func(tx *store.Tx) { tx.PutInstance(routing.Instance{ID: "i9", Spec: "ab", Version: "1.0.0"}) }, false},
		{"failures deleted", func(r store.Reader) { r.Failures("a", "1.0.0") }, func(tx *store.Tx) { tx.DeleteFailures("a", "1.0.0") }, true},
		{"failures added", func(r store.Reader) { r.Failures("a", "1.0.0") }, func(tx *store.Tx) {
			tx.PutFailures(store.FailureBatch{Spec: "a", Version: "1.0.0", Instance: "i1", Seq: 2})
		}, true},
		{"host claimed", func(r store.Reader) { r.HostOwner("h") }, func(tx *store.Tx) { tx.ClaimHost("h", "a") }, true},
		{"failures dropped", func(r store.Reader) { r.Failures("a", "1.0.0") }, func(tx *store.Tx) {
			batches := tx.Failures("a", "1.0.0")
			tx.DropFailures(batches[0], batches[1])
		}, true},
		{"nothing read", func(store.Reader) {}, func(tx *store.Tx) { tx.PutRoute(route("a", 2, "1.0.0")) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, t.TempDir())
			update(t, s, func(tx *store.Tx) {
				tx.PutVersion(versions.Record{Spec: "a", Version: "1.0.0"})
				tx.PutRoute(route("a", 1, "1.0.0"))
				tx.PutRoute(route("b", 1, "1.0.0"))
				tx.PutInstance(routing.Instance{ID: "i1", Spec: "a", Version: "1.0.0"})
				tx.PutFailures(store.FailureBatch{Spec: "a", Version: "1.0.0", Instance: "i1", Seq: 1})
				tx.PutFailures(store.FailureBatch{Spec: "a", Version: "1.0.0", Instance: "i1", Seq: 3})
			})
			runs := 0
			update(t, s, func(tx *store.Tx) {
				runs++
				c.read(tx)
				tx.PutProxy(routing.Proxy{Node: "edge"})
				if runs == 1 {
					update(t, s, c.change)
				}
			})
			if rerun := runs > 1; rerun != c.reruns {
				t.Errorf("ran %d times, conflict expected: %v", runs, c.reruns)
			}
			if len(s.View().Proxies()) != 1 {
				t.Error("the write is not there")
			}
		})
	}
}

func TestDroppedFailuresAreCounted(t *testing.T) {
	s := open(t, t.TempDir())
	batch := func(seq uint64, n int) store.FailureBatch {
		return store.FailureBatch{Spec: "a", Version: "1.0.0", Instance: "i", Seq: seq, Executions: make([]store.Failure, n)}
	}
	update(t, s, func(tx *store.Tx) {
		tx.PutFailures(batch(1, 3))
		tx.PutFailures(batch(2, 4))
		tx.PutFailures(batch(3, 5))
	})
	seen := s.View().Failures("a", "1.0.0")
	update(t, s, func(tx *store.Tx) { tx.DropFailures(seen[0], seen[1]) })
	update(t, s, func(tx *store.Tx) { tx.DropFailures(seen[1], seen[2]) })
	// A replica whose view is older does the same again: it must neither count twice nor bring back what is gone.
	update(t, s, func(tx *store.Tx) { tx.DropFailures(seen[0], seen[1]) })
	update(t, s, func(tx *store.Tx) { tx.DropFailures(seen[1], seen[2]) })
	left := s.View().Failures("a", "1.0.0")
	if len(left) != 1 || left[0].Seq != 3 || left[0].Omitted != 7 || len(left[0].Executions) != 5 {
		t.Errorf("left = %+v", left)
	}
}

func TestWaitAndChanged(t *testing.T) {
	s := open(t, t.TempDir())
	start := s.View().Revision()

	waited := make(chan int64, 1)
	go func() {
		rev, err := s.Wait(t.Context(), start)
		if err != nil {
			t.Error(err)
		}
		waited <- rev
	}()
	first := update(t, s, func(tx *store.Tx) {
		tx.PutRoute(route("b", 1, "1.0.0"))
		tx.PutInstance(routing.Instance{ID: "i", Spec: "a", Version: "1.0.0"})
	})
	if rev := <-waited; rev != first {
		t.Errorf("Wait returned revision %d, want %d", rev, first)
	}
	update(t, s, func(tx *store.Tx) {
		tx.AppendPostMortem("PM-1", time.Now(), "ada", postmortem.Opened{Specs: []string{"c", "d"}})
		tx.PutProxy(routing.Proxy{Node: "edge", Specs: []string{"z"}})
	})
	last := update(t, s, func(tx *store.Tx) { tx.DeleteInstance("i") })

	for _, c := range []struct {
		after    int64
		specs    []string
		complete bool
	}{
		{start - 1, nil, false},
		{start, []string{"a", "b", "c", "d"}, true},
		{first, []string{"a", "c", "d"}, true},
		{last - 1, []string{"a"}, true},
		{last, nil, true},
		{last + 5, nil, true},
	} {
		specs, rev, complete := s.Changed(c.after)
		if !slices.Equal(specs, c.specs) || rev != last || complete != c.complete {
			t.Errorf("Changed(%d) = %v, %d, %v; want %v, %d, %v", c.after, specs, rev, complete, c.specs, last, c.complete)
		}
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := s.Wait(ctx, last); err == nil || err.Error() != "enough" {
		t.Errorf("Wait returned %v, want the context's cause", err)
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	s := open(t, t.TempDir())
	ended := make(chan error, 1)
	go func() {
		_, err := s.Wait(t.Context(), s.View().Revision())
		ended <- err
	}()
	v := s.View()
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, store.ErrClosed) {
		t.Errorf("Wait returned %v", err)
	}
	if len(v.Secret()) != 32 {
		t.Error("a view did not outlive its store")
	}
}

func TestViewDoesNotChange(t *testing.T) {
	s := open(t, t.TempDir())
	update(t, s, func(tx *store.Tx) { tx.PutRoute(route("a", 1, "1.0.0")) })
	old := s.View()
	update(t, s, func(tx *store.Tx) { tx.PutRoute(route("a", 2, "2.0.0")) })
	if r, _ := old.Route("a"); r.Generation != 1 {
		t.Errorf("an old view shows generation %d", r.Generation)
	}
}

func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	s := open(t, dir)
	secret := s.View().Secret()
	rev := update(t, s, func(tx *store.Tx) { tx.PutRoute(route("a", 1, "1.0.0")) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if !slices.Equal(s.View().Secret(), secret) {
		t.Error("the secret changed")
	}
	if _, ok := s.View().Route("a"); !ok || s.View().Revision() != rev {
		t.Errorf("reopened at revision %d with route %v, want %d", s.View().Revision(), ok, rev)
	}
}

func TestOneProcessPerDirectory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := store.Open(t.Context(), store.Options{DataDir: dir})
	if err == nil || !strings.Contains(err.Error(), "is in use by process ") || !strings.Contains(err.Error(), "--data-dir") {
		t.Fatalf("err = %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestSeveralStoresSideBySide(t *testing.T) {
	a, b := open(t, t.TempDir()), open(t, t.TempDir())
	update(t, a, func(tx *store.Tx) { tx.PutRoute(route("a", 1, "1.0.0")) })
	if len(b.View().Routes()) != 0 {
		t.Error("two embedded stores share records")
	}
	if slices.Equal(a.View().Secret(), b.View().Secret()) {
		t.Error("two embedded stores share a secret")
	}
}

func TestTenThousandSpecs(t *testing.T) {
	s := open(t, t.TempDir())
	const specs, batch = 10_000, 500
	for from := 0; from < specs; from += batch {
		update(t, s, func(tx *store.Tx) {
			for i := from; i < from+batch; i++ {
				name := fmt.Sprintf("spec-%d", i)
				tx.PutVersion(versions.Record{Spec: name, Version: "1.0.0", Digest: "sha256:1"})
				tx.PutRoute(route(name, 1, "1.0.0"))
			}
		})
	}
	rev := s.View().Revision()
	update(t, s, func(tx *store.Tx) { tx.PutRoute(route("spec-77", 2, "1.0.0")) })
	if changed, _, complete := s.Changed(rev); !complete || !slices.Equal(changed, []string{"spec-77"}) {
		t.Errorf("changed = %v, %v", changed, complete)
	}
	if len(s.View().Specs()) != specs || len(s.View().Routes()) != specs {
		t.Errorf("%d specs, %d routes", len(s.View().Specs()), len(s.View().Routes()))
	}
}
