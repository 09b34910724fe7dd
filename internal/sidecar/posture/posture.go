// Package posture holds what the control plane wants this sidecar to hold: its pin, the key of its execution ids, and the fence.
//
// Invariants:
//   - posture is state, not an event: the newest State replaces the older whole, a lower generation changes nothing;
//   - a State is on disk before it is in force, and in force before Apply returns, so what was acknowledged survives a restart;
//   - whoever is refused by the ledger because of the fence finds that fence, or a newer posture, in Current.
package posture

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
)

// Posture is one applied State. It never changes.
type Posture struct {
	Generation uint64
	// Pin is x-spec-pin of this sidecar's own version.
	Pin string
	// Key of the MAC in the execution ids.
	Key []byte
	// Fence is nil if the version takes new work.
	Fence *Fence
	// Leave says where other instances of the same version are, once this one has said that it leaves; nil where that is not known.
	Leave *Fence
	// Settle says where what runs may be handed over to, though the version takes new work; nil if nothing is ordered.
	Settle *Fence
}

// Target is where executions are handed over to; nil if nothing is ordered.
func (p *Posture) Target() *Fence {
	if p.Fence != nil {
		return p.Fence
	}
	return p.Settle
}

// Fence says where new work goes instead.
type Fence struct {
	// Generation is the route generation that took the version's weight.
	Generation      uint64
	TargetVersion   string
	TargetPin       string
	TargetAddresses []string
	// TargetTLS are those of them that take requests over TLS.
	TargetTLS   []string
	PostMortem  string
	RetrySpread time.Duration
	// Since is when this process first held the order.
	Since time.Time
}

// Ledger is told of the fence.
type Ledger interface {
	Order(o drain.Order, now time.Time) bool
	Settle(o drain.Order, now time.Time) bool
	Lift(generation uint64) bool
	Renumber()
}

// Keeper applies States. It may be used from many goroutines.
type Keeper struct {
	path   string
	ledger Ledger
	now    func() time.Time

	current atomic.Pointer[Posture]
	applied atomic.Uint64

	mu    sync.Mutex // orders Apply
	state *sidecarv1.State
}

// New makes a keeper that stores States in the file at path.
func New(path string, ledger Ledger, now func() time.Time) *Keeper {
	return &Keeper{path: path, ledger: ledger, now: now}
}

// Current is the posture in force; nil before the first State.
func (k *Keeper) Current() *Posture { return k.current.Load() }

// Applied is the generation of the newest State that is wholly in force, in the ledger too; 0 before the first.
func (k *Keeper) Applied() uint64 { return k.applied.Load() }

// Stored is the State that an earlier process had applied; nil if there is none. It is not in force until it is applied.
func (k *Keeper) Stored() (*sidecarv1.State, error) {
	data, err := os.ReadFile(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("last known state: %w", err)
	}
	state := &sidecarv1.State{}
	if err := proto.Unmarshal(data, state); err != nil {
		return nil, fmt.Errorf("last known state %s is not readable (%w): remove it; the control plane will send it again", k.path, err)
	}
	return state, nil
}

// Apply puts a State in force. It returns false, and changes nothing, if a newer one is.
//
// Generations are compared only between States of one cluster, which has one secret and so one execution key for this version. A State with
// another key comes from a control plane that was set up anew, and counts as newer.
func (k *Keeper) Apply(state *sidecarv1.State) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.apply(state)
}

// Restore puts the stored State in force, if there is one and no other has been applied.
func (k *Keeper) Restore() (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state != nil {
		return false, nil
	}
	state, err := k.Stored()
	if state == nil || err != nil {
		return false, err
	}
	return k.apply(state)
}

// apply is Apply with mu held.
func (k *Keeper) apply(state *sidecarv1.State) (bool, error) {
	anew := false
	if k.state != nil {
		anew = !bytes.Equal(k.state.GetExecutionKey(), state.GetExecutionKey())
		if !anew && k.state.GetGeneration() > state.GetGeneration() {
			return false, nil
		}
		if proto.Equal(k.state, state) {
			return true, nil
		}
	}
	if err := k.persist(state); err != nil {
		return false, fmt.Errorf("store the state of generation %d: %w", state.GetGeneration(), err)
	}
	if anew {
		k.ledger.Renumber()
	}
	before := k.current.Load()
	next := &Posture{Generation: state.GetGeneration(), Pin: state.GetPin(), Key: bytes.Clone(state.GetExecutionKey()), Fence: fenceOf(state.GetFence()), Settle: fenceOf(state.GetSettle()), Leave: fenceOf(state.GetLeave())}
	k.state = proto.CloneOf(state)
	if next.Fence != nil {
		next.Fence.Since = k.now()
		if before != nil && before.Fence != nil && before.Fence.Generation == next.Fence.Generation {
			next.Fence.Since = before.Fence.Since
		}
		if before != nil && before.Fence == nil {
			// It may be the fence that was lowered before, under the generation it had: the command that was to route the version again did not
			// come to its end. States come in order, so this order is no late one.
			k.ledger.Renumber()
		}
		// The posture first: who is refused must find the fence.
		k.current.Store(next)
		k.ledger.Order(orderOf(state.GetFence()), k.now())
		k.applied.Store(next.Generation)
		return true, nil
	}
	if before != nil && before.Fence != nil {
		k.ledger.Lift(before.Fence.Generation)
	}
	if before != nil && before.Settle != nil && next.Settle == nil {
		k.ledger.Lift(before.Settle.Generation)
	}
	k.current.Store(next)
	if next.Settle != nil { // after the posture: who is handed over must find the target
		k.ledger.Settle(orderOf(state.GetSettle()), k.now())
	}
	k.applied.Store(next.Generation)
	return true, nil
}

func orderOf(f *sidecarv1.Fence) drain.Order {
	return drain.Order{
		Generation: f.GetGeneration(), Target: f.GetTargetVersion(), At: f.GetOrderedAt().AsTime(), RetrySpread: f.GetRetrySpread().AsDuration(),
		Kind: drain.Kind(f.GetKind()), DefaultWithin: f.GetDefaultWithin().AsDuration(),
	}
}

func fenceOf(f *sidecarv1.Fence) *Fence {
	if f == nil {
		return nil
	}
	return &Fence{
		Generation: f.GetGeneration(), TargetVersion: f.GetTargetVersion(), TargetPin: f.GetTargetPin(),
		TargetAddresses: slices.Clone(f.GetTargetAddresses()), TargetTLS: slices.Clone(f.GetTargetTls()), PostMortem: f.GetPostmortem(), RetrySpread: f.GetRetrySpread().AsDuration(),
	}
}

// persist replaces the file in one step. It holds a key, so nobody else may read it.
func (k *Keeper) persist(state *sidecarv1.State) error {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(state)
	if err != nil {
		return err
	}
	next := k.path + ".next"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, k.path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(k.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
