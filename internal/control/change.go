package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// Change is one spec's new route generation: committed, proposed by a dry run, or the existing one when AlreadyDone.
type Change struct {
	Route       routing.Route
	Before      []routing.Split
	AlreadyDone bool
	Capacity    Capacity
	// Orders of a rollback: of every version that it abandons, as they are or would be committed. Plans is what they mean.
	Orders   []drain.Drain
	Plans    []Plan
	Warnings []string
	// Planned is the plan by which the version gets the rest of its traffic, in words; empty: there is none.
	Planned string
}

// Capacity is the target's ready instances against today's rate.
type Capacity struct {
	Ready int
	// Rate is the new executions a second of the whole spec now; SeenPerInstance the highest rate an instance of any version carries now.
	Rate, SeenPerInstance float64
}

// Plan says what one rule of an abandoned version's contract means for the executions that run now.
type Plan struct {
	Version     string
	Rule        string
	Disposition drain.Disposition
	Then        drain.Disposition
	Within      time.Duration
	Executions  int
}

// How says how a route change is to be made.
type How struct {
	Reason string
	DryRun bool
	// Now goes ahead although a version that gets weight has no ready instance.
	Now bool
	// Override names the open post-mortem of a quarantined version that is to be deployed all the same.
	Override, OverrideReason string
	// AtOnce gives a version all the traffic although its manifest has a plan for it.
	AtOnce bool
	// Impossible goes ahead with a plan that would not come to its end by itself.
	Impossible bool
	// NoRehearsal gives a canary its first weight although nobody has seen that it can be taken back; it needs a Reason.
	NoRehearsal bool

	asked    bool     // nobody but the command itself asks: what running executions meet need not be worked out
	undo     string   // the post-mortem whose rollback is taken back
	evidence evidence // what is attached to the versions that get weight, where a policy asks for it
	moves    moves    // the rollout that makes the change; nil where a person or another command does
}

// want is one spec's wish, resolved inside the transaction.
type want struct {
	spec string
	kind routing.Kind
	// resolve gives the splits; or a route when what is asked has been done before.
	resolve func(r *store.Tx, before routing.Route) (goal, error)
}

type goal struct {
	splits []routing.Split
	// targets in place of those that there are, if retarget; else they stay, but for those that lead to what is abandoned.
	targets  []routing.HeaderTarget
	retarget bool
	// shadow in place of the one that there is, if reshadow; else it stays while the weights do.
	shadow   *routing.Shadow
	reshadow bool
	abandons string         // the version that only headers lead to and that the command abandons
	to       string         // in favour of this one
	done     *routing.Route // already done: by this generation
	begins   *store.Rollout // that has no traffic yet: it stands at gates
	why      string         // why the target, where the system chose it
}

// after is the route's splits and header targets once the goal is reached, and what it abandons.
func (g goal) after(kind routing.Kind, before routing.Route, splits []routing.Split, records []versions.Record) routing.Route {
	r := routing.Route{Spec: before.Spec, Kind: kind, Splits: splits, HeaderTargets: before.HeaderTargets}
	if g.retarget {
		r.HeaderTargets = g.targets
	}
	if kind == routing.KindUndo {
		return r
	}
	r.Abandoned, r.Target = routing.Abandoned(before.Splits, splits, records)
	if g.abandons != "" && !slices.Contains(r.Abandoned, g.abandons) {
		r.Abandoned, r.Target = append(r.Abandoned, g.abandons), cmp.Or(r.Target, g.to)
	}
	r.HeaderTargets = routing.WithoutTargets(r.HeaderTargets, r.Abandoned...)
	switch s := before.Shadow; {
	case g.reshadow:
		r.Shadow = g.shadow
	case s != nil && slices.Equal(before.Splits, splits) && !slices.Contains(r.Abandoned, s.Version):
		r.Shadow = s
	}
	return r
}

// Deploy gives each version all of its spec's traffic: by the plan of its manifest, if there is one, else at once. If that is a return to an older
// version, it is a rollback.
func (c *Controller) Deploy(ctx context.Context, actor Actor, refs []versions.Ref, how How) ([]Change, error) {
	wants := make([]want, 0, len(refs))
	var starts []*start
	for _, ref := range refs {
		if plan, origin := c.chosen(ref, nil); origin == ofManifest && !how.AtOnce {
			starts = append(starts, &start{ref: ref, plan: plan, origin: origin, impossible: how.Impossible, deploy: true, actor: actor, now: time.Now().UTC()})
			continue
		}
		wants = append(wants, want{spec: ref.Spec, kind: routing.KindDeploy, resolve: func(tx *store.Tx, _ routing.Route) (goal, error) {
			if _, err := known(tx, ref.Spec, ref.Version); err != nil {
				return goal{}, err
			}
			return goal{splits: []routing.Split{{Version: ref.Version, BasisPoints: routing.Full}}, why: "you named it"}, nil
		}})
	}
	return c.begin(ctx, actor, starts, wants, how)
}

// SetWeights replaces one spec's split.
func (c *Controller) SetWeights(ctx context.Context, actor Actor, spec string, splits []routing.Split, how How) (Change, error) {
	changes, err := c.change(ctx, actor, []want{{spec: spec, kind: routing.KindWeights, resolve: func(tx *store.Tx, _ routing.Route) (goal, error) {
		for _, s := range splits {
			if _, err := known(tx, spec, s.Version); err != nil {
				return goal{}, err
			}
		}
		return goal{splits: splits, why: "you named it"}, nil
	}}}, how)
	if err != nil {
		return Change{}, err
	}
	return changes[0], nil
}

// change carries out all wishes in one transaction, or none.
func (c *Controller) change(ctx context.Context, actor Actor, wants []want, how How) ([]Change, error) {
	if len(wants) == 0 {
		return nil, refuse("specctl", "no spec was named")
	}
	seen := map[string]bool{}
	for _, w := range wants {
		if seen[w.spec] {
			return nil, refuse("name each spec once", "spec %s is named twice in one command", w.spec)
		}
		seen[w.spec] = true
	}
	how.evidence = c.gather(ctx, wants)
	c.commands.Lock()
	defer c.commands.Unlock()
	now := time.Now().UTC()
	var drafts []*draft
	plan := func(tx *store.Tx, how How) error {
		drafts = drafts[:0]
		for _, w := range wants {
			d, err := c.draft(tx, actor, w, how, now)
			if err != nil {
				return err
			}
			drafts = append(drafts, d)
		}
		if how.DryRun {
			return errDryRun
		}
		return c.write(tx, drafts, actor, how, now)
	}
	// Ask first, so that what is refused has not lowered a fence.
	question := how
	question.DryRun, question.asked = true, !how.DryRun
	if _, err := c.store.Update(ctx, func(tx *store.Tx) error { return plan(tx, question) }); !errors.Is(err, errDryRun) {
		return nil, err
	}
	if !how.DryRun {
		err := c.lowerFences(ctx, drafts, now)
		if err == nil {
			_, err = c.store.Update(ctx, func(tx *store.Tx) error { return plan(tx, how) })
		}
		if err != nil {
			c.raiseFences(ctx, func(since time.Time) bool { return since.Equal(now) })
			return nil, err
		}
	}
	changes := make([]Change, 0, len(drafts))
	for _, d := range drafts {
		changes = append(changes, d.Change)
		if !d.AlreadyDone && !how.DryRun {
			c.metrics.changes.WithLabelValues(string(d.Route.Kind)).Inc()
			c.log.Info("route changed", zap.String("spec", d.Route.Spec), zap.Uint64("generation", d.Route.Generation), zap.String("kind", string(d.Route.Kind)),
				zap.String("from", routing.Describe(d.Before)), zap.String("to", routing.Describe(d.Route.Splits)), zap.String("by", actor.Name),
				zap.String("postmortem", d.Route.PostMortem))
		}
	}
	return changes, nil
}

// errDryRun ends a transaction that was only a question.
var errDryRun = errors.New("dry run")

// draft is a Change with what has to be written for it.
type draft struct {
	Change
	command routing.Kind      // what was typed; a deploy or weights may turn out to be a rollback
	before  routing.Route     // that the change replaces
	records []versions.Record // that the change can depend on, as they are before it
	digest  string            // of the rollback's target
	begins  *store.Rollout    // that has no traffic yet
}

func (c *Controller) draft(tx *store.Tx, actor Actor, w want, how How, now time.Time) (*draft, error) {
	before, _ := tx.Route(w.spec)
	g, err := w.resolve(tx, before)
	if err != nil {
		return nil, err
	}
	named := append(before.Carried(), routing.Route{Splits: g.splits, HeaderTargets: g.targets}.Carried()...)
	if g.shadow != nil {
		named = append(named, g.shadow.Version)
	}
	d := &draft{command: w.kind, before: before, records: tx.Relevant(w.spec, named)}
	d.Before = before.Splits
	if g.done != nil {
		d.begins = g.begins
		d.alreadyDone(tx, *g.done, before)
		return d, nil
	}
	splits, err := routing.Normalize(g.splits, d.records)
	if err != nil {
		return nil, refuse("specctl get "+w.spec, "weights of %s: %v", w.spec, err)
	}
	d.Route = g.after(w.kind, before, splits, d.records)
	if slices.Equal(splits, before.Splits) && routing.SameTargets(d.Route.HeaderTargets, before.HeaderTargets) && d.Route.Shadow.Same(before.Shadow) {
		d.alreadyDone(tx, before, before)
		return d, nil
	}
	d.Route.Spec, d.Route.Generation, d.Route.At, d.Route.By, d.Route.Reason, d.Route.Freeze = w.spec, before.Generation+1, now, actor.Name, how.Reason, before.Freeze
	if len(d.Route.Abandoned) > 0 {
		d.Route.Kind, d.Route.TargetWhy = routing.KindRollback, g.why
	}
	if err := c.admit(tx, d, actor, how, now); err != nil {
		return nil, err
	}
	if d.Route.Kind.Moves() {
		d.Capacity = c.capacity(d.Route)
	}
	for _, version := range d.Route.Abandoned {
		d.Orders = append(d.Orders, c.order(d, version, now))
	}
	if !how.asked {
		d.Plans = c.plans(d.Orders, now)
	}
	return d, nil
}

// alreadyDone makes the draft tell of an earlier generation: what it replaced, and whether something has changed since.
func (d *draft) alreadyDone(tx *store.Tx, done, now routing.Route) {
	replaced, _ := tx.Generation(done.Spec, done.Generation-1)
	d.Route, d.AlreadyDone, d.Before = done, true, replaced.Splits
	if done.Generation == now.Generation {
		return
	}
	d.Warnings = append(d.Warnings, fmt.Sprintf("that was generation %d; by generation %d (%s, by %s) the traffic is %s. To roll that back: specctl rollback %s",
		done.Generation, now.Generation, now.Kind, now.By, routing.Describe(now.Splits), now.Spec))
}

// admit refuses what must not get weight.
func (c *Controller) admit(tx *store.Tx, d *draft, actor Actor, how How, now time.Time) error {
	rollback := d.Route.Kind == routing.KindRollback
	spec := d.Route.Spec
	if f := d.Route.Freeze; f != nil && now.Before(f.Until) && actor.Automation && !rollback {
		return refuse("specctl unfreeze "+spec+"   (a person)", "%s is frozen for automation since its rollback at %s (%s), until %s",
			spec, f.Since.Format("15:04:05Z"), f.PostMortem, f.Until.Format(time.RFC3339))
	}
	gains, involved := d.gains(), d.Route.Carried()
	if version := d.shadows(); version != "" {
		gains, involved = append(gains, version), append(involved, version)
	}
	for _, version := range involved {
		record, err := known(tx, spec, version)
		if err != nil {
			return err
		}
		if d.digest == "" && version == d.Route.Target {
			d.digest = record.Digest
		}
		if !slices.Contains(gains, version) {
			continue // it only loses
		}
		if err := permitted(d, record, actor, how); err != nil {
			return err
		}
		if policy, _ := tx.Policy(spec); !comesBack(record, d.Route.Abandoned, d.records) {
			if err := answered(tx, policy, record, actor, how, now); err != nil {
				return err
			}
			if err := trusted(policy, record, how.evidence); err != nil {
				return err
			}
		}
		pool := c.fleet.Pool(c.store.View(), spec, version)
		if pool.Ready > 0 {
			continue
		}
		if !how.Now {
			return c.refuseCold(tx, d, record)
		}
		d.Warnings = append(d.Warnings, fmt.Sprintf("%s has no ready instance: its requests fail until one starts", record.Ref()))
	}
	if rollback || slices.Equal(d.Before, d.Route.Splits) {
		return nil // the way out is not another one
	}
	if d.Route.Kind != routing.KindUndo {
		if err := c.compatibleExit(d); err != nil {
			return err
		}
	}
	d.Warnings = append(d.Warnings, c.exitWarning(d)...)
	return nil
}

// permitted refuses versions whose standing forbids new weight, unless an undo takes its own quarantine back or an override names it.
func permitted(d *draft, record versions.Record, actor Actor, how How) error {
	err := deployable(record)
	if err == nil || record.Standing != versions.Quarantined {
		return err
	}
	if d.Route.Kind == routing.KindUndo && record.PostMortem == how.undo {
		return nil
	}
	return overridden(record, actor, how)
}

// overridden says that an admin names the open post-mortem of a quarantined version and gives a reason, or refuses.
func overridden(record versions.Record, actor Actor, how How) error {
	if how.Override == "" {
		return deployable(record)
	}
	again := fmt.Sprintf("specctl deploy %s --override %s --reason \"why it must run now\"", record.Ref(), record.PostMortem)
	if how.Override != record.PostMortem {
		return refuse(again, "%s is quarantined by %s, not by %s: an override names the record that is open", record.Ref(), record.PostMortem, how.Override)
	}
	if actor.Automation {
		return refuse("ask a person to run: "+again, "only a person overrides %s", record.PostMortem)
	}
	if !actor.Admin {
		return refuse("ask an admin to run: "+again, "only an admin overrides %s, and %s is none", record.PostMortem, actor.Name)
	}
	if strings.TrimSpace(how.OverrideReason) == "" {
		return refuse(again, "an override of %s needs a reason: it is written into the record", record.PostMortem)
	}
	return nil
}

// answered refuses a version that never had traffic while a record of its spec has been open for longer than the policy allows. A version that
// names the record as the one it fixes is let in, and so is what an admin's override names the record for.
func answered(tx *store.Tx, policy versions.Policy, record versions.Record, actor Actor, how How, now time.Time) error {
	for _, pm := range overdue(tx, policy, record, now) {
		if how.Override == pm.ID && strings.TrimSpace(how.OverrideReason) != "" && !actor.Automation && actor.Admin {
			continue
		}
		return refuse(fmt.Sprintf("specctl postmortem show %s   (or, at once and on record: specctl deploy %s --override %s --reason \"…\")", pm.ID, record.Ref(), pm.ID),
			"%s has been open for %s, and the policy of %s lets no new version in after %s", pm.ID, now.Sub(pm.OpenedAt).Round(time.Second), record.Spec, policy.OpenFor)
	}
	return nil
}

// overdue are the records that keep a version that never had traffic out.
func overdue(tx *store.Tx, policy versions.Policy, record versions.Record, now time.Time) []postmortem.Record {
	if policy.OpenFor == 0 || record.FirstWeight != 0 {
		return nil
	}
	return slices.DeleteFunc(tx.OpenPostMortems(), func(pm postmortem.Record) bool {
		return !slices.Contains(pm.Specs, record.Spec) || now.Sub(pm.OpenedAt) <= policy.OpenFor || record.Manifest.Fixes == pm.ID
	})
}

// deployable refuses versions whose standing forbids new weight.
func deployable(record versions.Record) error {
	switch record.Standing {
	case versions.Retired:
		return refuse("fix it in a new version: specctl publish DIR", "%s is retired: %s found the fault in it (%s)", record.Ref(), record.PostMortem, record.StandingReason)
	case versions.Quarantined:
		return refuse(fmt.Sprintf("specctl postmortem show %s   (or, at once and on record: specctl deploy %s --override %s --reason \"…\")", record.PostMortem, record.Ref(), record.PostMortem),
			"%s is quarantined by %s, which is open", record.Ref(), record.PostMortem)
	case versions.Published, versions.Candidate, versions.Good, versions.Aborted:
		return nil
	}
	return refuse("specctl versions "+record.Spec, "%s has a standing this release does not know: %s", record.Ref(), record.Standing)
}

// refuseCold refuses a version without a ready instance and names the next good warm one where the change is a rollback.
func (c *Controller) refuseCold(tx *store.Tx, d *draft, record versions.Record) error {
	next := fmt.Sprintf("start one: specproxy --spec %s …", record.Ref())
	if d.Route.Kind == routing.KindRollback {
		abandoned := versionOf(d.Route.Abandoned[0], d.records)
		for _, r := range routing.Candidates(abandoned.Version, tx.Versions(abandoned.Spec)) {
			earlier := r.FirstWeight != 0 && routing.Earlier(r, abandoned) < 0
			if earlier && r.Version != record.Version && r.Standing == versions.Good && c.fleet.Pool(c.store.View(), r.Spec, r.Version).Ready > 0 {
				next = fmt.Sprintf("the next good version that is warm: specctl rollback %s --to %s", r.Spec, r.Version)
				break
			}
		}
	}
	if d.Route.Kind != routing.KindUndo {
		next += "   (or go ahead all the same: repeat the command with --now)"
	}
	return refuse(next, "%s has no ready instance%s", record.Ref(), coldReason(tx, record))
}

// coldReason quotes the instances that are there but not ready.
func coldReason(tx *store.Tx, record versions.Record) string {
	var why []string
	for _, in := range tx.InstancesOf(record.Spec, record.Version) {
		if in.Reason != "" {
			why = append(why, in.ID+": "+in.Reason)
		}
	}
	if len(why) == 0 {
		return ""
	}
	return " (" + strings.Join(why, "; ") + ")"
}

// exitWarning says when a change could not be rolled back right now.
func (c *Controller) exitWarning(d *draft) []string {
	newest := routing.Newest(d.Route.Splits, withWeights(d.records, d.Route))
	exit, _, err := routing.Exit(newest, d.Route.Splits, d.after())
	if err != nil {
		return nil // a first deploy has nothing to go back to, and get says "exit: none"
	}
	if c.fleet.Pool(c.store.View(), d.Route.Spec, exit).Ready > 0 {
		return nil
	}
	return []string{fmt.Sprintf("exit: none. A rollback would go to %s:%s, which has no ready instance; start one: specproxy --spec %s:%s …", d.Route.Spec, exit, d.Route.Spec, exit)}
}

func (c *Controller) capacity(route routing.Route) Capacity {
	view := c.store.View()
	target := route.Target
	if target == "" && len(route.Splits) > 0 {
		target = slices.MaxFunc(route.Splits, func(a, b routing.Split) int { return int(a.BasisPoints) - int(b.BasisPoints) }).Version
	}
	out := Capacity{}
	out.Ready = c.fleet.Pool(view, route.Spec, target).Ready
	for _, version := range c.fleet.Seen(view, route.Spec) {
		p := c.fleet.Pool(view, route.Spec, version)
		out.Rate += p.Rate
		if p.Ready > 0 {
			out.SeenPerInstance = max(out.SeenPerInstance, p.Rate/float64(p.Ready))
		}
	}
	return out
}

// plans groups the executions that run on abandoned versions by what the orders do to them.
func (c *Controller) plans(orders []drain.Drain, now time.Time) []Plan {
	var out []Plan
	for _, order := range orders {
		count := map[Plan]int{}
		contract, unseen := c.decided(order, now, func(_ fleet.Running, rule string, d drain.Decision) {
			count[Plan{Version: order.Version, Rule: rule, Disposition: d.Disposition, Then: d.Then, Within: d.Within}]++
		})
		if unseen > 0 {
			count[Plan{Version: order.Version, Rule: "younger than the last report", Disposition: contract.Default.OnRollback}] += int(unseen) //nolint:gosec // executions
		}
		keys := slices.SortedFunc(maps.Keys(count), func(a, b Plan) int {
			return cmp.Or(strings.Compare(a.Rule, b.Rule), cmp.Compare(a.Disposition, b.Disposition), cmp.Compare(a.Then, b.Then), cmp.Compare(a.Within, b.Within))
		})
		for _, k := range keys {
			n := count[k]
			k.Executions = n
			out = append(out, k)
		}
	}
	return out
}
