package control

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/rollout"
	judge "github.com/specproxy/specproxy/internal/rollout/evidence"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// rolloutEvery is how often rollouts are looked at.
const rolloutEvery = time.Second

// moves gives the rollout as a change of the route leaves it, inside the change's transaction.
type moves func(tx *store.Tx, route routing.Route) (store.Rollout, error)

// errMoved says that a rollout was changed by somebody else meanwhile.
var errMoved = errors.New("the rollout has moved on meanwhile")

// StartRollout gives a version its plan's first weight, and follows the plan from there; nil: that of its manifest, or the standard one. A return
// to an older version is a rollback: it has no plan, and none stands in its way; the rollout returned is then the zero one.
func (c *Controller) StartRollout(ctx context.Context, actor Actor, ref versions.Ref, plan *rollout.Plan, how How) (Change, store.Rollout, error) {
	chosen, origin := c.chosen(ref, plan)
	s := &start{ref: ref, plan: chosen, origin: origin, impossible: how.Impossible, actor: actor, now: time.Now().UTC()}
	changes, err := c.begin(ctx, actor, []*start{s}, nil, how)
	if err != nil {
		return Change{}, store.Rollout{}, err
	}
	return changes[0], s.begun, nil
}

// stableFor says what a canary would be compared with; back says that the version is an older one, so that going there is a rollback.
func (c *Controller) stableFor(tx store.Reader, before routing.Route, ref versions.Ref) (stable string, back bool, err error) {
	record, err := known(tx, ref.Spec, ref.Version)
	if err != nil {
		return "", false, err
	}
	deploy := "specctl deploy " + ref.String()
	if before.Generation == 0 {
		return "", false, refuse(deploy+"   (without a plan)", "%s has no traffic yet: there is nothing to compare a canary with", ref.Spec)
	}
	newest, _ := tx.Version(ref.Spec, routing.Newest(before.Splits, tx.Relevant(ref.Spec, store.Weighted(before.Splits))))
	if record.FirstWeight != 0 && routing.Earlier(record, newest) < 0 {
		return newest.Version, true, nil
	}
	if running, ok := tx.Rollout(ref.Spec); ok && !running.Phase.Ended() {
		if running.Canary == ref.Version {
			return running.Stable, false, nil
		}
		return "", false, refuse(fmt.Sprintf("specctl canary abort %s   (or: promote)", ref.Spec), "a rollout of %s:%s is under way (%s)", ref.Spec, running.Canary, running.Phase)
	}
	for _, s := range before.Splits {
		if s.Version == ref.Version {
			continue
		}
		if stable != "" {
			return "", false, refuse(fmt.Sprintf("specctl weights %s %s=100", ref.Spec, stable), "the traffic of %s is split over several versions (%s): a canary needs one to be compared with",
				ref.Spec, routing.Describe(before.Splits))
		}
		stable = s.Version
	}
	if stable == "" {
		return "", false, refuse("specctl get "+ref.Spec, "%s has all the traffic already", ref)
	}
	return stable, false, nil
}

func splitsOf(r rollout.Run, weight uint16) []routing.Split {
	return []routing.Split{
		{Version: r.Stable, BasisPoints: routing.Full - uint32(weight)}, {Version: r.Canary, BasisPoints: uint32(weight)},
	}
}

// traffic is what the spec receives now, and how often its stable version fails.
func (c *Controller) traffic(spec, stable string) rollout.Traffic {
	const enough = 20 // outcomes that make a rate
	var t rollout.Traffic
	v := c.store.View()
	for _, version := range c.fleet.Seen(v, spec) {
		t.PerHour += c.fleet.Pool(v, spec, version).Rate * 3600
	}
	p := c.fleet.Pool(v, spec, stable)
	if n := p.Succeeded + p.Failed; n >= enough {
		t.Base, t.BaseKnown = float64(p.Failed)/float64(n), true
	}
	return t
}

// Ahead is what a plan comes to.
type Ahead struct {
	Plan rollout.Plan
	// Origin of the plan, and the version that the canary would be compared with.
	Origin, Stable string
	rollout.Outlook
}

// LookAhead says what a plan comes to for a version at today's traffic; nil: that of its manifest, or the standard one.
func (c *Controller) LookAhead(ref versions.Ref, asked *rollout.Plan) (Ahead, error) {
	plan, origin := c.chosen(ref, asked)
	plan, err := plan.Complete()
	if err != nil {
		return Ahead{}, refuse("specctl plan --help", "%v", err)
	}
	if err := c.reaches(plan, origin); err != nil {
		return Ahead{}, err
	}
	view := c.store.View()
	before, _ := view.Route(ref.Spec)
	stable, back, err := c.stableFor(view, before, ref)
	if err != nil {
		return Ahead{}, err
	}
	if back {
		return Ahead{}, refuse("specctl rollback "+ref.Spec+" --to "+ref.Version, "%s is older than %s: going there is a rollback, which needs no plan", ref, stable)
	}
	return Ahead{Plan: plan, Origin: origin, Stable: stable, Outlook: plan.Look(c.traffic(ref.Spec, stable))}, nil
}

// followRoute keeps the spec's rollout in step with its route, in one transaction: a rollout's own change stores what it became; any other
// change ends the rollout that was under way. It returns what a rollback's record is to say of it.
func (c *Controller) followRoute(tx *store.Tx, d *draft, how How, actor Actor, now time.Time) (*postmortem.Canary, error) {
	running, ok := tx.Rollout(d.Route.Spec)
	under := ok && !running.Phase.Ended()
	var canary *postmortem.Canary
	if under {
		canary = &postmortem.Canary{Run: running.Run, Verdict: running.Judge(now)}
	}
	if how.moves != nil {
		ro, err := how.moves(tx, d.Route)
		if err != nil {
			return nil, err
		}
		if ro.Spec != "" {
			tx.PutRollout(ro)
			if canary != nil {
				canary.Run, canary.Verdict, canary.Itself = ro.Run, ro.Judge(now), true
			}
			return canary, nil
		}
	}
	if !under || slices.Equal(d.Before, d.Route.Splits) && !slices.Contains(d.Route.Abandoned, running.Canary) {
		return nil, nil // who is sent somewhere by a header is not among those that it judges
	}
	event := rollout.EventRerouted
	if d.Route.Kind == routing.KindRollback && d.Route.Weight(running.Canary) == 0 && running.Phase != rollout.Rehearsing {
		event = rollout.EventRolledBack
	}
	run, _, _, err := running.Apply(event, actor.Name, "", now)
	if err != nil {
		return nil, err
	}
	running.Run = run
	tx.PutRollout(running)
	if event != rollout.EventRolledBack {
		canary = nil
	}
	return canary, nil
}

// followRollouts judges what is under way and moves it along.
func (c *Controller) followRollouts(ctx context.Context) error {
	tick := time.NewTicker(rolloutEvery)
	defer tick.Stop()
	defer c.errands.wg.Wait()
	said := map[string]string{} // the last error of each spec, so that it is not said every second
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		for _, ro := range c.store.View().Rollouts() {
			if ro.Phase.Ended() || ro.Phase == rollout.Rehearsing {
				delete(said, ro.Spec)
				continue
			}
			c.tendGates(ctx, ro, time.Now().UTC())
			c.tendJudges(ctx, ro, time.Now().UTC())
			err := c.step(ctx, ro, time.Now().UTC())
			if err == nil || errors.Is(err, errMoved) || ctx.Err() != nil {
				delete(said, ro.Spec)
				continue
			}
			if said[ro.Spec] != err.Error() {
				c.log.Error("rollout", zap.String("spec", ro.Spec), zap.String("canary", ro.Canary), zap.Error(err))
				said[ro.Spec] = err.Error()
				c.lament(ctx, "say why a rollout stands", ro.Spec, c.sayStuck(ctx, ro, err))
			}
		}
	}
}

// sayStuck lets a rollout say what keeps it from going on: its log is not where people look.
func (c *Controller) sayStuck(ctx context.Context, seen store.Rollout, why error) error {
	var refused *Refused
	if !errors.As(why, &refused) {
		return nil
	}
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		ro, ok := tx.Rollout(seen.Spec)
		if !ok || ro.Phase != seen.Phase || ro.Step != seen.Step || ro.Attempt != seen.Attempt {
			return nil
		}
		ro.Why = "it cannot go on: " + refused.Why
		tx.PutRollout(ro)
		return nil
	})
	return err
}

// engine acts when nobody does.
func engine(ro store.Rollout) Actor { return Actor{Name: "rollout of " + ro.Canary} }

// step looks at one rollout once.
func (c *Controller) step(ctx context.Context, seen store.Rollout, now time.Time) error {
	if c.fleet.Awaited(seen.Spec, seen.Stable) || c.fleet.Awaited(seen.Spec, seen.Canary) {
		return nil
	}
	ro, moved, err := read(c.store.View(), c.fleet, seen)
	if err != nil {
		return err
	}
	if event, why := ro.Tick(ro.Judge(now), now); event != "" {
		_, _, err := c.apply(ctx, engine(ro), seen, ro, event, why, now)
		return err
	}
	if !moved {
		return nil
	}
	_, err = c.store.Update(ctx, func(tx *store.Tx) error {
		if err := still(tx, seen); err != nil {
			return err
		}
		tx.PutRollout(ro)
		return nil
	})
	return err
}

// still refuses if the rollout is no longer the one that was seen.
func still(tx *store.Tx, seen store.Rollout) error {
	if now, ok := tx.Rollout(seen.Spec); !ok || !reflect.DeepEqual(now, seen) {
		return errMoved
	}
	return nil
}

// apply lets an event happen to a rollout, and does what it asks for in the same transaction. seen is what is stored, ro what has been read since.
func (c *Controller) apply(ctx context.Context, actor Actor, seen, ro store.Rollout, event rollout.Event, why string, now time.Time) (store.Rollout, *Change, error) {
	run, action, changed, err := ro.Apply(event, actor.Name, why, now)
	if err != nil {
		return seen, nil, refuse("specctl canary status "+seen.Spec, "%v", err)
	}
	if !changed {
		return seen, nil, nil
	}
	ro.Run = run
	how := How{Reason: run.Why, moves: func(tx *store.Tx, route routing.Route) (store.Rollout, error) {
		if err := still(tx, seen); err != nil {
			return store.Rollout{}, err
		}
		next := ro
		if !run.Phase.Ended() || run.Phase == rollout.Promoted {
			next.Marks = append([]rollout.Mark(nil), ro.Marks...)
			next.Mark(route.Generation)
		}
		return next, nil
	}}
	var change Change
	switch {
	case action.Rollback:
		var changes []Change
		changes, err = c.Rollback(ctx, actor, []RollbackTarget{{Spec: run.Spec, From: run.Canary, To: run.Stable}}, how)
		if err == nil {
			change = changes[0]
		}
	case action.Changed && seen.Step < 0:
		change, err = c.firstWeight(ctx, actor, run, action.Weight, how)
	case action.Changed:
		change, err = c.SetWeights(ctx, actor, run.Spec, splitsOf(run, action.Weight), how)
	default:
		_, err = c.store.Update(ctx, func(tx *store.Tx) error {
			if err := still(tx, seen); err != nil {
				return err
			}
			if event == rollout.EventRetry { // at its first step already: the evidence begins anew under the route as it is
				route, _ := tx.Route(run.Spec)
				ro.Marks = nil
				ro.Mark(route.Generation)
			}
			tx.PutRollout(ro)
			return nil
		})
		return ro, nil, err
	}
	if err != nil {
		return seen, nil, err
	}
	stored, _ := c.store.View().Rollout(run.Spec)
	return stored, &change, nil
}

// firstWeight is the deploy, as it was asked for before the rehearsal and the gates.
func (c *Controller) firstWeight(ctx context.Context, actor Actor, run rollout.Run, weight uint16, how How) (Change, error) {
	asked := run.Asked
	how.Override, how.OverrideReason, actor.Admin = asked.Override, asked.OverrideReason, asked.Admin // whoever opened the last gate
	if asked.Reason != "" {
		how.Reason = asked.Reason
	}
	changes, err := c.change(ctx, actor, []want{{spec: run.Spec, kind: routing.KindDeploy, resolve: func(tx *store.Tx, _ routing.Route) (goal, error) {
		_, err := known(tx, run.Spec, run.Canary)
		return goal{splits: splitsOf(run, weight), why: "you named it"}, err
	}}}, how)
	if err != nil {
		return Change{}, err
	}
	return changes[0], nil
}

// ChangeRollout carries out a person's command over a rollout.
func (c *Controller) ChangeRollout(ctx context.Context, actor Actor, spec string, event rollout.Event, reason string) (store.Rollout, *Change, error) {
	var out store.Rollout
	var change *Change
	err := c.retrying(spec, func(seen store.Rollout) (err error) {
		out, change, err = c.apply(ctx, actor, seen, seen, event, reason, time.Now().UTC())
		return err
	})
	return out, change, err
}

// lament logs what nobody waits for.
func (c *Controller) lament(ctx context.Context, what, spec string, err error) {
	if err != nil && ctx.Err() == nil {
		c.log.Error(what, zap.String("spec", spec), zap.Error(err))
	}
}

// Share is the part of new executions that the canary really got under its present weight, or its last one; ok is false if none was counted.
func Share(ro store.Rollout) (share float64, ok bool) {
	weight, marked := ro.WeightAt(math.MaxUint64)
	if !marked {
		return 0, false
	}
	for _, s := range ro.Evidence.Shares() {
		if n := s.Assigned[judge.Canary] + s.Assigned[judge.Stable]; s.Weight == weight && n > 0 {
			return float64(s.Assigned[judge.Canary]) / float64(n), true
		}
	}
	return 0, false
}

// More says how long it takes until the evidence is enough, at today's traffic; ok is false if nobody can say.
func (c *Controller) More(ro store.Rollout, v judge.Verdict) (wait time.Duration, ok bool) {
	perHour := c.traffic(ro.Spec, ro.Stable).PerHour * float64(ro.Weight()) / judge.Whole
	if v.More == 0 || perHour <= 0 {
		return 0, false
	}
	return time.Duration(float64(v.More) / perHour * float64(time.Hour)), true
}
