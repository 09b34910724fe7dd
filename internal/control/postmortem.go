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

// ClosePostMortem closes a record whose questions are answered; the note is the explanation where nobody has given one. A cause outside the
// version (false alarm, environment) makes it a candidate again and lifts its fence; any other retires it.
func (c *Controller) ClosePostMortem(ctx context.Context, actor Actor, id string, cause postmortem.Cause, text string) (postmortem.Record, error) {
	if strings.TrimSpace(text) == "" {
		return postmortem.Record{}, refuse(fmt.Sprintf("specctl postmortem close %s --cause %s --note \"what happened, and what fixes it\"", id, cause), "%s cannot be closed without a note", id)
	}
	if actor.Automation {
		return postmortem.Record{}, refuse("ask a person to run: specctl postmortem close "+id, "only a person closes %s", id)
	}
	known := map[string]learned{}
	if record, ok := c.store.View().PostMortem(id); ok {
		for _, spec := range record.Specs {
			known[spec] = c.learn(ctx, id, spec)
		}
	}
	var closed postmortem.Record
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		record, err := knownRecord(tx, id)
		if err != nil {
			return err
		}
		if record.Closing != nil {
			if record.Closing.Cause == cause {
				closed = record
				return nil
			}
			return refuse("specctl postmortem show "+id, "%s was closed by %s as %s", id, record.Closing.Actor, record.Closing.Cause)
		}
		now := time.Now().UTC()
		if _, explained := record.Answer(postmortem.Explanation); !explained {
			record = tx.AppendPostMortem(id, now, actor.Name, postmortem.Answered{Question: postmortem.Explanation, Text: text})
		}
		if err := closable(record, cause); err != nil {
			return err
		}
		for _, r := range record.Rollbacks {
			if r.Evidence == nil || !r.Evidence.Final {
				c.appendEvidence(tx, record, r, known[r.Spec], true)
			}
		}
		record, _ = tx.PostMortem(id)
		closed = tx.AppendPostMortem(id, now, actor.Name, postmortem.Closed{Cause: cause, Note: text, Final: final(WithActs(tx, c.fleet, Counted(tx, record)))})
		for _, r := range closed.Rollbacks {
			for _, a := range r.Abandoned {
				if err := c.settleStanding(tx, r.Spec, a.Version, closed, now); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return closed, err
}

func knownRecord(tx *store.Tx, id string) (postmortem.Record, error) {
	record, ok := tx.PostMortem(id)
	if !ok {
		return record, &NotFound{Refused{Why: fmt.Sprintf("post-mortem %s does not exist", id), Next: "specctl postmortem list"}}
	}
	return record, nil
}

// closable refuses a record that still has questions, or wants a second person.
func closable(record postmortem.Record, cause postmortem.Cause) error {
	if open := record.Unanswered(cause); len(open) > 0 {
		var asked, flags []string
		for _, q := range open {
			asked = append(asked, q.Words())
			flags = append(flags, fmt.Sprintf("--%s \"…\"", q))
		}
		action := ""
		if open[len(open)-1] == postmortem.NoAction {
			flags = flags[:len(flags)-1]
			action = fmt.Sprintf("   (and what is to be done: specctl postmortem assign %s --what \"…\" --owner NAME --due 14d, or --no-action \"why nothing is\")", record.ID)
			asked[len(asked)-1] = "What is to be done, by whom and when?"
		}
		return refuse(strings.TrimSpace("specctl postmortem answer "+record.ID+" "+strings.Join(flags, " "))+action, "%s has questions that nobody has answered: %s", record.ID, strings.Join(asked, " "))
	}
	if record.Approval && len(record.Approvals) == 0 {
		return refuse("ask somebody who has not answered to run: specctl postmortem approve "+record.ID, "the policy wants a second person to approve the answers of %s", record.ID)
	}
	return nil
}

// final is what a record that is closed now says of its abandoned versions for ever.
func final(record postmortem.Record) []postmortem.Final {
	var out []postmortem.Final
	for _, r := range record.Rollbacks {
		for _, a := range r.Abandoned {
			f := postmortem.Final{Spec: r.Spec, Version: a.Version, Touched: a.Touched, TouchedOmitted: a.TouchedOmitted}
			if a.Settled != nil {
				f.Failed = a.Settled.Failed
			}
			out = append(out, f)
		}
	}
	return out
}

// settleStanding moves a quarantined version on. One that an override or an undo has brought back keeps its standing.
func (c *Controller) settleStanding(tx *store.Tx, spec, version string, record postmortem.Record, now time.Time) error {
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
		tx.PutDrain(c.ended(order, drain.Superseded, now))
	}
	return nil
}
