package fleet

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/store"
)

const (
	// storeActsEvery bounds how often what succeeded and touched the world is stored: that goes on all the time, on every version, and must
	// not become a write of the store for every report of every sidecar. Who is told of it meanwhile gets it from memory, and a sidecar tells
	// it again if this replica dies first: it takes a report for received only much later.
	storeActsEvery = time.Second
	// actsPerBatch bounds a record of the store.
	actsPerBatch = 500
	// actsWaiting bounds the executions that wait to be stored, for all versions. Beyond it their reports are stored at once.
	actsWaiting = 10_000
)

// waiting are executions of one instance that are not stored yet: those that did something, or those that were only settled.
type waiting struct {
	key      poolKey
	instance string
	settled  bool
}

// keepActs stores what waits, every now and then and at the end.
func (f *Fleet) keepActs(ctx context.Context) {
	tick := time.NewTicker(storeActsEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.storeActs(ctx)
			f.storeCounts(ctx)
		case <-ctx.Done():
			last, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			f.storeActs(last)
			f.storeCounts(last)
			stop()
			return
		}
	}
}

// storeActs stores all that waits; what cannot be stored waits on.
func (f *Fleet) storeActs(ctx context.Context) {
	f.storingActs.Lock()
	defer f.storingActs.Unlock()
	f.mu.Lock()
	all := f.acted
	f.acted = map[waiting][]store.Failure{}
	f.storing = all
	f.actedCount = 0
	f.mu.Unlock()
	var failed error
	for who, executions := range all {
		for part := range slices.Chunk(executions, actsPerBatch) {
			if failed == nil {
				failed = f.putActs(ctx, who, part)
			}
			if failed != nil {
				f.mu.Lock()
				f.wait(who, part)
				f.mu.Unlock()
			}
		}
	}
	f.mu.Lock()
	f.storing = nil
	f.mu.Unlock()
	if failed != nil {
		f.log.Error("store what executions did; it is tried again", zap.Error(failed))
	}
}

func (f *Fleet) putActs(ctx context.Context, who waiting, executions []store.Failure) error {
	_, err := f.store.Update(ctx, func(tx *store.Tx) error {
		put := tx.PutActs
		if who.settled {
			put = tx.PutSettled
		}
		put(store.ActBatch{Spec: who.key.spec, Version: who.key.version, Instance: who.instance, Seq: uint64(time.Now().UnixNano()), Executions: executions})
		return nil
	})
	return err
}

// wait lets executions wait to be stored. f.mu is held.
func (f *Fleet) wait(who waiting, executions []store.Failure) {
	f.acted[who] = append(f.acted[who], executions...)
	f.actedCount += len(executions)
}

// Acts of a version: what its executions did that did not fail, stored or about to be.
func (f *Fleet) Acts(view store.Reader, spec, version string) []store.ActBatch {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append(view.Acts(spec, version), f.pending(spec, version, false)...)
}

// Settled are those of a version's executions that an order let complete, and that neither failed nor did more than read.
func (f *Fleet) Settled(view store.Reader, spec, version string) []store.FailureBatch {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append(view.Settled(spec, version), f.pending(spec, version, true)...)
}

// pending are about to be stored. f.mu is held.
func (f *Fleet) pending(spec, version string, settled bool) (batches []store.FailureBatch) {
	for _, all := range []map[waiting][]store.Failure{f.storing, f.acted} {
		for who, executions := range all {
			if who.key == (poolKey{spec, version}) && who.settled == settled {
				batches = append(batches, store.FailureBatch{Spec: spec, Version: version, Instance: who.instance, Seq: uint64(time.Now().UnixNano()), Executions: executions})
			}
		}
	}
	return batches
}
