package cli_test

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

func (f *fakeControl) PreviewDrain(_ context.Context, req *connect.Request[operatorv1.PreviewDrainRequest]) (*connect.Response[operatorv1.PreviewDrainResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.known(req.Msg.GetSpec()); err != nil {
		return nil, err
	}
	out := &operatorv1.PreviewDrainResponse{Change: f.change("rollback", "", []*operatorv1.Weight{{Version: "2.0.3", BasisPoints: 10_000}}, true)}
	if len(f.history) > 0 && f.history[0].GetKind() == "rollback" {
		out.Change = f.history[0]
		out.Change.AlreadyDone = true
		return connect.NewResponse(out), nil
	}
	for _, x := range f.executions {
		if x.GetVersion() != "2.1.0" || x.GetEndedAt() != nil || x.GetOutcome() != "" || x.GetDisposition() == "cancel" {
			continue
		}
		p := &operatorv1.PreviewedExecution{Execution: x, Rule: "rule 1: effects=none", Disposition: "cancel", Why: "rule 1 (effects=none): cancel; retry in 1s-5s"}
		if x.GetEffects() == "irreversible" {
			p = &operatorv1.PreviewedExecution{
				Execution: x, Rule: "rule 2: effects=irreversible", Disposition: "complete", Then: "hold", Deadline: timestamppb.New(now.Add(15 * time.Minute)), Why: x.GetWhy(),
			}
		}
		out.Executions = append(out.Executions, p)
	}
	if len(out.GetExecutions()) > 0 {
		out.Unseen = 2
	}
	return connect.NewResponse(out), nil
}

// ListDrains shows one drain of each kind, once the spec was rolled back.
func (f *fakeControl) ListDrains(_ context.Context, req *connect.Request[operatorv1.ListDrainsRequest]) (*connect.Response[operatorv1.ListDrainsResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if spec := req.Msg.GetSpec(); spec != "" {
		if err := f.known(spec); err != nil {
			return nil, err
		}
	}
	out := &operatorv1.ListDrainsResponse{}
	if len(f.spec.GetDrains()) == 0 {
		return connect.NewResponse(out), nil
	}
	earlier := intervention("IV-0", "x-0", "cancel", "done")
	earlier.At = ago(time.Hour)
	out.Drains = []*operatorv1.Drain{
		{
			Spec: "customer-service", Version: "2.1.0", Target: "2.0.3", Kind: "rollback", Generation: 6, State: "held", OrderedAt: ago(4 * time.Minute), InFlight: 1,
			Completed: 12, HandedOver: 3, Arrived: 3, Cancelled: 5, Held: 1, Postmortem: "PM-1", Acked: 3, Instances: 3, Oldest: f.executions[1],
			EtaUnknown: "what is held waits for a person", DefaultWithin: durationpb.New(time.Minute),
			Interventions: []*operatorv1.Intervention{intervention("IV-1", "x-1", "cancel", "done"), earlier}, FinalTarget: "2.0.2",
		},
		{
			Spec: "customer-service", Version: "2.0.2", Target: "2.0.3", Kind: "promote", Generation: 4, State: "draining", OrderedAt: ago(90 * time.Second), InFlight: 7, Settling: 2,
			Completed: 4, Acked: 1, Instances: 2, Laggards: []string{"instance i-9 at 10.0.0.9:9000: order not acknowledged"},
			Eta: durationpb.New(20 * time.Second), P50: durationpb.New(400 * time.Millisecond), P99: durationpb.New(9 * time.Second), Holding: 1,
		},
		{
			Spec: "customer-service", Version: "2.0.3", Target: "2.0.3", Kind: "shutdown", Instance: "i-4", State: "drained", OrderedAt: ago(10 * time.Minute), EndedAt: ago(9 * time.Minute),
			HandedOver: 2, Arrived: 2, Lost: 1, Acked: 1, Instances: 1,
		},
	}
	if req.Msg.GetSpec() == "" {
		out.Drains = out.GetDrains()[:2]
	}
	return connect.NewResponse(out), nil
}

func intervention(id, execution, disposition, state string) *operatorv1.Intervention {
	return &operatorv1.Intervention{
		Id: id, Spec: "customer-service", Version: "2.1.0", Instance: "i-1", Execution: execution, Disposition: disposition, Reason: "customer hung up", Actor: "ada@laptop",
		At: ago(30 * time.Second), Effects: "none", State: state, Postmortem: "PM-1",
	}
}

// SettleExecution knows the executions that run: x-1 does as it is told, x-2 has done what cannot be undone, x-5's sidecar does not answer.
func (f *fakeControl) SettleExecution(_ context.Context, req *connect.Request[operatorv1.SettleExecutionRequest]) (*connect.Response[operatorv1.SettleExecutionResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := req.Msg
	made := intervention("IV-2", m.GetId(), m.GetDisposition(), "done")
	made.Reason, made.DespiteEffects = m.GetReason(), m.GetDespiteEffects()
	switch {
	case m.GetId() == "x-1":
	case m.GetId() == "x-2" && m.GetDisposition() == "cancel" && !m.GetDespiteEffects():
		return nil, refuse(connect.CodeFailedPrecondition, "cancel x-2 of customer-service:2.1.0: it has a known irreversible effect (irreversible refund.issue r-17): specctl execution cancel x-2 --despite-effects --reason \"…\"")
	case m.GetId() == "x-2" && m.GetDisposition() == "handover":
		made.State, made.Refusal = "refused", "a hand-over is impossible: effects are irreversible"
	case m.GetId() == "x-2":
		made.Effects = "irreversible"
	case m.GetId() == "x-5":
		made.State = "pending"
	default:
		return nil, refuse(connect.CodeNotFound, "execution %s is not running, as far as the sidecars have told: specctl executions SPEC", m.GetId())
	}
	return connect.NewResponse(&operatorv1.SettleExecutionResponse{Intervention: made}), nil
}
