package fleet

import (
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
)

// StateOf is what a sidecar of this version must hold by this view. Its generation is the view's revision, which only grows, on any replica.
func StateOf(view *store.View, spec, version, instance string) *sidecarv1.State {
	secret := view.Secret()
	state := &sidecarv1.State{
		Generation:   uint64(view.Revision()),
		Pin:          routing.Pin(secret, spec, version),
		ExecutionKey: routing.ExecutionKey(secret, spec, version),
	}
	if policy, ok := view.Policy(spec); ok {
		record, _ := view.Version(spec, version)
		state.RequiredKeys = policy.KeysFor(record)
	}
	if ro, ok := view.Rollout(spec); ok && !ro.Phase.Ended() && (version == ro.Canary || version == ro.Stable) {
		if slow := ro.Plan.SlowerThan(); slow > 0 {
			state.SlowAfter = durationpb.New(slow)
		}
	}
	for _, i := range view.PendingInterventions(spec, version, instance) {
		state.Overrides = append(state.Overrides, &sidecarv1.Override{
			Id: i.ID, Execution: i.Execution, Disposition: string(i.Disposition), Why: i.Actor + ": " + i.Reason + " (" + i.ID + ")", DespiteEffects: i.DespiteEffects,
		})
	}
	switch order, ok := view.Drain(spec, version); {
	case !ok:
	case order.Fences():
		state.Fence = orderOf(view, order)
	case order.Settles():
		state.Settle = orderOf(view, order)
	}
	if leaving, ok := view.Shutdown(spec, version, instance); ok && leaving.Unfinished() && state.GetFence() == nil {
		state.Leave = orderOf(view, leaving)
	}
	return state
}

// orderOf is the order as it travels, with the target as it is now.
func orderOf(view *store.View, order drain.Drain) *sidecarv1.Fence {
	secret, spec, target := view.Secret(), order.Spec, FinalTarget(view, order)
	out := &sidecarv1.Fence{
		Generation:    order.Generation,
		TargetVersion: target,
		TargetPin:     routing.Pin(secret, spec, target),
		Postmortem:    order.PostMortem,
		OrderedAt:     timestamppb.New(order.OrderedAt),
		RetrySpread:   durationpb.New(order.RetrySpread),
		Kind:          string(order.Kind),
		DefaultWithin: durationpb.New(order.DefaultWithin),
	}
	for _, in := range view.InstancesOf(spec, target) {
		if in.Health == routing.Ready && in.ID != order.Instance {
			out.TargetAddresses = append(out.TargetAddresses, in.Address)
			if in.Transport != routing.Plain {
				out.TargetTls = append(out.TargetTls, in.Address)
			}
		}
	}
	return out
}

// FinalTarget follows a chain of rollbacks to the version that takes new work: 2.2 went to 2.1, which went to 2.0.
func FinalTarget(view store.Reader, order drain.Drain) string {
	seen := map[string]bool{order.Version: true}
	for {
		next, ok := view.Drain(order.Spec, order.Target)
		if !ok || !next.Fences() || seen[order.Target] {
			return order.Target
		}
		seen[order.Target] = true
		order = next
	}
}
