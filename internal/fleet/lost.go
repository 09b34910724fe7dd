package fleet

import (
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/store"
)

// lostBatch bounds the records that one stored batch holds.
const lostBatch = 500

// lost are the executions that ran on an instance which is gone without a word, as far as this replica was told of them. Each is kept by name
// as failed: what became of it is not known.
func (f *Fleet) lost(id string) (batches []store.FailureBatch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[id]
	if m == nil || m.connected {
		return nil
	}
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
