package api

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/store"
)

// PreviewDrain says what a rollback now would do to each running execution.
func (s *Server) PreviewDrain(ctx context.Context, req *connect.Request[operatorv1.PreviewDrainRequest]) (*connect.Response[operatorv1.PreviewDrainResponse], error) {
	m := req.Msg
	change, rows, unseen, err := s.Control.Preview(ctx, actor(ctx, req.Header(), false), control.RollbackTarget{Spec: m.GetSpec(), To: m.GetTo(), From: m.GetFrom()})
	if err != nil {
		return nil, err
	}
	out := &operatorv1.PreviewDrainResponse{Change: changeOf(change, true), Unseen: unseen}
	for _, r := range rows {
		d := r.Decision
		out.Executions = append(out.Executions, &operatorv1.PreviewedExecution{
			Execution: runningOf(r.Version, r.Running), Rule: r.Rule, Disposition: string(d.Disposition), Then: string(d.Then), Deadline: stamp(d.Deadline), Why: d.Why,
		})
	}
	return connect.NewResponse(out), nil
}

// ListDrains shows the drains of a spec, or those that go on of all specs, newest order first: of versions, and of instances that shut down.
func (s *Server) ListDrains(_ context.Context, req *connect.Request[operatorv1.ListDrainsRequest]) (*connect.Response[operatorv1.ListDrainsResponse], error) {
	view := s.Store.View()
	spec := req.Msg.GetSpec()
	orders := slices.Concat(view.UnfinishedDrains(""), view.UnfinishedShutdowns(""))
	if spec != "" {
		if err := exists(view, spec); err != nil {
			return nil, err
		}
		orders = slices.Concat(view.Drains(spec), view.Shutdowns(spec))
	}
	slices.SortStableFunc(orders, func(a, b drain.Drain) int { return b.OrderedAt.Compare(a.OrderedAt) })
	out := &operatorv1.ListDrainsResponse{}
	now := time.Now()
	for _, d := range orders {
		out.Drains = append(out.Drains, s.progressOf(view, control.Measure(view, s.Fleet, d).Forecast(s.Fleet, now)))
	}
	return connect.NewResponse(out), nil
}

func (s *Server) progressOf(view *store.View, p control.Progress) *operatorv1.Drain {
	out := drainOf(p)
	out.Acked, out.Instances = uint32(p.Acked.Acked), uint32(p.Acked.Total) //nolint:gosec // instances of a pool
	if p.Unfinished() {
		out.Laggards = p.Acked.Laggards
	}
	if p.Unfinished() && p.Oldest != nil {
		out.Oldest = runningOf(p.Version, *p.Oldest)
	}
	out.EtaUnknown = p.Unknown
	if p.Unknown == "" && p.Unfinished() {
		out.Eta = durationpb.New(p.ETA)
	}
	if p50, ok := p.Pool.Durations.Quantile(0.5); ok {
		p99, _ := p.Pool.Durations.Quantile(0.99)
		out.P50, out.P99 = durationpb.New(p50), durationpb.New(p99)
	}
	if p.DefaultWithin > 0 {
		out.DefaultWithin = durationpb.New(p.DefaultWithin)
	}
	all := view.Interventions(p.Spec, p.Version)
	if p.Instance != "" {
		all = slices.DeleteFunc(all, func(i store.Intervention) bool { return i.Instance != p.Instance })
	}
	slices.SortFunc(all, func(a, b store.Intervention) int { return cmp.Or(b.At.Compare(a.At), strings.Compare(b.ID, a.ID)) })
	for _, i := range all {
		out.Interventions = append(out.Interventions, interventionOf(i))
	}
	return out
}

func drainOf(p control.Progress) *operatorv1.Drain {
	kind := cmp.Or(p.Kind, drain.KindRollback)
	return &operatorv1.Drain{
		Spec: p.Spec, Version: p.Version, Kind: string(kind), Target: p.Target, Generation: p.Generation, State: string(p.State), OrderedAt: stamp(p.OrderedAt), EndedAt: stamp(p.EndedAt),
		InFlight: p.InFlight, Settling: p.Pool.Settling, Completed: p.Counts.Completed, HandedOver: p.Counts.HandedOver, Cancelled: p.Counts.Cancelled, Held: p.Counts.Held,
		Arrived: p.Arrived, Postmortem: p.PostMortem, Instance: p.Instance, Lost: p.Lost, Holding: p.Holding, FinalTarget: p.Final,
	}
}

// SettleExecution carries an operator's decision to the execution's sidecar.
func (s *Server) SettleExecution(ctx context.Context, req *connect.Request[operatorv1.SettleExecutionRequest]) (*connect.Response[operatorv1.SettleExecutionResponse], error) {
	m := req.Msg
	made, err := s.Control.Intervene(ctx, actor(ctx, req.Header(), false), control.Wish{
		Execution: m.GetId(), Disposition: drain.Disposition(m.GetDisposition()), Reason: m.GetReason(), DespiteEffects: m.GetDespiteEffects(),
	})
	if err != nil {
		return nil, err
	}
	waitCtx, cancel := context.WithTimeout(ctx, waitOf(m.GetWait()))
	defer cancel()
	return connect.NewResponse(&operatorv1.SettleExecutionResponse{Intervention: interventionOf(s.Control.WaitIntervention(waitCtx, made))}), nil
}

func interventionOf(i store.Intervention) *operatorv1.Intervention {
	state := "done"
	switch {
	case i.Pending():
		state = "pending"
	case i.Refusal != "":
		state = "refused"
	}
	return &operatorv1.Intervention{
		Id: i.ID, Spec: i.Spec, Version: i.Version, Instance: i.Instance, Execution: i.Execution, Disposition: string(i.Disposition), Reason: i.Reason, Actor: i.Actor,
		At: stamp(i.At), DespiteEffects: i.DespiteEffects, Effects: string(i.Effects), Before: string(i.Before), State: state, Refusal: i.Refusal, SettledAt: stamp(i.SettledAt),
		Postmortem: i.PostMortem,
	}
}
