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
func StateOf(view *store.View, spec, version string) *sidecarv1.State {
	secret := view.Secret()
	state := &sidecarv1.State{
		Generation:   uint64(view.Revision()),
		Pin:          routing.Pin(secret, spec, version),
		ExecutionKey: routing.ExecutionKey(secret, spec, version),
	}
	order, ok := view.Drain(spec, version)
	if !ok || !order.Active() {
		return state
	}
	target := finalTarget(view, order)
	state.Fence = &sidecarv1.Fence{
		Generation:    order.Generation,
		TargetVersion: target,
		TargetPin:     routing.Pin(secret, spec, target),
		Postmortem:    order.PostMortem,
		OrderedAt:     timestamppb.New(order.OrderedAt),
		RetrySpread:   durationpb.New(order.RetrySpread),
	}
	for _, in := range view.InstancesOf(spec, target) {
		if in.Health == routing.Ready {
			state.Fence.TargetAddresses = append(state.Fence.TargetAddresses, in.Address)
		}
	}
	return state
}

// finalTarget follows a chain of rollbacks to the version that takes new work: 2.2 went to 2.1, which went to 2.0.
func finalTarget(view *store.View, order drain.Drain) string {
	seen := map[string]bool{order.Version: true}
	for {
		next, ok := view.Drain(order.Spec, order.Target)
		if !ok || !next.Active() || seen[order.Target] {
			return order.Target
		}
		seen[order.Target] = true
		order = next
	}
}
