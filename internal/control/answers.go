package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/roster"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// maxAnswer bounds one text of a record, in bytes.
const maxAnswer = 16 << 10

// changeRecord appends to an open record what a person says. say returns nil for nothing to be said.
func (c *Controller) changeRecord(ctx context.Context, actor Actor, id, verb string, say func(postmortem.Record, time.Time) ([]postmortem.Fact, error)) (postmortem.Record, error) {
	var after postmortem.Record
	if actor.Automation {
		return after, refuse(fmt.Sprintf("ask a person to run: specctl postmortem %s %s", verb, id), "only a person answers for %s", id)
	}
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		record, err := knownRecord(tx, id)
		if err != nil {
			return err
		}
		after = record
		if !record.Open() {
			return refuse(fmt.Sprintf("specctl postmortem reopen %s --reason \"…\"", id), "%s was closed by %s as %s", id, record.Closing.Actor, record.Closing.Cause)
		}
		now := time.Now().UTC()
		said, err := say(record, now)
		if err != nil {
			return err
		}
		for _, fact := range said {
			after = tx.AppendPostMortem(id, now, actor.Name, fact)
		}
		return nil
	})
	return after, err
}

// Answer answers questions of an open record. The same answer again changes nothing.
func (c *Controller) Answer(ctx context.Context, actor Actor, id string, answers []postmortem.Answered) (postmortem.Record, error) {
	return c.changeRecord(ctx, actor, id, "answer", func(record postmortem.Record, _ time.Time) ([]postmortem.Fact, error) {
		var said []postmortem.Fact
		for _, a := range answers {
			if strings.TrimSpace(a.Text) == "" || len(a.Text) > maxAnswer {
				return nil, refuse(fmt.Sprintf("specctl postmortem answer %s --%s \"…\"", id, a.Question), "an answer is a text of 1 to %d bytes; the one to %q has %d", maxAnswer, a.Question, len(a.Text))
			}
			if before, ok := record.Answer(a.Question); !ok || before.Text != a.Text {
				said = append(said, a)
			}
		}
		return said, nil
	})
}

// AssignRecord gives a record its owner.
func (c *Controller) AssignRecord(ctx context.Context, actor Actor, id string, to postmortem.Assigned) (postmortem.Record, error) {
	return c.changeRecord(ctx, actor, id, "assign", func(_ postmortem.Record, now time.Time) ([]postmortem.Fact, error) {
		if strings.TrimSpace(to.Owner) == "" || len(to.Owner)+len(to.Note) > maxAnswer {
			return nil, refuse("specctl postmortem assign "+id+" --owner NAME --due 3d", "%s needs an owner with a name", id)
		}
		if !to.Due.IsZero() && to.Due.Before(now) {
			return nil, refuse("specctl postmortem assign "+id+" --owner NAME --due 3d", "%s cannot be due in the past (%s)", id, to.Due.Format(time.DateOnly))
		}
		return []postmortem.Fact{to}, nil
	})
}

// AddAction adds an action item to a record and returns its id.
func (c *Controller) AddAction(ctx context.Context, actor Actor, id string, action postmortem.Action) (postmortem.Record, string, error) {
	record, err := c.changeRecord(ctx, actor, id, "assign", func(record postmortem.Record, now time.Time) ([]postmortem.Fact, error) {
		if strings.TrimSpace(action.What) == "" || strings.TrimSpace(action.Owner) == "" || action.Due.IsZero() || len(action.What)+len(action.Owner) > maxAnswer {
			return nil, refuse(fmt.Sprintf("specctl postmortem assign %s --what \"…\" --owner NAME --due 14d", id), "an action item says what is to be done, who does it, and by when")
		}
		if action.Due.Before(now) {
			return nil, refuse(fmt.Sprintf("specctl postmortem assign %s --what \"…\" --owner NAME --due 14d", id), "an action item cannot be due in the past (%s)", action.Due.Format(time.DateOnly))
		}
		action.ID = record.NextAction()
		return []postmortem.Fact{postmortem.Acted{Action: action}}, nil
	})
	return record, action.ID, err
}

// EndAction says that an action item is done; it may be after the record was closed.
func (c *Controller) EndAction(ctx context.Context, actor Actor, id, item string) (postmortem.Record, error) {
	var after postmortem.Record
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		record, err := knownRecord(tx, id)
		if err != nil {
			return err
		}
		after = record
		i := slices.IndexFunc(record.Actions, func(a postmortem.Action) bool { return a.ID == item })
		if i < 0 {
			return refuse("specctl postmortem show "+id, "%s has no action item %s", id, item)
		}
		done := record.Actions[i]
		if !done.Done.IsZero() {
			return nil
		}
		done.Done, done.DoneBy = time.Now().UTC(), actor.Name
		after = tx.AppendPostMortem(id, done.Done, actor.Name, postmortem.Acted{Action: done})
		return nil
	})
	return after, err
}

// person is who an actor is, whatever role their token has: what the bearer of a named token answered stays theirs when the role changes.
func person(actor string) string {
	role, name, ok := strings.Cut(actor, " ")
	if _, err := roster.ParseRole(role); ok && err == nil && !strings.HasPrefix(name, "(") {
		return name
	}
	return actor
}

// Approve is the agreement of somebody who has not answered.
func (c *Controller) Approve(ctx context.Context, actor Actor, id, text string) (postmortem.Record, error) {
	return c.changeRecord(ctx, actor, id, "approve", func(record postmortem.Record, _ time.Time) ([]postmortem.Fact, error) {
		if len(record.Answers) == 0 {
			return nil, refuse("specctl postmortem show "+id, "%s has no answers yet: there is nothing to approve", id)
		}
		for _, a := range record.Answers {
			if person(a.By) == person(actor.Name) {
				return nil, refuse("ask somebody else to run: specctl postmortem approve "+id, "%s answered %q in %s: a second person approves", actor.Name, a.Question.Words(), id)
			}
		}
		if slices.ContainsFunc(record.Approvals, func(a postmortem.Approval) bool { return person(a.By) == person(actor.Name) }) {
			return nil, nil
		}
		return []postmortem.Fact{postmortem.Approved{Note: text}}, nil
	})
}

// Reopen takes a closing back. Versions that it retired are quarantined again; those that it cleared keep their standing: they may hold traffic.
func (c *Controller) Reopen(ctx context.Context, actor Actor, id, reason string) (postmortem.Record, error) {
	var after postmortem.Record
	if actor.Automation || strings.TrimSpace(reason) == "" {
		return after, refuse(fmt.Sprintf("specctl postmortem reopen %s --reason \"…\"", id), "%s is reopened by a person who gives a reason", id)
	}
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		record, err := knownRecord(tx, id)
		if err != nil {
			return err
		}
		after = record
		if record.Open() {
			return nil
		}
		after = tx.AppendPostMortem(id, time.Now().UTC(), actor.Name, postmortem.Reopened{Reason: reason})
		for _, r := range after.Rollbacks {
			for _, a := range r.Abandoned {
				v, err := known(tx, r.Spec, a.Version)
				if err != nil {
					return err
				}
				if v.Standing != versions.Retired || v.PostMortem != id {
					continue
				}
				if v.Standing, err = v.Standing.Next(versions.EventReopened); err != nil {
					return err
				}
				v.StandingReason = fmt.Sprintf("%s was reopened by %s: %s", id, actor.Name, reason)
				tx.PutVersion(v)
			}
		}
		return nil
	})
	return after, err
}
