package api

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// enough is how many recent outcomes make a success rate worth alarming over.
const enough = 20

// dropped is the loss of success, against the exit's own record, that is called trouble.
const dropped = 0.05

func fenced(view *store.View, spec, version string) bool {
	order, ok := view.Drain(spec, version)
	return ok && order.Fences()
}

func poolOf(p fleet.Pool, fenced bool) *operatorv1.Pool {
	out := &operatorv1.Pool{
		Ready: uint32(p.Ready), Instances: uint32(p.Instances), Silent: uint32(p.Silent), InFlight: p.InFlight, Succeeded: p.Succeeded, Failed: p.Failed,
		Unknown: p.Unknown, Rate: p.Rate, RecentSuccess: -1, Fenced: fenced, Completed: p.Drained.Completed, HandedOver: p.Drained.HandedOver,
		Cancelled: p.Drained.Cancelled, Held: p.Drained.Held, PassedOn: p.PassedOn, RecentSucceeded: p.RecentSucceeded, RecentFailed: p.RecentFailed,
		Shadow: shadowCountsOf(p.Shadow),
	}
	if n := p.RecentSucceeded + p.RecentFailed; n > 0 {
		out.RecentSuccess = float64(p.RecentSucceeded) / float64(n)
	}
	return out
}

// specOf sums one spec up: what it is, what is wrong, what to type next.
func (s *Server) specOf(view *store.View, name string) *operatorv1.Spec {
	route, routed := view.Route(name)
	records := view.Relevant(name, store.Weighted(route.Splits))
	out := &operatorv1.Spec{Name: name}
	exit, _, err := routing.Exit(routing.Newest(route.Splits, records), route.Splits, records)
	if err != nil {
		exit = "" // said below
	}
	var shown []versions.Record
	shown, out.MoreVersions = s.shownVersions(view, name, route, exit)
	for _, r := range shown {
		out.Versions = append(out.Versions, s.versionOf(view, route, r))
	}
	if !routed {
		newest, _ := view.Newest(name)
		out.LastChange, out.Next, out.Hosts = "published, never deployed", firstStep(out, newest), newest.Manifest.Hosts
		out.Trouble = unready(view, out)
		return out
	}
	out.Generation, out.ChangedAt, out.ChangedBy, out.LastChange = route.Generation, stamp(route.At), route.By, lastChange(route)
	newest := routing.Newest(route.Splits, records)
	if record, ok := view.Version(name, newest); ok {
		out.Hosts = record.Manifest.Hosts
	}
	out.HeaderTargets, out.Shadow = headerTargetsOf(route.HeaderTargets), shadowOf(route.Shadow)
	if f := route.Freeze; f != nil {
		out.Freeze = &operatorv1.Freeze{Since: stamp(f.Since), Until: stamp(f.Until), Postmortem: f.PostMortem}
	}
	for _, r := range shown {
		if d, ok := view.Drain(name, r.Version); ok && (d.Kind != drain.KindPromote || d.Unfinished()) {
			out.Drains = append(out.Drains, drainOf(control.Measure(view, s.Fleet, d)))
		}
	}
	if ro, ok := view.Rollout(name); ok && !ro.Phase.Ended() {
		out.Canary = &operatorv1.CanaryShare{Version: ro.Canary, Phase: string(ro.Phase), Weight: uint32(ro.Weight()), Rehearsal: rehearsalOf(ro.Rehearsal)}
		if share, counted := control.Share(ro); counted {
			out.Canary.Share = &share
		}
	}
	cold := s.exitOf(view, out, route, records, newest)
	s.troubleOf(view, out, route, newest, cold)
	return out
}

// firstStep towards a first deploy: that of the newest version with a ready instance, or to start one.
func firstStep(out *operatorv1.Spec, newest versions.Record) string {
	for _, v := range slices.Backward(out.GetVersions()) {
		if v.GetPool().GetReady() > 0 {
			return "specctl deploy " + out.GetName() + ":" + v.GetVersion()
		}
	}
	if slices.ContainsFunc(out.GetVersions(), func(v *operatorv1.Version) bool { return v.GetPool().GetInstances() > 0 }) {
		return "specctl get " + out.GetName() + " --watch" // one is starting, or says why not
	}
	return "specproxy --spec " + newest.Ref().String() + " …"
}

func lastChange(r routing.Route) string {
	switch r.Kind {
	case routing.KindRollback:
		return fmt.Sprintf("rollback %s → %s (%s)", strings.Join(r.Abandoned, ", "), r.Target, r.PostMortem)
	case routing.KindUndo:
		return "rollback undone, back to " + routing.Describe(r.Splits)
	case routing.KindTarget:
		if len(r.HeaderTargets) == 0 {
			return "no header leads to a version any more"
		}
		return "headers lead to versions: " + describe(r.HeaderTargets)
	case routing.KindShadow:
		if r.Shadow == nil {
			return "no request is copied any more"
		}
		return fmt.Sprintf("%s %% of the requests are copied to %s", routing.Percent(r.Shadow.BasisPoints), r.Shadow.Version)
	case routing.KindDeploy, routing.KindWeights:
		return string(r.Kind) + " " + routing.Describe(r.Splits)
	}
	return string(r.Kind)
}

func describe(targets []routing.HeaderTarget) string {
	parts := make([]string, 0, len(targets))
	for _, t := range targets {
		parts = append(parts, t.String())
	}
	return strings.Join(parts, ", ")
}

// exitOf says where a rollback would go now. An exit without a ready instance is none; it is returned, so that it can be started.
func (s *Server) exitOf(view *store.View, out *operatorv1.Spec, route routing.Route, records []versions.Record, newest string) (cold string) {
	exit, why, err := routing.Exit(newest, route.Splits, records)
	if errors.Is(err, routing.ErrNoExit) {
		out.ExitReason = "no earlier good version than " + newest
		return ""
	}
	if err != nil {
		out.ExitReason = err.Error()
		return ""
	}
	if s.Fleet.Pool(view, route.Spec, exit).Ready == 0 {
		out.ExitReason = fmt.Sprintf("%s would be it, but has no ready instance (%s)", exit, why)
		return exit
	}
	out.Exit, out.ExitReason = exit, why
	return ""
}

// troubleOf lists what is wrong, worst first, and the command that helps most.
func (s *Server) troubleOf(view *store.View, out *operatorv1.Spec, route routing.Route, newest, cold string) {
	name := route.Spec
	trouble := func(next, format string, args ...any) {
		out.Trouble = append(out.Trouble, fmt.Sprintf(format, args...))
		if out.Next == "" {
			out.Next = next
		}
	}
	for _, split := range route.Splits {
		p := s.Fleet.Pool(view, name, split.Version)
		ref := name + ":" + split.Version
		if p.Ready == 0 {
			next := "specproxy --spec " + ref + " …"
			if out.GetExit() != "" {
				next = "specctl rollback " + name
			}
			trouble(next, "%s holds %s %% of the traffic and has no ready instance", ref, routing.Percent(split.BasisPoints))
		} else if p.Silent > 0 {
			trouble("specctl get "+name, "%s: %d of %d instances have no control stream; what they do is unknown", ref, p.Silent, p.Instances)
		}
		if r, ok := blamed(view, name, split.Version); ok {
			trouble("specctl rollback "+name, "%s holds %s %% of the traffic although %s was closed as %s", ref, routing.Percent(split.BasisPoints), r.ID, r.Closing.Cause)
		}
		if n := p.RecentSucceeded + p.RecentFailed; n >= enough {
			rate := float64(p.RecentSucceeded) / float64(n)
			if base, of := baseline(out, split.Version); of != "" && rate < base-dropped {
				trouble("specctl rollback "+name, "%s succeeds in %.0f %% of the last %d; %s stands at %.0f %%", ref, rate*100, n, of, base*100)
			}
		}
	}
	for _, t := range route.HeaderTargets {
		if route.Weight(t.Version) == 0 && s.Fleet.Pool(view, name, t.Version).Ready == 0 {
			trouble("specproxy --spec "+name+":"+t.Version+" …", "%s: %s leads to %s:%s, which has no ready instance", name, t.Header, name, t.Version)
		}
	}
	for _, d := range out.GetDrains() {
		if drain.State(d.GetState()) == drain.Held {
			trouble("specctl executions "+name+" --on "+d.GetVersion(), "%s:%s: %d held for a person to look at", name, d.GetVersion(), d.GetHeld())
		}
	}
	if out.GetExit() == "" && len(out.GetVersions()) > 1 && newest != "" {
		next := "" // nothing helps but a better version
		if cold != "" {
			next = "specproxy --spec " + name + ":" + cold + " …"
		}
		trouble(next, "exit: none — %s", out.GetExitReason())
	}
	out.Trouble = append(out.Trouble, unready(view, out)...)
	for _, r := range view.OpenPostMortems() {
		if b, ok := r.Rollback(name); ok {
			trouble("specctl postmortem show "+r.ID, "%s is open: %s was abandoned for %s%s", r.ID, b.Abandoned[0].Version, b.Target, broughtBack(r, b))
		}
	}
}

// broughtBack says that a rollback does not hold any more although its record is open.
func broughtBack(r postmortem.Record, b postmortem.Rollback) string {
	if r.Undone != nil {
		return ", and undone by " + r.Undone.Actor
	}
	for _, o := range r.Overrides {
		if o.Version == b.Abandoned[0].Version {
			return ", and deployed in spite of it by " + o.Actor
		}
	}
	return ""
}

// blamed finds the closed record that puts the fault into a version which an undo or an override had brought back before.
func blamed(view *store.View, spec, version string) (postmortem.Record, bool) {
	v, ok := view.Version(spec, version)
	if !ok || v.PostMortem == "" {
		return postmortem.Record{}, false
	}
	r, ok := view.PostMortem(v.PostMortem)
	return r, ok && r.Closing != nil && !r.Closing.Cause.Clears()
}

// unready says what keeps instances from being ready.
func unready(view *store.View, out *operatorv1.Spec) (trouble []string) {
	for _, v := range out.GetVersions() {
		if v.GetPool().GetInstances() == v.GetPool().GetReady() {
			continue
		}
		for i, in := range notReady(view, out.GetName(), v.GetVersion()) {
			if i == shownNotReady {
				break
			}
			trouble = append(trouble, fmt.Sprintf("%s:%s: instance %s is not ready: %s", out.GetName(), v.GetVersion(), in.ID, in.Reason))
		}
	}
	return trouble
}

// shownNotReady bounds how many instances of one version are named.
const shownNotReady = 3

// notReady lists the instances that say what keeps them from being ready.
func notReady(view *store.View, spec, version string) []routing.Instance {
	return slices.DeleteFunc(view.InstancesOf(spec, version), func(in routing.Instance) bool {
		return in.Health != routing.Starting || in.Reason == ""
	})
}

// baseline is the success rate to compare a version with: that of the exit, else of the spec's best other version, over all its time.
func baseline(out *operatorv1.Spec, version string) (rate float64, of string) {
	for _, v := range out.GetVersions() {
		n := v.GetPool().GetSucceeded() + v.GetPool().GetFailed()
		if v.GetVersion() == version || n < enough {
			continue
		}
		r := float64(v.GetPool().GetSucceeded()) / float64(n)
		if v.GetVersion() == out.GetExit() {
			return r, v.GetVersion()
		}
		if r > rate {
			rate, of = r, v.GetVersion()
		}
	}
	return rate, of
}
