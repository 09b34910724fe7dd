package fleet

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/store"
)

// takeExecutions updates what is known to run, and stores what failed or was decided over before it takes the next report.
func (s *session) takeExecutions(ctx context.Context, batch *sidecarv1.ExecutionBatch) error {
	f := s.fleet
	var keep []store.Failure
	f.mu.Lock()
	m := f.members[s.stored.ID]
	if m == nil || m.session != s.number {
		f.mu.Unlock()
		return nil
	}
	if batch.GetSnapshot() {
		clear(m.running)
		m.told = told{}
	}
	for _, x := range batch.GetExecutions() {
		m.follow(x)
		if x.GetOutcome() == "failure" || x.GetEndedAt() != nil && x.GetDisposition() != "" {
			keep = append(keep, s.failure(x))
		}
	}
	f.broadcast()
	f.mu.Unlock()
	if len(keep) == 0 {
		return nil
	}
	_, err := f.store.Update(ctx, func(tx *store.Tx) error {
		tx.PutFailures(store.FailureBatch{Spec: s.key.spec, Version: s.key.version, Instance: s.stored.ID, Seq: uint64(time.Now().UnixNano()), Executions: keep})
		return nil
	})
	if err != nil {
		return status.Error(codes.Unavailable, fmt.Sprintf("store the failed executions of instance %s: %v", s.stored.ID, err))
	}
	return nil
}

// told counts the running executions that have stated their outcome.
type told struct{ succeeded, failed uint64 }

func (t *told) count(x *sidecarv1.Execution, by uint64) {
	switch drain.Outcome(x.GetOutcome()) {
	case drain.Success:
		t.succeeded += by
	case drain.Failure:
		t.failed += by
	}
}

// follow takes one execution's newest report. Fleet.mu is held.
func (m *member) follow(x *sidecarv1.Execution) {
	const one, minusOne = 1, ^uint64(0)
	if before, ok := m.running[x.GetId()]; ok {
		m.told.count(before, minusOne)
		delete(m.running, x.GetId())
	}
	if x.GetEndedAt() == nil {
		m.running[x.GetId()] = x
		m.told.count(x, one)
	}
}

func (s *session) failure(x *sidecarv1.Execution) store.Failure {
	fail := store.Failure{
		ID: x.GetId(), Key: x.GetKey(), Instance: s.stored.ID, Version: s.key.version, Method: x.GetMethod(), Path: x.GetPath(),
		StartedAt: x.GetStartedAt().AsTime(), Effects: drain.Effects(x.GetEffects()), Outcome: x.GetOutcome(), Reason: x.GetOutcomeReason(),
		Status: int(x.GetStatus()), Disposition: drain.Disposition(x.GetDisposition()), Why: x.GetWhy(), RouteGeneration: x.GetRouteGeneration(),
	}
	if x.GetEndedAt() != nil {
		fail.EndedAt = x.GetEndedAt().AsTime()
	}
	for _, a := range x.GetActs() {
		fail.Acts = append(fail.Acts, store.Act{Tool: a.GetTool(), Class: drain.Effects(a.GetClass()), Key: a.GetKey(), Compensation: a.GetCompensation(), At: a.GetAt().AsTime()})
	}
	return fail
}

// ViewOf is what a contract decides on, of an execution as its sidecar reported it. Effects of which nothing was said stay unsaid.
func ViewOf(x *sidecarv1.Execution) drain.View {
	v := drain.View{
		Method: x.GetMethod(), Path: x.GetPath(), Started: x.GetStartedAt().AsTime(), Responded: x.GetResponded(), Replayable: x.GetReplayable(),
		HandedOver: x.GetHandedOverFrom() != "",
	}
	if x.GetDeadline() != nil {
		v.Deadline = x.GetDeadline().AsTime()
	}
	if x.GetEffectsSource() != "silent" {
		v.Effects = drain.Effects(x.GetEffects())
	}
	return v
}
