package posture_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/posture"
)

var start = time.Date(2026, 11, 24, 14, 0, 0, 0, time.UTC)

func newKeeper(path string) (*posture.Keeper, *drain.Ledger) {
	l := drain.NewLedger(drain.Contract{Default: drain.Action{OnRollback: drain.Complete}})
	return posture.New(path, l, func() time.Time { return start }), l
}

func state(generation, fence uint64, key string) *sidecarv1.State {
	s := &sidecarv1.State{Generation: generation, Pin: "pin", ExecutionKey: []byte(key)}
	if fence > 0 {
		s.Fence = &sidecarv1.Fence{
			Generation: fence, TargetVersion: "2.0.3", TargetPin: "pin203", TargetAddresses: []string{fmt.Sprint("10.0.0.1:", generation)},
			Postmortem: "PM-1", OrderedAt: timestamppb.New(start), RetrySpread: durationpb.New(time.Second),
		}
	}
	return s
}

func apply(t *testing.T, k *posture.Keeper, s *sidecarv1.State, want bool) {
	t.Helper()
	if got, err := k.Apply(s); err != nil || got != want {
		t.Fatalf("apply generation %d: %v, %v; want %v", s.GetGeneration(), got, err, want)
	}
}

func TestTheNewestStateWins(t *testing.T) {
	k, l := newKeeper(filepath.Join(t.TempDir(), "state"))
	if k.Current() != nil || k.Applied() != 0 {
		t.Fatal("something is in force from the start")
	}
	apply(t, k, state(5, 0, "key"), true)
	apply(t, k, state(7, 3, "key"), true)
	if order, fenced := l.Fenced(); !fenced || order.Generation != 3 || order.Target != "2.0.3" || k.Applied() != 7 {
		t.Errorf("fenced %v %+v, applied %d", fenced, order, k.Applied())
	}
	apply(t, k, state(6, 0, "key"), false) // older
	if _, fenced := l.Fenced(); !fenced || k.Current().Generation != 7 {
		t.Error("an older state lifted the fence")
	}
	apply(t, k, state(7, 3, "key"), true) // again
	apply(t, k, state(8, 3, "key"), true) // the same fence, other addresses
	if got := k.Current().Fence.TargetAddresses[0]; got != "10.0.0.1:8" {
		t.Errorf("target address %s", got)
	}
	apply(t, k, state(9, 0, "key"), true)
	if _, fenced := l.Fenced(); fenced || k.Current().Fence != nil {
		t.Error("the fence is still up")
	}
	apply(t, k, state(10, 4, "key"), true)
	if order, fenced := l.Fenced(); !fenced || order.Generation != 4 {
		t.Error("the next fence is not up")
	}
}

// A command that lowers a fence and does not come to its end leaves the order as it was.
func TestAFenceRisesAgainUnderTheGenerationItHad(t *testing.T) {
	k, l := newKeeper(filepath.Join(t.TempDir(), "state"))
	apply(t, k, state(7, 3, "key"), true)
	apply(t, k, state(8, 0, "key"), true)
	apply(t, k, state(9, 3, "key"), true)
	if order, fenced := l.Fenced(); !fenced || order.Generation != 3 {
		t.Errorf("fenced=%v by %+v", fenced, order)
	}
	apply(t, k, state(8, 0, "key"), false)
	if _, fenced := l.Fenced(); !fenced {
		t.Error("an older state lifted it")
	}
}

func TestAControlPlaneThatWasSetUpAnewCountsAsNewer(t *testing.T) {
	k, l := newKeeper(filepath.Join(t.TempDir(), "state"))
	apply(t, k, state(500, 90, "old cluster"), true)
	apply(t, k, state(3, 0, "new cluster"), true)
	if _, fenced := l.Fenced(); fenced || k.Applied() != 3 {
		t.Errorf("the old cluster's fence is up, applied %d", k.Applied())
	}
	apply(t, k, state(4, 2, "new cluster"), true)
	if order, fenced := l.Fenced(); !fenced || order.Generation != 2 {
		t.Errorf("the new cluster's fence is not: %+v", order)
	}
}

func TestWhatIsAppliedIsOnDiskBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	k, _ := newKeeper(path)
	if s, err := k.Stored(); s != nil || err != nil {
		t.Fatalf("stored %v, %v", s, err)
	}
	want := state(7, 3, "key")
	apply(t, k, want, true)
	next, l := newKeeper(path)
	got, err := next.Stored()
	if err != nil || !proto.Equal(got, want) {
		t.Fatalf("stored %v, %v", got, err)
	}
	if next.Current() != nil {
		t.Error("the stored state is in force before it is applied")
	}
	if restored, err := next.Restore(); !restored || err != nil {
		t.Errorf("restored %v, %v", restored, err)
	}
	if _, fenced := l.Fenced(); !fenced || next.Applied() != 7 {
		t.Error("the stored fence is not up")
	}
	apply(t, next, state(1, 0, "new cluster"), true)
	if restored, err := next.Restore(); restored || err != nil || next.Applied() != 1 {
		t.Errorf("a stored state replaced one that had come: %v, %v", restored, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file that holds the key has mode %v, %v", info.Mode(), err)
	}
}

func TestAStateThatCannotBeStoredIsNotInForce(t *testing.T) {
	k, l := newKeeper(filepath.Join(t.TempDir(), "missing", "state"))
	if applied, err := k.Apply(state(7, 3, "key")); err == nil || applied {
		t.Errorf("applied %v, %v", applied, err)
	}
	if _, fenced := l.Fenced(); fenced || k.Current() != nil || k.Applied() != 0 {
		t.Error("it is in force all the same")
	}
}

func TestAnUnreadableFileIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, []byte{0xff, 0xff}, 0o600); err != nil {
		t.Fatal(err)
	}
	k, _ := newKeeper(path)
	if _, err := k.Stored(); err == nil {
		t.Error("nonsense is taken for a state")
	}
}

// Whatever order States come in, what is in force is the newest one, on disk as in the ledger.
func TestOrderOfArrivalDoesNotMatter(t *testing.T) {
	dir, round := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		path := filepath.Join(dir, fmt.Sprint(round))
		k, l := newKeeper(path)
		var newest *sidecarv1.State
		for range rapid.IntRange(1, 10).Draw(t, "states") {
			generation := rapid.Uint64Range(1, 20).Draw(t, "generation")
			s := state(generation, generation*(generation%2), "key") // odd generations are fenced
			if _, err := k.Apply(s); err != nil {
				t.Fatal(err)
			}
			if newest == nil || generation >= newest.GetGeneration() {
				newest = s
			}
			stored, err := k.Stored()
			order, fenced := l.Fenced()
			if err != nil || !proto.Equal(stored, newest) || fenced != (newest.GetFence() != nil) ||
				fenced && order.Generation != newest.GetFence().GetGeneration() || k.Current().Generation != newest.GetGeneration() {
				t.Fatalf("newest %v, stored %v, fenced %v %+v", newest, stored, fenced, order)
			}
		}
	})
}
