package control

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/rollout"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// Who chose a plan, in words.
const (
	ofManifest = "its manifest"
	ofDeploy   = "the deploy"
	ofNobody   = "xds, since its manifest has none"
	// overManifest: the deploy's plan stands in place of the manifest's.
	overManifest = "the deploy, in place of its manifest's"
)

// chosen is the plan that a version gets its traffic by, and who chose it: the one that is asked for, else its manifest's, else the standard one.
func (c *Controller) chosen(ref versions.Ref, asked *rollout.Plan) (plan rollout.Plan, origin string) {
	record, _ := c.store.View().Version(ref.Spec, ref.Version)
	declared := record.Manifest.Rollout
	switch {
	case asked != nil && declared.Declared():
		return *asked, overManifest
	case asked != nil:
		return *asked, ofDeploy
	case declared.Declared():
		return declared, ofManifest
	}
	return rollout.Plan{}, ofNobody
}

// start is a rollout that a command wants to begin.
type start struct {
	ref        versions.Ref
	plan       rollout.Plan
	origin     string
	impossible bool
	// deploy: nobody asked for a canary, the manifest did. What cannot have one gets its traffic at once.
	deploy bool
	actor  Actor
	how    How
	now    time.Time

	// begun is the rollout, or the one that was under way; zero if there is none.
	begun store.Rollout
}

// begin carries out the starts, and what else the command wants, in one transaction.
func (c *Controller) begin(ctx context.Context, actor Actor, starts []*start, wants []want, how How) ([]Change, error) {
	if len(starts) == 0 {
		return c.change(ctx, actor, wants, how)
	}
	bySpec := map[string]*start{}
	for _, s := range starts {
		// Before the command takes its turn: looking ahead takes a while.
		if err := c.prepare(s); err != nil {
			return nil, err
		}
		bySpec[s.ref.Spec] = s
		wants = append(wants, want{spec: s.ref.Spec, kind: routing.KindDeploy, resolve: func(tx *store.Tx, before routing.Route) (goal, error) { return c.resolveStart(tx, before, s) }})
	}
	how.moves = func(_ *store.Tx, route routing.Route) (store.Rollout, error) {
		s := bySpec[route.Spec]
		if s == nil || s.begun.Spec == "" {
			return store.Rollout{}, nil
		}
		s.begun.Marks = nil
		s.begun.Mark(route.Generation)
		return s.begun, nil
	}
	for _, s := range starts {
		s.how = how
		s.how.asked = true
	}
	if how.NoRehearsal && strings.TrimSpace(how.Reason) == "" {
		return nil, refuse("repeat the command with --reason \"why it cannot wait\"", "a deploy whose way back is not rehearsed needs a reason: it is written into the record")
	}
	changes, err := c.change(ctx, actor, wants, how)
	if err != nil {
		return nil, err
	}
	if !how.DryRun {
		for _, s := range starts {
			if how.NoRehearsal && s.begun.Spec != "" && s.begun.StartedAt.Equal(s.now) {
				c.metrics.rehearsals.WithLabelValues("skipped").Inc()
				c.log.Warn("canary without a rehearsal of its way back", zap.Stringer("canary", s.ref), zap.String("by", actor.Name), zap.String("reason", how.Reason))
			}
		}
		if err := c.awaitRehearsals(ctx, bySpec, changes); err != nil {
			return nil, err
		}
	}
	for i := range changes {
		if s := bySpec[changes[i].Route.Spec]; s != nil && s.begun.Spec != "" {
			changes[i].Planned = fmt.Sprintf("%s (the plan of %s)", s.begun.Plan.Summary(), s.begun.Origin)
			if r := s.begun.Rehearsal; r != nil {
				changes[i].Planned += "\n" + r.String()
			}
		} else if s != nil && s.deploy && changes[i].Route.Kind == routing.KindDeploy && !changes[i].AlreadyDone {
			changes[i].Warnings = append(changes[i].Warnings, "its manifest's plan is not followed: there is no version to compare it with")
		}
	}
	return changes, nil
}

// prepare completes the plan, and refuses one that would not come to its end by itself.
func (c *Controller) prepare(s *start) (err error) {
	if s.plan, err = s.plan.Complete(); err != nil {
		return refuse("specctl plan "+s.ref.String(), "%v", err)
	}
	if err := c.reaches(s.plan, s.origin); err != nil {
		return err
	}
	view := c.store.View()
	before, _ := view.Route(s.ref.Spec)
	stable, back, err := c.stableFor(view, before, s.ref)
	if err != nil || back || s.impossible {
		return nil // the transaction says what is wrong
	}
	if running, ok := view.Rollout(s.ref.Spec); ok && !running.Phase.Ended() {
		return nil // it is this one
	}
	o := s.plan.Look(c.traffic(s.ref.Spec, stable))
	if len(o.Impossible) == 0 {
		return nil
	}
	return refuse(fmt.Sprintf("specctl plan %s   (or go ahead all the same: repeat the command with --impossible%s)", s.ref, s.orAtOnce()),
		"the plan of %s would not come to its end by itself: %s", s.origin, strings.Join(o.Impossible, "; "))
}

// reaches refuses a plan that asks what this control plane cannot ask, or may not: whoever publishes a manifest could else have it post to any host that it sees.
func (c *Controller) reaches(plan rollout.Plan, origin string) error {
	if plan.QueriesPrometheus() && c.prometheus == nil {
		return refuse("xds --prometheus URL", "the plan of %s has a judge that queries Prometheus, and this control plane knows none", origin)
	}
	if len(c.planHosts) == 0 {
		return nil
	}
	for _, post := range plan.Posts() {
		u, err := url.Parse(post)
		if err != nil || !slices.ContainsFunc(c.planHosts, func(allowed string) bool { return hostAllowed(u, allowed) }) {
			return refuse("xds --plan-host HOST, or another plan", "the plan of %s posts to %s, which is none of this control plane's --plan-host: %s", origin, u.Host, strings.Join(c.planHosts, ", "))
		}
	}
	return nil
}

// hostAllowed says whether a URL's host is the one that is allowed: a host with any port, a host with that port, or .domain for all below it.
func hostAllowed(u *url.URL, allowed string) bool {
	host := strings.ToLower(u.Hostname())
	switch {
	case strings.HasPrefix(allowed, "."):
		return strings.HasSuffix(host, strings.ToLower(allowed))
	case u.Port() != "" && strings.EqualFold(u.Host, allowed):
		return true
	}
	return strings.EqualFold(host, strings.Trim(allowed, "[]"))
}

func (s *start) orAtOnce() string {
	if !s.deploy {
		return ""
	}
	return "; or give it all the traffic now: --at-once"
}

// resolveStart gives the first weight, or what is asked where there is no canary to be.
func (c *Controller) resolveStart(tx *store.Tx, before routing.Route, s *start) (goal, error) {
	s.begun = store.Rollout{}
	whole := goal{splits: []routing.Split{{Version: s.ref.Version, BasisPoints: routing.Full}}, why: "you named it"}
	if s.deploy && (before.Generation == 0 || before.Weight(s.ref.Version) == routing.Full) {
		_, err := known(tx, s.ref.Spec, s.ref.Version)
		return whole, err
	}
	stable, back, err := c.stableFor(tx, before, s.ref)
	if err != nil {
		return goal{}, err
	}
	if back {
		return whole, nil
	}
	if running, ok := tx.Rollout(s.ref.Spec); ok && !running.Phase.Ended() { // of this version, or it had been refused
		s.begun = running
		return goal{done: &before}, nil
	}
	base := c.traffic(s.ref.Spec, stable)
	if !base.BaseKnown {
		base.Base = rollout.AssumedBase
	}
	run, action, err := rollout.Begin(s.ref.Spec, s.ref.Version, stable, s.plan, base.Base, s.actor.Name, s.now)
	if err != nil {
		return goal{}, err
	}
	run.Origin = s.origin
	run.Asked = rollout.Asked{Reason: s.how.Reason, Override: s.how.Override, OverrideReason: s.how.OverrideReason, Admin: s.actor.Admin}
	switch {
	case s.how.DryRun: // it shows the first weight
	case s.how.NoRehearsal:
		run = run.Unrehearsed(s.actor.Name, s.how.Reason, s.now)
	default:
		run, action = run.Rehearse(s.now)
	}
	s.begun = store.Rollout{Run: run}
	if !action.Changed {
		// It rehearses or stands at gates first. What would keep it from its traffic is said now, not when they open.
		w := want{spec: s.ref.Spec, kind: routing.KindDeploy, resolve: func(*store.Tx, routing.Route) (goal, error) {
			return goal{splits: splitsOf(run, uint16(run.Plan.Steps[0].Weight)), why: "you named it"}, nil
		}}
		if _, err := c.draft(tx, s.actor, w, s.how, s.now); err != nil {
			return goal{}, err
		}
		return goal{done: &before, begins: &s.begun}, nil
	}
	return goal{splits: splitsOf(run, action.Weight), why: "you named it"}, nil
}
