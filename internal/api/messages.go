package api

import (
	"encoding/json"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
)

// stamp is nil for the zero time.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func weightsOf(splits []routing.Split) []*operatorv1.Weight {
	out := make([]*operatorv1.Weight, 0, len(splits))
	for _, s := range splits {
		out = append(out, &operatorv1.Weight{Version: s.Version, BasisPoints: s.BasisPoints})
	}
	return out
}

func changesOf(changes []control.Change, dryRun bool) []*operatorv1.Change {
	out := make([]*operatorv1.Change, 0, len(changes))
	for _, c := range changes {
		out = append(out, changeOf(c, dryRun))
	}
	return out
}

func changeOf(c control.Change, dryRun bool) *operatorv1.Change {
	out := routeOf(c.Route)
	out.Before, out.AlreadyDone, out.Warnings, out.DryRun, out.Planned = weightsOf(c.Before), c.AlreadyDone, c.Warnings, dryRun, c.Planned
	if dryRun && !c.AlreadyDone {
		out.CommittedAt = nil
	}
	if !c.AlreadyDone && c.Route.Kind.Moves() {
		out.Capacity = &operatorv1.Capacity{Ready: uint32(c.Capacity.Ready), Rate: c.Capacity.Rate, SeenPerInstance: c.Capacity.SeenPerInstance}
		if c.Capacity.Ready > 0 {
			out.Capacity.PerInstance = c.Capacity.Rate / float64(c.Capacity.Ready)
		}
	}
	for _, p := range c.Plans {
		out.Plans = append(out.Plans, &operatorv1.Plan{
			Version: p.Version, Rule: p.Rule, Disposition: string(p.Disposition), Executions: uint32(p.Executions), Then: string(p.Then), Within: durationpb.New(p.Within),
		})
	}
	return out
}

func routeOf(r routing.Route) *operatorv1.Change {
	return &operatorv1.Change{
		Spec: r.Spec, Generation: r.Generation, Kind: string(r.Kind), After: weightsOf(r.Splits), Abandoned: r.Abandoned, Target: r.Target,
		TargetReason: r.TargetWhy, Postmortem: r.PostMortem, CommittedAt: stamp(r.At), Actor: r.By, HeaderTargets: headerTargetsOf(r.HeaderTargets),
		Reason: r.Reason, Shadow: shadowOf(r.Shadow),
	}
}

func shadowOf(s *routing.Shadow) *operatorv1.Shadow {
	if s == nil {
		return nil
	}
	return &operatorv1.Shadow{Version: s.Version, BasisPoints: s.BasisPoints, Since: s.Since, Until: stamp(s.Until), At: stamp(s.At), Actor: s.By, Reason: s.Reason}
}

func headerTargetsOf(targets []routing.HeaderTarget) []*operatorv1.HeaderTarget {
	out := make([]*operatorv1.HeaderTarget, 0, len(targets))
	for _, t := range targets {
		out = append(out, &operatorv1.HeaderTarget{
			Header: t.Header, Value: t.Value, Version: t.Version, Until: stamp(t.Until), At: stamp(t.At), Actor: t.By, Reason: t.Reason,
		})
	}
	return out
}

func effectOf(e control.Effect) *operatorv1.GetEffectResponse {
	return &operatorv1.GetEffectResponse{
		Spec: e.Route.Spec, Generation: e.Route.Generation, Effective: e.Effective, By: e.By, CommittedAt: stamp(e.Route.At), EffectiveAt: stamp(e.EffectiveAt),
		ProxiesAcked: uint32(e.ProxiesAcked), ProxiesTotal: uint32(e.ProxiesTotal), FencesAcked: uint32(e.FencesAcked), FencesTotal: uint32(e.FencesTotal),
		Laggards: e.Laggards, Refusals: e.Refusals, LastAdmissionAt: stamp(e.LastAdmissionAt), LastAdmissionId: e.LastAdmissionID,
	}
}

func failureOf(x store.Failure) *operatorv1.Execution {
	return &operatorv1.Execution{
		Id: x.ID, Key: x.Key, Version: x.Version, Instance: x.Instance, Method: x.Method, Path: x.Path, StartedAt: stamp(x.StartedAt), EndedAt: stamp(x.EndedAt),
		Effects: string(x.Effects), Outcome: x.Outcome, Reason: x.Reason, Disposition: string(x.Disposition), Why: x.Why, RouteGeneration: x.RouteGeneration, Status: int32(x.Status),
		Tools: x.Tools, Skill: x.Skill,
	}
}

// postMortemOf is a record as it is kept.
func postMortemOf(r postmortem.Record) *operatorv1.PostMortem {
	out := &operatorv1.PostMortem{Id: r.ID, State: "open", OpenedAt: stamp(r.OpenedAt), Actor: r.Actor, Reason: r.Reason}
	for _, b := range r.Rollbacks {
		c := &operatorv1.Change{
			Spec: b.Spec, Generation: b.Generation, Kind: b.Command, Before: weightsOf(b.Before), After: weightsOf(b.After), Target: b.Target,
			TargetReason: b.TargetWhy, Postmortem: r.ID, CommittedAt: stamp(b.CommittedAt), Actor: r.Actor,
		}
		for _, a := range b.Abandoned {
			c.Abandoned = append(c.Abandoned, a.Version)
		}
		out.Changes = append(out.Changes, c)
	}
	for _, o := range r.Overrides {
		out.Overrides = append(out.Overrides, o.At.Format(time.RFC3339)+" "+o.Actor+" deployed "+o.Version+": "+o.Reason)
	}
	if r.Closing != nil {
		out.State, out.ClosedAt, out.ClosedBy, out.Cause, out.Note = "closed", stamp(r.Closing.At), r.Closing.Actor, string(r.Closing.Cause), r.Closing.Note
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err == nil { // a record came from JSON, so it goes back
		out.Json = string(raw)
	}
	return out
}
