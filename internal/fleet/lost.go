package fleet

import (
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/store"
)

// lostBatch bounds the records that one stored batch holds.
const lostBatch = 500

// lost are the executions that ran on an instance which is gone without a word, as far as this replica was told of them. Each is kept by name
// as failed: what became of it is not known. If it turns out that one lives and it is reported again, its last report counts.
func (f *Fleet) lost(id string) []store.FailureBatch {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[id]
	if m == nil || m.connected {
		return nil
	}
	return m.lost(id)
}

// overrun is lost where another process has the instance's address: it is gone even if its stream has not been seen to end.
func (f *Fleet) overrun(id string) []store.FailureBatch {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[id]
	if m == nil {
		return nil
	}
	return m.lost(id)
}

// lost of one member. Fleet.mu is held.
func (m *member) lost(id string) (batches []store.FailureBatch) {
	now := time.Now()
	for _, x := range m.running {
		x = proto.CloneOf(x)
		x.Outcome, x.OutcomeReason, x.EndedAt = string(drain.Failure), "its sidecar is gone; what became of it is not known", timestamppb.New(now)
		if n := len(batches); n == 0 || len(batches[n-1].Executions) == lostBatch {
			batches = append(batches, store.FailureBatch{Spec: m.key.spec, Version: m.key.version, Instance: id, Seq: uint64(now.UnixNano() + int64(n))})
		}
		last := &batches[len(batches)-1]
		last.Executions = append(last.Executions, Running{Instance: id, Execution: x}.Record(m.key.version))
	}
	return batches
}

// forget a member whose instance is not stored any more. Fleet.mu is held.
func (f *Fleet) forget(id string) {
	m := f.members[id]
	f.pools[m.key].gone.add(m.totals)
	delete(f.pools[m.key].members, id)
	delete(f.members, id)
}

// mournOnly names what a dead instance had running that is kept all the same, as the last one of a version with weight.
func (f *Fleet) mournOnly(ctx context.Context, id string) {
	lost := f.lost(id)
	if len(lost) == 0 {
		return
	}
	if _, err := f.store.Update(ctx, func(tx *store.Tx) error { mourn(tx, lost); return nil }); err != nil {
		f.log.Error("name the executions that were lost with a sidecar; it is tried again", zap.String("instance", id), zap.Error(err))
		return
	}
	f.mu.Lock()
	if m := f.members[id]; m != nil && !m.connected {
		m.running, m.told = map[string]*sidecarv1.Execution{}, told{}
		f.broadcast(m.key.spec)
	}
	f.mu.Unlock()
	f.logLost(id, lost)
}

// mourn stores them.
func mourn(tx *store.Tx, batches []store.FailureBatch) {
	for _, b := range batches {
		tx.PutFailures(b)
	}
}

// logLost names them.
func (f *Fleet) logLost(id string, batches []store.FailureBatch) {
	var names []string
	for _, b := range batches {
		for _, x := range b.Executions {
			names = append(names, x.ID)
		}
	}
	if len(names) > 0 {
		f.log.Warn("executions were lost with their sidecar", zap.String("instance", id), zap.Int("executions", len(names)),
			zap.Strings("first", names[:min(len(names), 20)]))
	}
}
