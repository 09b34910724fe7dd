package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
)

// Wish is what an operator wants to become of one execution.
type Wish struct {
	Execution   string
	Disposition drain.Disposition
	Reason      string
	// DespiteEffects: the operator knows what it did, and means it.
	DespiteEffects bool
}

// Intervene decides over one running execution in place of its rule. What is refused here changed nothing; what is committed still meets the
// execution's own lock on its sidecar, which may know of an act that was granted meanwhile, and may refuse it: WaitIntervention tells. The same
// wish again, while the sidecar has not answered, is answered with the same record.
func (c *Controller) Intervene(ctx context.Context, actor Actor, w Wish) (store.Intervention, error) {
	if strings.TrimSpace(w.Reason) == "" {
		return store.Intervention{}, refuse(w.again(`--reason "why"`), "an intervention needs a reason: it is written into the record")
	}
	spec, version, running, ok := c.fleet.Find(w.Execution)
	if !ok {
		return store.Intervention{}, &NotFound{Refused{Why: fmt.Sprintf("execution %s is not running, as far as the sidecars have told", w.Execution), Next: "specctl executions SPEC"}}
	}
	var made store.Intervention
	again := false
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		if made, again = pending(tx.PendingInterventions(spec, version, running.Instance), w); again {
			return nil
		}
		if err := c.allowed(tx, spec, version, running, w); err != nil {
			return err
		}
		x := running.Execution
		made = store.Intervention{
			ID: tx.NextInterventionID(), Spec: spec, Version: version, Instance: running.Instance, Execution: w.Execution, Disposition: w.Disposition,
			Reason: w.Reason, Actor: actor.Name, At: time.Now().UTC(), DespiteEffects: w.DespiteEffects, Effects: drain.Effects(x.GetEffects()),
			Before: drain.Disposition(x.GetDisposition()),
		}
		made.PostMortem = note(tx, made)
		tx.PutIntervention(made)
		return nil
	})
	if err != nil || again {
		return made, err
	}
	c.log.Warn("an operator decides over an execution", zap.String("intervention", made.ID), zap.String("execution", made.Execution), zap.String("spec", spec),
		zap.String("version", version), zap.String("disposition", string(made.Disposition)), zap.String("effects", string(made.Effects)),
		zap.Bool("despite_effects", made.DespiteEffects), zap.String("by", made.Actor), zap.String("reason", made.Reason))
	return made, nil
}

func (w Wish) again(more string) string {
	return fmt.Sprintf("specctl execution %s %s %s", w.Disposition, w.Execution, more)
}

func pending(all []store.Intervention, w Wish) (store.Intervention, bool) {
	i := slices.IndexFunc(all, func(i store.Intervention) bool {
		return i.Execution == w.Execution && i.Disposition == w.Disposition && i.DespiteEffects == w.DespiteEffects
	})
	if i < 0 {
		return store.Intervention{}, false
	}
	return all[i], true
}

// allowed refuses what the sidecar would refuse, as far as is known here, with the acts that stand in the way.
func (c *Controller) allowed(tx *store.Tx, spec, version string, running fleet.Running, w Wish) error {
	record, err := known(tx, spec, version)
	if err != nil {
		return err
	}
	var standing *drain.Order
	if order, ok := tx.Drain(spec, version); ok && (order.Fences() || order.Settles()) {
		o := underOrder(order)
		o.Target = fleet.FinalTarget(tx, order)
		standing = &o
	}
	override := drain.Override{Disposition: w.Disposition, DespiteEffects: w.DespiteEffects}
	err = drain.CheckOverride(record.Manifest.InFlight, fleet.ViewOf(running.Execution), override, standing)
	if err == nil {
		return nil
	}
	next := "specctl executions " + spec + " --on " + version
	override.DespiteEffects = true
	if !w.DespiteEffects && drain.CheckOverride(record.Manifest.InFlight, fleet.ViewOf(running.Execution), override, standing) == nil {
		next = w.again(`--despite-effects --reason "…"   (if that is what you mean)`)
	}
	return refuse(next, "%s %s of %s:%s: %v%s", w.Disposition, w.Execution, spec, version, err, acts(running))
}

// acts names what an execution did.
func acts(r fleet.Running) string {
	var words []string
	for _, a := range r.Execution.GetActs() {
		if (drain.Act{Class: drain.Effects(a.GetClass())}).Touches() {
			words = append(words, strings.TrimSpace(fmt.Sprintf("%s %s %s", a.GetClass(), a.GetTool(), a.GetKey())))
		}
	}
	if len(words) == 0 {
		return ""
	}
	return " (" + strings.Join(words, "; ") + ")"
}

// note writes the intervention into the post-mortem that is open over its version, and returns that one's id, empty for none.
func note(tx *store.Tx, i store.Intervention) string {
	record, ok := tx.Version(i.Spec, i.Version)
	if !ok || record.PostMortem == "" {
		return ""
	}
	pm, ok := tx.PostMortem(record.PostMortem)
	if !ok || !pm.Open() {
		return ""
	}
	tx.AppendPostMortem(pm.ID, i.At, i.Actor, postmortem.Intervention{
		ID: i.ID, At: i.At, Actor: i.Actor, Version: i.Version, Execution: i.Execution, Disposition: i.Disposition, Effects: i.Effects,
		DespiteEffects: i.DespiteEffects, Reason: i.Reason,
	})
	return pm.ID
}

// WaitIntervention returns when the sidecar has answered, or when ctx ends, which is no error.
func (c *Controller) WaitIntervention(ctx context.Context, i store.Intervention) store.Intervention {
	for {
		view := c.store.View()
		if now, ok := view.Intervention(i.Spec, i.Version, i.ID); ok {
			i = now
		}
		if !i.Pending() {
			return i
		}
		if _, err := c.store.Wait(ctx, view.Revision()); err != nil {
			return i
		}
	}
}
