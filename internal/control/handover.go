package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// HandOver is who takes what is open of a spec over.
type HandOver struct {
	Spec, To, Note string
	// Due is zero for three days from now.
	Due    time.Time
	DryRun bool
}

// handOverDue is how long whoever takes over has.
const handOverDue = 72 * time.Hour

// HandedOver is what somebody who takes over must know, a line each.
type HandedOver struct {
	// Locked is what is refused; Left what is to be done, with the command; Wake when to wake somebody.
	Locked, Left, Wake []string
	PostMortems        []string
}

// HandOver gives every open record of a spec to somebody, and says what that is.
func (c *Controller) HandOver(ctx context.Context, actor Actor, h HandOver) (HandedOver, error) {
	if strings.TrimSpace(h.To) == "" && !h.DryRun {
		return HandedOver{}, refuse("specctl handover "+h.Spec+" --to day-team --note \"…\"", "a handover of %s names who takes over", h.Spec)
	}
	if !h.Due.IsZero() && h.Due.Before(time.Now()) {
		return HandedOver{}, refuse("specctl handover "+h.Spec+" --to day-team --due 3d", "what is open of %s cannot be due in the past (%s)", h.Spec, h.Due.Format(time.DateOnly))
	}
	if h.Due.IsZero() {
		h.Due = time.Now().UTC().Add(handOverDue)
	}
	var records []postmortem.Record
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		records = nil
		if !tx.Known(h.Spec) {
			return unknownSpec(h.Spec)
		}
		for _, record := range tx.OpenPostMortems() {
			if !slices.Contains(record.Specs, h.Spec) {
				continue
			}
			records = append(records, record)
			if !h.DryRun {
				tx.AppendPostMortem(record.ID, time.Now().UTC(), actor.Name, postmortem.Assigned{Owner: h.To, Due: h.Due, Note: h.Note})
			}
		}
		return nil
	})
	if err != nil {
		return HandedOver{}, err
	}
	return c.handedOver(h.Spec, records), nil
}

func (c *Controller) handedOver(spec string, records []postmortem.Record) HandedOver {
	out := HandedOver{}
	view := c.store.View()
	for _, v := range view.Versions(spec) {
		switch v.Standing {
		case versions.Quarantined:
			out.Locked = append(out.Locked, fmt.Sprintf("%s gets no new work until %s is closed", v.Ref(), v.PostMortem))
		case versions.Retired:
			out.Locked = append(out.Locked, fmt.Sprintf("%s is retired by %s", v.Ref(), v.PostMortem))
		case versions.Published, versions.Candidate, versions.Good, versions.Aborted:
		}
	}
	route, _ := view.Route(spec)
	if f := route.Freeze; f != nil && time.Now().Before(f.Until) {
		out.Locked = append(out.Locked, fmt.Sprintf("%s is frozen for automation until %s: specctl unfreeze %s", spec, f.Until.Format(time.RFC3339), spec))
	}
	for _, record := range records {
		out.PostMortems = append(out.PostMortems, record.ID)
		asked := record.Unanswered(postmortem.SpecError)
		if len(asked) == 0 {
			out.Left = append(out.Left, fmt.Sprintf("%s is answered and waits to be closed: specctl postmortem close %s --cause CAUSE --note \"…\"", record.ID, record.ID))
		}
		for _, q := range asked {
			out.Left = append(out.Left, fmt.Sprintf("%s asks: %s specctl postmortem answer %s --%s \"…\"", record.ID, q.Words(), record.ID, q))
		}
		for _, a := range record.Actions {
			if a.Done.IsZero() {
				out.Left = append(out.Left, fmt.Sprintf("%s %s: %s (%s, due %s)", record.ID, a.ID, a.What, a.Owner, a.Due.Format(time.DateOnly)))
			}
		}
		r, _ := record.Rollback(spec)
		for _, a := range r.Abandoned {
			out.Left = append(out.Left, c.leftOf(view, spec, a.Version)...)
		}
		if r.Effect == nil {
			out.Wake = append(out.Wake, fmt.Sprintf("now: the rollback of %s is not proven to have taken effect: specctl get %s", record.ID, spec))
		}
	}
	for _, d := range view.UnfinishedDrains(spec) {
		if p := Measure(view, c.fleet, d); p.Held > 0 {
			out.Wake = append(out.Wake, fmt.Sprintf("now, executions of %s that are held and wait for a person: %d; specctl executions %s --on %s", d.Version, p.Held, spec, d.Version))
		} else if p.Running > 0 {
			out.Wake = append(out.Wake, fmt.Sprintf("if the drain of %s is not over in time (%d still run): specctl drain status %s", d.Version, p.Running, spec))
		}
	}
	if len(route.Splits) > 0 {
		out.Wake = append(out.Wake, fmt.Sprintf("if %s fails again: specctl rollback %s", spec, spec))
	}
	return out
}

// leftOf is what there is to redo and to undo of one abandoned version.
func (c *Controller) leftOf(view *store.View, spec, version string) []string {
	var out []string
	if n := len(Failed(view.Failures(spec, version))); n > 0 {
		out = append(out, fmt.Sprintf("executions of %s to do again, which failed or were cancelled: %d; specctl executions %s --on %s --failed -o csv > redo.csv", version, n, spec, version))
	}
	acts, _ := Acts(view, c.fleet, spec, version)
	touched := 0
	for _, a := range acts {
		if a.Class == drain.EffectsIrreversible || a.Class == drain.EffectsCompensable {
			touched++
		}
	}
	if touched > 0 {
		out = append(out, fmt.Sprintf("acts of %s to look at, and to undo where they should not have been: %d; specctl effects %s --on %s -o csv > undo.csv", version, touched, spec, version))
	}
	return out
}

// Alert writes an alert into the open records of its spec, and keeps it for one that may be opened soon.
func (c *Controller) Alert(ctx context.Context, alert postmortem.Alert) ([]string, error) {
	for what, text := range map[string]string{"a source": alert.Source, "a name": alert.Name, "a spec": alert.Spec} {
		if strings.TrimSpace(text) == "" || len(text)+len(alert.Summary) > maxAnswer {
			return nil, refuse("specctl postmortem alert SPEC --source NAME --name \"…\"", "an alert has %s", what)
		}
	}
	alert.At = time.Now().UTC()
	var ids []string
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		ids = nil
		if !tx.Known(alert.Spec) {
			return unknownSpec(alert.Spec)
		}
		tx.PutAlert(alert)
		for _, record := range tx.OpenPostMortems() {
			if slices.Contains(record.Specs, alert.Spec) && alert.At.Sub(record.OpenedAt) <= gatherWindow {
				tx.AppendPostMortem(record.ID, alert.At, alert.Source, postmortem.Alerted{Alert: alert})
				ids = append(ids, record.ID)
			}
		}
		return nil
	})
	return ids, err
}
