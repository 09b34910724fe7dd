package fleet_test

import (
	"context"
	"io"
	"math"
	"slices"
	"testing"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// sidecar is the other end of a session, in this process. A report has been taken when the next one is accepted.
type sidecar struct {
	grpc.ServerStream
	ctx       context.Context
	reports   chan *sidecarv1.SessionRequest
	startedAt *timestamppb.Timestamp
}

func (s *sidecar) Context() context.Context { return s.ctx }

func (s *sidecar) Send(*sidecarv1.SessionResponse) error { return nil }

func (s *sidecar) Recv() (*sidecarv1.SessionRequest, error) {
	select {
	case r, ok := <-s.reports:
		if !ok {
			return nil, io.EOF
		}
		return r, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *sidecar) totals(t *sidecarv1.Totals) {
	s.reports <- &sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Totals{Totals: t}}
}

func (s *sidecar) executions(snapshot bool, list ...*sidecarv1.Execution) {
	s.reports <- &sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Executions{
		Executions: &sidecarv1.ExecutionBatch{Snapshot: snapshot, Executions: list},
	}}
	// The session asks for the next report only after it has taken this one.
	s.reports <- &sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Executions{Executions: &sidecarv1.ExecutionBatch{}}}
}

// newFleet is a fleet on a store of its own, which knows two versions of one spec.
func newFleet(t *testing.T) (*fleet.Fleet, *store.Store) {
	t.Helper()
	records, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = records.Close() })
	_, err = records.Update(t.Context(), func(tx *store.Tx) error {
		for _, v := range []string{"1.0.0", "1.1.0"} {
			tx.PutVersion(versions.Record{Spec: "s", Version: v, Digest: "sha256:" + v, Standing: versions.Published})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fleet.New(fleet.Options{Store: records, Log: zap.NewNop()}), records
}

// join opens a session of a sidecar of one version. It ends with the test.
func join(t *testing.T, f *fleet.Fleet, version string, change ...func(*sidecarv1.Hello)) *sidecar {
	t.Helper()
	s := &sidecar{ctx: t.Context(), reports: make(chan *sidecarv1.SessionRequest)}
	ended := make(chan error, 1)
	go func() { ended <- f.Session(s) }()
	t.Cleanup(func() {
		close(s.reports)
		if err := <-ended; err != nil {
			t.Errorf("the session of %s ended with %v", version, err)
		}
	})
	hello := &sidecarv1.Hello{InstanceId: "i-" + version, Spec: "s", Version: version, Digest: "sha256:" + version, Address: "127.0.0.1:" + version}
	for _, c := range change {
		c(hello)
	}
	s.startedAt = hello.GetStartedAt()
	s.reports <- &sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Hello{Hello: hello}}
	return s
}

func running(id, outcome string) *sidecarv1.Execution {
	return &sidecarv1.Execution{Id: id, StartedAt: timestamppb.Now(), Outcome: outcome}
}

func ended(id, outcome string) *sidecarv1.Execution {
	x := running(id, outcome)
	x.EndedAt = timestamppb.Now()
	return x
}

// An outcome counts from the moment it is stated, once, however often and long it is reported.
func TestOutcomesCountWhenTheyAreStated(t *testing.T) {
	f, records := newFleet(t)
	s := join(t, f, "1.0.0")
	s.totals(&sidecarv1.Totals{})
	for _, step := range []struct {
		name              string
		report            func()
		succeeded, failed uint64
	}{
		{"nothing is known of what runs", func() {
			s.totals(&sidecarv1.Totals{Started: 10, Succeeded: 7, InFlight: 3})
			s.executions(false, running("a", ""), running("b", ""), running("c", ""))
		}, 7, 0},
		{"two fail and run on", func() { s.executions(false, running("a", "failure"), running("b", "failure")) }, 7, 2},
		{"the same is said again", func() { s.executions(false, running("a", "failure")) }, 7, 2},
		{"one ends as it said", func() {
			s.totals(&sidecarv1.Totals{Started: 10, Succeeded: 7, Failed: 1, InFlight: 2})
			s.executions(false, ended("a", "failure"))
		}, 7, 2},
		{"the other succeeds after all", func() { s.executions(false, running("b", "success")) }, 8, 1},
		{"a reconnect says it all again", func() { s.executions(true, running("b", "success"), running("c", "failure")) }, 8, 2},
		{"everything has ended", func() {
			s.totals(&sidecarv1.Totals{Started: 10, Succeeded: 8, Failed: 2})
			s.executions(true)
		}, 8, 2},
	} {
		step.report()
		p := f.Pool(records.View(), "s", "1.0.0")
		if p.Succeeded != step.succeeded || p.Failed != step.failed || p.RecentSucceeded != step.succeeded || p.RecentFailed != step.failed {
			t.Errorf("%s: %d succeeded and %d failed (recently %d and %d), want %d and %d",
				step.name, p.Succeeded, p.Failed, p.RecentSucceeded, p.RecentFailed, step.succeeded, step.failed)
		}
	}
}

// A version that took over lately and the one before it are measured over the same time, so their rates sum to the spec's.
func TestRatesOfVersionsSum(t *testing.T) {
	f, records := newFleet(t)
	for version, started := range map[string]uint64{"1.0.0": 30, "1.1.0": 10} {
		s := join(t, f, version)
		s.totals(&sidecarv1.Totals{})
		s.totals(&sidecarv1.Totals{Started: started})
		s.executions(true)
	}
	before, after := f.Pool(records.View(), "s", "1.0.0").Rate, f.Pool(records.View(), "s", "1.1.0").Rate
	if after <= 0 || math.Abs(before/after-3) > 0.03 {
		t.Errorf("rates %.3f/s and %.3f/s, want three to one", before, after)
	}
}

// A process that has the name of one before it counts and runs its own; what the one before it had running is named, once.
func TestASuccessorOfTheSameNameNamesWhatWasLost(t *testing.T) {
	f, records := newFleet(t)
	first := join(t, f, "1.0.0")
	first.totals(&sidecarv1.Totals{Started: 3, Succeeded: 1, InFlight: 2})
	first.executions(true, running("a", ""), running("b", "success"))
	second := join(t, f, "1.0.0", func(h *sidecarv1.Hello) { h.StartedAt = timestamppb.Now() })
	second.totals(&sidecarv1.Totals{Started: 1, InFlight: 1})
	second.executions(true, running("c", ""))
	lost := map[string]int{}
	for _, b := range records.View().Failures("s", "1.0.0") {
		for _, x := range b.Executions {
			if x.Outcome != "failure" || x.Reason == "" || x.EndedAt.IsZero() || x.Instance != "i-1.0.0" {
				t.Errorf("%+v", x)
			}
			lost[x.ID]++
		}
	}
	if len(lost) != 2 || lost["a"] != 1 || lost["b"] != 1 {
		t.Errorf("named as lost: %v", lost)
	}
	if now := f.Running("s", "1.0.0"); len(now) != 1 || now[0].Execution.GetId() != "c" {
		t.Errorf("running: %v", now)
	}
	if p := f.Pool(records.View(), "s", "1.0.0"); p.Started != 4 || p.InFlight != 1 {
		t.Errorf("%d started, %d in flight", p.Started, p.InFlight)
	}
	// Its stream breaks and comes back: that is no successor.
	third := join(t, f, "1.0.0", func(h *sidecarv1.Hello) { h.StartedAt = second.startedAt })
	third.executions(true, running("c", ""))
	if n := len(records.View().Failures("s", "1.0.0")); n != 1 {
		t.Errorf("%d batches after a reconnect", n)
	}
}

// After a restart the versions of a rollout are not compared before each instance has told the new process what it has counted.
func TestVersionsWaitForWhoIsNotBackYet(t *testing.T) {
	first, records := newFleet(t)
	s := join(t, first, "1.0.0")
	s.totals(&sidecarv1.Totals{Started: 1})
	s.executions(false)
	if first.Awaited("s", "1.0.0") || first.Awaited("s", "1.1.0") {
		t.Error("the first process waits for nobody")
	}
	second := fleet.New(fleet.Options{Store: records, Log: zap.NewNop()})
	if !second.Awaited("s", "1.0.0") {
		t.Error("the second process does not wait for the instance that it knows from the store")
	}
	back := join(t, second, "1.0.0")
	back.executions(false)
	if !second.Awaited("s", "1.0.0") {
		t.Error("it is back, but has not told what it counted")
	}
	back.totals(&sidecarv1.Totals{Started: 1})
	back.executions(false)
	if second.Awaited("s", "1.0.0") {
		t.Error("it has told all")
	}
}

// What a sidecar counts by attributes is kept for ever, so nothing is taken that the manifest does not declare. What an instance counted that is
// gone stays counted.
func TestSegmentsAreThoseThatTheManifestDeclares(t *testing.T) {
	f, records := newFleet(t)
	_, err := records.Update(t.Context(), func(tx *store.Tx) error {
		v, _ := tx.Version("s", "1.0.0")
		v.Manifest.Segments = []drain.Attribute{{Name: "kind", Header: "x-kind", Values: []string{"large"}}}
		tx.PutVersion(v)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	segment := func(attribute, value string, started uint64) *sidecarv1.Segment {
		return &sidecarv1.Segment{Attribute: attribute, Value: value, Started: started, Failed: 1}
	}
	first := join(t, f, "1.0.0")
	first.totals(&sidecarv1.Totals{Started: 9, Segments: []*sidecarv1.Segment{
		segment("kind", "large", 3), segment("kind", "large", 5), segment("kind", "<script>", 7), segment("invented", "large", 8), segment("kind", drain.ValueOther, 6),
	}})
	first.executions(true)
	want := []drain.Segment{{Attribute: "kind", Value: drain.ValueOther, Started: 6, Failed: 1}, {Attribute: "kind", Value: "large", Started: 3, Failed: 1}}
	if got := f.Pool(records.View(), "s", "1.0.0").Segments; !slices.Equal(got, want) {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	second := join(t, f, "1.0.0", func(h *sidecarv1.Hello) { h.StartedAt = timestamppb.Now() })
	second.totals(&sidecarv1.Totals{Started: 1, Segments: []*sidecarv1.Segment{segment("kind", "large", 1)}})
	second.executions(true)
	want[1].Started, want[1].Failed = 4, 2
	if got := f.Pool(records.View(), "s", "1.0.0").Segments; !slices.Equal(got, want) {
		t.Errorf("with its successor counted %+v, want %+v", got, want)
	}
	other := join(t, f, "1.1.0") // whose manifest declares nothing
	other.totals(&sidecarv1.Totals{Started: 1, Segments: []*sidecarv1.Segment{segment("kind", "large", 1)}})
	other.executions(true)
	if got := f.Pool(records.View(), "s", "1.1.0").Segments; len(got) > 0 {
		t.Errorf("counted %+v", got)
	}
}
