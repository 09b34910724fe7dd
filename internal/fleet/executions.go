package fleet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/store"
)

// takeExecutions updates what is known to run, and stores what failed or was cut before it takes the next report. What did more than read, or was
// let complete by an order, is stored soon after: a promotion of a busy version must not become a write of the store for every execution.
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
		switch ended := x.GetEndedAt() != nil; {
		case x.GetOutcome() == "failure" || ended && (cut(x) || x.GetSlow()):
			keep = append(keep, s.failure(x))
		case ended && touched(x):
			f.wait(waiting{s.key, s.stored.ID, false}, []store.Failure{s.failure(x)})
		case ended && x.GetDisposition() != "":
			f.wait(waiting{s.key, s.stored.ID, true}, []store.Failure{s.failure(x)})
		}
	}
	f.pools[s.key].trace.moved = true
	full, totals := f.actedCount >= actsWaiting, m.totals
	f.broadcast(s.key.spec)
	f.mu.Unlock()
	if full {
		f.storeActs(ctx)
	}
	if len(keep) == 0 {
		return nil
	}
	view := f.store.View()
	drains := totals != nil && len(view.UnfinishedDrains(s.key.spec))+len(view.UnfinishedShutdowns(s.key.spec)) > 0
	_, err := f.store.Update(ctx, func(tx *store.Tx) error {
		if drains {
			putCounted(tx, countedOf(s.stored.ID, s.key, totals)) // which were told before
		}
		putExcerpts(tx, s.excerpts(batch))
		tx.PutFailures(store.FailureBatch{Spec: s.key.spec, Version: s.key.version, Instance: s.stored.ID, Seq: uint64(time.Now().UnixNano()), Executions: keep})
		return nil
	})
	if err != nil {
		return status.Error(codes.Unavailable, fmt.Sprintf("store the executions that instance %s reported: %v", s.stored.ID, err))
	}
	return nil
}

// cut says that an order handed it over or cancelled it.
func cut(x *sidecarv1.Execution) bool {
	d := drain.Disposition(x.GetDisposition())
	return d == drain.Cancel || d == drain.Handover
}

// touched says that the execution did more than read.
func touched(x *sidecarv1.Execution) bool {
	return slices.ContainsFunc(x.GetActs(), func(a *sidecarv1.Effect) bool { return drain.Act{Class: drain.Effects(a.GetClass())}.Touches() })
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
	return Running{Instance: s.stored.ID, Execution: x}.Record(s.key.version)
}

// Record is what is kept of an execution of a version.
func (r Running) Record(version string) store.Failure {
	x := r.Execution
	out := store.Failure{
		ID: x.GetId(), Key: x.GetKey(), Instance: r.Instance, Version: version, Method: x.GetMethod(), Path: x.GetPath(),
		StartedAt: x.GetStartedAt().AsTime(), Effects: drain.Effects(x.GetEffects()), Outcome: x.GetOutcome(), Reason: x.GetOutcomeReason(),
		Status: int(x.GetStatus()), Disposition: drain.Disposition(x.GetDisposition()), Why: x.GetWhy(), RouteGeneration: x.GetRouteGeneration(),
		ActsOmitted: x.GetActsOmitted(), Tools: x.GetTools(), Skill: x.GetSkill(),
	}
	if x.GetEndedAt() != nil {
		out.EndedAt = x.GetEndedAt().AsTime()
	}
	for _, a := range x.GetActs() {
		out.Acts = append(out.Acts, store.Act{
			Tool: a.GetTool(), Class: drain.Effects(a.GetClass()), Key: a.GetKey(), Compensation: a.GetCompensation(), At: a.GetAt().AsTime(),
			Source: drain.Source(a.GetSource()),
		})
	}
	return out
}

// ViewOf is what a contract decides on, of an execution as its sidecar reported it. Effects of which nothing was said stay unsaid.
func ViewOf(x *sidecarv1.Execution) drain.View {
	v := drain.View{
		Method: x.GetMethod(), Path: x.GetPath(), Started: x.GetStartedAt().AsTime(), Responded: x.GetResponded(), Replayable: x.GetReplayable(),
		HandedOver: x.GetHandedOverFrom() != "", Conversation: x.GetConversation(), GRPC: x.GetGrpc(), Headers: x.GetHeaders(), Tools: x.GetTools(), Skill: x.GetSkill(),
	}
	if x.GetDeadline() != nil {
		v.Deadline = x.GetDeadline().AsTime()
	}
	if x.GetEffectsSource() != "silent" {
		v.Effects = drain.Effects(x.GetEffects())
	}
	return v
}
