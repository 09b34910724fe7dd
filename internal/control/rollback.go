package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
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
	records := tx.Versions(t.Spec)
	if len(records) == 0 {
		return goal{}, &NotFound{Refused{Why: fmt.Sprintf("spec %s does not exist", t.Spec), Next: "specctl   (shows every spec)"}}
	}
	if before.Generation == 0 {
		return goal{}, refuse("specctl deploy "+records[len(records)-1].Ref().String(), "%s has no traffic: nothing was ever deployed, so there is nothing to roll back", t.Spec)
	}
	for _, v := range []string{t.To, t.From} {
		if v == "" {
			continue
		}
		if _, err := known(tx, t.Spec, v); err != nil {
			return goal{}, err
		}
	}
	if done, ok := doneBefore(tx, before, t); ok {
		return goal{done: &done}, nil
	}
	from := t.From
	if from == "" {
		from = routing.Newest(before.Splits, records)
	}
	if before.Weight(from) == 0 {
		return goal{}, refuse("specctl get "+t.Spec, "%s:%s has no traffic at generation %d (%s): there is nothing to abandon", t.Spec, from, before.Generation, routing.Describe(before.Splits))
	}
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

// doneBefore finds the rollback that has already done what is asked.
func doneBefore(tx *store.Tx, before routing.Route, t RollbackTarget) (routing.Route, bool) {
	if t.From == "" && t.To != "" && before.Weight(t.To) == routing.Full {
		return before, true
	}
	for _, r := range slices.Backward(tx.History(t.Spec)) {
		if r.Kind != routing.KindRollback {
			if r.Generation == before.Generation && t.From == "" && t.Generation == 0 {
				return routing.Route{}, false // something was changed since, so this is a new rollback
			}
			continue
		}
		switch {
		case t.Generation != 0 && r.Generation > t.Generation && (t.From == "" || slices.Contains(r.Abandoned, t.From)):
			return r, true // what the caller saw at that generation has been abandoned since
		case t.From != "" && before.Weight(t.From) == 0 && slices.Contains(r.Abandoned, t.From):
			return r, true
		case t.From == "" && r.Generation == before.Generation && (t.To == "" || t.To == r.Target):
			return r, true // the same command again; a further rollback must name what it abandons
		}
	}
	return routing.Route{}, false
}

// noExit lists what a person may name.
func noExit(spec, from string, tx *store.Tx) error {
	var names []string
	for _, r := range routing.Candidates(from, tx.Versions(spec)) {
		if r.FirstWeight != 0 {
			names = append(names, fmt.Sprintf("%s (%s)", r.Version, r.Standing))
		}
	}
	if len(names) == 0 {
		return refuse("specctl versions "+spec, "%s has no earlier good version than %s, and no other version of it ever held traffic", spec, from)
	}
	return refuse(fmt.Sprintf("specctl rollback %s --to VERSION", spec), "%s has no earlier good version than %s; candidates: %s", spec, from, strings.Join(names, ", "))
}

// Undo puts the split back that a rollback replaced, within an hour and only while nothing was changed since. The record stays open.
func (c *Controller) Undo(ctx context.Context, actor Actor, id string, how How) ([]Change, error) {
	record, ok := c.store.View().PostMortem(id)
	if !ok {
		return nil, &NotFound{Refused{Why: fmt.Sprintf("post-mortem %s does not exist", id), Next: "specctl postmortem list"}}
	}
	if age := time.Since(record.OpenedAt); age > undoWithin {
		return nil, refuse("specctl deploy NAME:VERSION --override "+id+" --reason \"…\"", "%s is %s old: a rollback can be undone within %s", id, age.Round(time.Minute), undoWithin)
	}
	wants := make([]want, 0, len(record.Rollbacks))
	for _, r := range record.Rollbacks {
		wants = append(wants, want{spec: r.Spec, kind: routing.KindUndo, resolve: func(_ *store.Tx, before routing.Route) (goal, error) {
			if before.Kind == routing.KindUndo && before.PostMortem == id {
				return goal{done: &before}, nil
			}
			if before.Generation != r.Generation {
				return goal{}, refuse("specctl get "+r.Spec, "%s was changed since %s (generation %d, now %d): undoing would take that back too", r.Spec, id, r.Generation, before.Generation)
			}
			return goal{splits: r.Before}, nil
		}})
	}
	return c.change(ctx, actor, wants, withUndo(how, id))
}

func withUndo(how How, id string) How {
	how.undo = id
	return how
}

// Unfreeze lets automation change a spec again.
func (c *Controller) Unfreeze(ctx context.Context, actor Actor, spec string) error {
	if actor.Automation {
		return refuse("ask a person to run: specctl unfreeze "+spec, "only a person unfreezes %s", spec)
	}
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		route, ok := tx.Route(spec)
		if !ok {
			return &NotFound{Refused{Why: fmt.Sprintf("spec %s has no route", spec), Next: "specctl"}}
		}
		if route.Freeze == nil {
			return nil
		}
		route.Freeze = nil
		tx.PutRoute(route)
		return nil
	})
	return err
}
