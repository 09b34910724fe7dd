package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// ClosePostMortem answers a record. A cause outside the version (false alarm, environment) makes it a candidate again and lifts its fence; any
// other retires it.
func (c *Controller) ClosePostMortem(ctx context.Context, actor Actor, id string, cause postmortem.Cause, note string) (postmortem.Record, error) {
	if strings.TrimSpace(note) == "" {
		return postmortem.Record{}, refuse(fmt.Sprintf("specctl postmortem close %s --cause %s --note \"what happened, and what fixes it\"", id, cause), "%s cannot be closed without a note", id)
	}
	if actor.Automation {
		return postmortem.Record{}, refuse("ask a person to run: specctl postmortem close "+id, "only a person closes %s", id)
	}
	var closed postmortem.Record
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		record, ok := tx.PostMortem(id)
		if !ok {
			return &NotFound{Refused{Why: fmt.Sprintf("post-mortem %s does not exist", id), Next: "specctl postmortem list"}}
		}
		if record.Closing != nil {
			if record.Closing.Cause == cause {
				closed = record
				return nil
			}
			return refuse("specctl postmortem show "+id, "%s was closed by %s as %s", id, record.Closing.Actor, record.Closing.Cause)
		}
		now := time.Now().UTC()
		record = WithActs(tx, c.fleet, Counted(tx, record))
		record.Closing = &postmortem.Closing{At: now, Actor: actor.Name, Cause: cause, Note: note}
		tx.PutPostMortem(record)
		closed = record
		for _, r := range record.Rollbacks {
			for _, a := range r.Abandoned {
				if err := settleStanding(tx, r.Spec, a.Version, record, now); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return closed, err
}

// settleStanding moves a quarantined version on. One that an override or an undo has brought back keeps its standing.
func settleStanding(tx *store.Tx, spec, version string, record postmortem.Record, now time.Time) error {
	v, err := known(tx, spec, version)
	if err != nil {
		return err
	}
	if v.Standing != versions.Quarantined || v.PostMortem != record.ID {
		return nil
	}
	event := versions.EventBlamed
	if record.Closing.Cause.Clears() {
		event = versions.EventCleared
	}
	if v.Standing, err = v.Standing.Next(event); err != nil {
		return err
	}
	v.StandingReason = fmt.Sprintf("%s closed as %s", record.ID, record.Closing.Cause)
	tx.PutVersion(v)
	if event == versions.EventBlamed {
		return nil
	}
	if order, ok := tx.Drain(spec, version); ok && order.Active() {
		order.State, order.EndedAt = drain.Superseded, now
		tx.PutDrain(order)
	}
	return nil
}
