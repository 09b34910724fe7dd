package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// undoWithin is how long a rollback can be taken back.
const undoWithin = time.Hour

// RollbackTarget says what one spec's rollback abandons and where it goes; empty fields are decided here.
type RollbackTarget struct {
	Spec string
	// To: empty for the exit that routing.Exit finds.
	To string
	// From is what the caller saw and wants abandoned; empty for the newest version with weight.
	From string
	// Generation at which the caller saw it; 0 if it did not look.
	Generation uint64
}

// Rollback abandons versions in favour of earlier ones, for all named specs in one transaction. A repeat is answered with the existing
// record: what the caller wants abandoned is named (or taken from the generation it saw), never "whatever is routed by now".
func (c *Controller) Rollback(ctx context.Context, actor Actor, targets []RollbackTarget, how How) ([]Change, error) {
	wants := make([]want, 0, len(targets))
	for _, t := range targets {
		wants = append(wants, want{spec: t.Spec, kind: routing.KindRollback, resolve: func(tx *store.Tx, before routing.Route) (goal, error) {
			return resolveRollback(tx, before, t)
		}})
	}
	return c.change(ctx, actor, wants, how)
}

func resolveRollback(tx *store.Tx, before routing.Route, t RollbackTarget) (goal, error) {
	if !tx.Known(t.Spec) {
		return goal{}, &NotFound{Refused{Why: fmt.Sprintf("spec %s does not exist", t.Spec), Next: "specctl   (shows every spec)"}}
	}
	if before.Generation == 0 {
		newest, _ := tx.Newest(t.Spec)
		return goal{}, refuse("specctl deploy "+newest.Ref().String(), "%s has no traffic: nothing was ever deployed, so there is nothing to roll back", t.Spec)
	}
	for _, v := range []string{t.To, t.From} {
		if v == "" {
			continue
		}
		if _, err := known(tx, t.Spec, v); err != nil {
			return goal{}, err
		}
	}
	from, done := resolveFrom(tx, before, t)
	if done != nil {
		return goal{done: done}, nil
	}
	if s := before.Shadow; s != nil && s.Version == from && !before.Carries(from) {
		return goal{}, refuse("specctl shadow stop "+t.Spec, "%s:%s only gets copies of requests: they can be stopped, and there is nothing to abandon", t.Spec, from)
	}
	if !before.Carries(from) {
		return goal{}, refuse("specctl get "+t.Spec, "%s:%s has no traffic at generation %d (%s): there is nothing to abandon", t.Spec, from, before.Generation, routing.Describe(before.Splits))
	}
	if before.Weight(from) == 0 {
		return abandonTargeted(tx, before, from, t)
	}
	records := tx.Relevant(t.Spec, append(before.Carried(), from, t.To))
	to, why := t.To, "you named it"
	if to == "" {
		var err error
		if to, why, err = routing.Exit(from, before.Splits, records); errors.Is(err, routing.ErrNoExit) {
			return goal{}, noExit(t.Spec, from, tx)
		} else if err != nil {
			return goal{}, err
		}
	}
	splits := []routing.Split{{Version: to, BasisPoints: routing.Full}}
	if abandoned, _ := routing.Abandoned(before.Splits, splits, records); !slices.Contains(abandoned, from) {
		return goal{}, refuse(fmt.Sprintf("specctl deploy %s:%s", t.Spec, to), "%s:%s first held traffic later than %s (or never): going there is a deploy, not a rollback", t.Spec, to, from)
	}
	return goal{splits: splits, why: why}, nil
}

// abandonTargeted is the rollback of a version that only headers lead to: the rest of the traffic stays where it is, unless somebody names
// another version for it.
func abandonTargeted(tx *store.Tx, before routing.Route, from string, t RollbackTarget) (goal, error) {
	g := goal{splits: before.Splits, abandons: from, to: t.To, why: "you named it"}
	if g.to == "" {
		g.to = heaviest(before.Splits)
		g.why = fmt.Sprintf("it holds %s %% of the traffic, and only headers led to %s", routing.Percent(before.Weight(g.to)), from)
	}
	if before.Weight(g.to) == 0 {
		g.splits = []routing.Split{{Version: g.to, BasisPoints: routing.Full}}
	}
	target, err := known(tx, t.Spec, g.to)
	if err != nil {
		return goal{}, err
	}
	abandoned, err := known(tx, t.Spec, from)
	if err != nil {
		return goal{}, err
	}
	if target.FirstWeight == 0 || routing.Earlier(target, abandoned) >= 0 {
		return goal{}, refuse("specctl target remove "+t.Spec+" --header NAME=VALUE", "%s:%s first held traffic later than %s (or never): only headers lead to %s, and they can be taken away",
			t.Spec, g.to, from, from)
	}
	return g, nil
}

// resolveFrom says which version is to be abandoned, or which rollback has already done what is asked. Who names a generation means what was
// the newest version then, whatever is routed by now.
func resolveFrom(tx *store.Tx, before routing.Route, t RollbackTarget) (from string, done *routing.Route) {
	newest := func(r routing.Route) string {
		return routing.Newest(r.Splits, tx.Relevant(t.Spec, store.Weighted(r.Splits)))
	}
	from = t.From
	if t.Generation != 0 && t.Generation < before.Generation {
		if seen, ok := tx.Generation(t.Spec, t.Generation); ok && from == "" {
			from = newest(seen)
		}
		// The first one since then: a later one answers a later command.
		for _, r := range tx.History(t.Spec) {
			if r.Generation > t.Generation && abandons(r, from) {
				return from, &r
			}
		}
	}
	if t.From == "" && t.To != "" && before.Weight(t.To) == routing.Full {
		return from, &before
	}
	if from == "" {
		if last := moved(tx, before); last.Kind == routing.KindRollback && (t.To == "" || t.To == last.Target) {
			return "", &last // the same command again; a further rollback must name what it abandons, or another target
		}
		return newest(before), nil
	}
	if !before.Carries(from) {
		for _, r := range slices.Backward(tx.History(t.Spec)) {
			if abandons(r, from) {
				return from, &r
			}
		}
	}
	return from, nil
}

// moved is the newest generation that is about weights.
func moved(tx *store.Tx, r routing.Route) routing.Route {
	for r.Generation > 0 && !r.Kind.Moves() {
		before, ok := tx.Generation(r.Spec, r.Generation-1)
		if !ok {
			break
		}
		r = before
	}
	return r
}

func abandons(r routing.Route, version string) bool {
	return r.Kind == routing.KindRollback && slices.Contains(r.Abandoned, version)
}

// noExit lists what a person may name, or says why there is nothing.
func noExit(spec, from string, tx *store.Tx) error {
	abandoned, records := versionOf(from, tx.Versions(spec)), tx.Versions(spec)
	var names, out []string
	for _, r := range routing.Candidates(from, records) {
		if r.FirstWeight != 0 && routing.Earlier(r, abandoned) < 0 {
			names = append(names, fmt.Sprintf("%s (%s)", r.Version, r.Standing))
		}
	}
	if len(names) > 0 {
		return refuse(fmt.Sprintf("specctl rollback %s --to VERSION", spec), "%s has no earlier good version than %s; candidates: %s", spec, from, strings.Join(names, ", "))
	}
	for _, r := range records {
		if r.FirstWeight != 0 && routing.Earlier(r, abandoned) < 0 {
			out = append(out, fmt.Sprintf("%s (%s)", r.Version, standing(r)))
		}
	}
	if len(out) > 0 {
		return refuse("specctl versions "+spec, "%s has no earlier good version than %s, and none that could be named: %s", spec, from, strings.Join(out, ", "))
	}
	return refuse("specctl versions "+spec+"   (and deploy one that fixes it)", "%s has no earlier good version than %s: none held traffic before it", spec, from)
}

func versionOf(version string, records []versions.Record) versions.Record {
	if i := slices.IndexFunc(records, func(r versions.Record) bool { return r.Version == version }); i >= 0 {
		return records[i]
	}
	return versions.Record{}
}

// standing is a version's standing with the record that explains it.
func standing(r versions.Record) string {
	if r.PostMortem == "" {
		return string(r.Standing)
	}
	return string(r.Standing) + ", " + r.PostMortem
}

// Undo puts the split and the header targets back that a rollback replaced, within an hour and only while nothing was changed since. The record stays open.
func (c *Controller) Undo(ctx context.Context, actor Actor, id string, how How) ([]Change, error) {
	record, ok := c.store.View().PostMortem(id)
	if !ok {
		return nil, &NotFound{Refused{Why: fmt.Sprintf("post-mortem %s does not exist", id), Next: "specctl postmortem list"}}
	}
	if age := time.Since(record.OpenedAt); age > undoWithin {
		return nil, refuse("specctl deploy NAME:VERSION --override "+id+" --reason \"…\"", "%s is %s old: a rollback can be undone within %s", id, age.Round(time.Minute), undoWithin)
	}
	if record.Closing != nil && !record.Closing.Cause.Clears() {
		return nil, refuse("specctl postmortem show "+id, "%s was closed by %s as %s: what it abandoned is retired and does not come back", id, record.Closing.Actor, record.Closing.Cause)
	}
	wants := make([]want, 0, len(record.Rollbacks))
	for _, r := range record.Rollbacks {
		wants = append(wants, want{spec: r.Spec, kind: routing.KindUndo, resolve: func(tx *store.Tx, before routing.Route) (goal, error) {
			if before.Kind == routing.KindUndo && before.PostMortem == id {
				return goal{done: &before}, nil
			}
			if before.Generation != r.Generation {
				return goal{}, refuse("specctl get "+r.Spec, "%s was changed since %s (generation %d, now %d): undoing would take that back too", r.Spec, id, r.Generation, before.Generation)
			}
			replaced, _ := tx.Generation(r.Spec, r.Generation-1)
			return goal{splits: r.Before, targets: lasting(replaced.HeaderTargets, time.Now()), retarget: true}, nil
		}})
	}
	return c.change(ctx, actor, wants, withUndo(how, id))
}

func withUndo(how How, id string) How {
	how.undo = id
	return how
}

// Unfreeze lets automation change a spec again. Who did it is written into the record of the rollback that froze it.
func (c *Controller) Unfreeze(ctx context.Context, actor Actor, spec string) error {
	if actor.Automation {
		return refuse("ask a person to run: specctl unfreeze "+spec, "only a person unfreezes %s", spec)
	}
	lifted := false
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		lifted = false
		route, ok := tx.Route(spec)
		switch {
		case !ok && !tx.Known(spec):
			return &NotFound{Refused{Why: fmt.Sprintf("spec %s does not exist", spec), Next: "specctl   (shows every spec)"}}
		case !ok || route.Freeze == nil:
			return nil
		}
		if record, ok := tx.PostMortem(route.Freeze.PostMortem); ok {
			now := time.Now().UTC()
			tx.AppendPostMortem(record.ID, now, actor.Name, postmortem.Unfrozen{At: now, Actor: actor.Name, Spec: spec})
		}
		route.Freeze = nil
		tx.PutRoute(route)
		lifted = true
		return nil
	})
	if err == nil && lifted {
		c.log.Info("freeze ended", zap.String("spec", spec), zap.String("by", actor.Name))
	}
	return err
}
