package dashboard

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/postmortem"
)

// recordRow is one post-mortem in a list.
type recordRow struct {
	ID, State, Cause string
	Open             bool
	Opened           moment
	Actor, Reason    string
	What             []string
	Owner            string
	Due              moment
	Late             bool
	// Left is how many questions nobody has answered, Undone how many action items are not done, Overdue how much of it is late.
	Left, Undone, Overdue int
	Actions               int
	Effective             string
}

func rowOf(r postmortem.Record, now time.Time) recordRow {
	row := recordRow{ID: r.ID, State: "open", Open: r.Open(), Opened: at(r.OpenedAt, now), Actor: r.Actor, Reason: r.Reason, Actions: len(r.Actions)}
	if r.Closing != nil {
		row.State, row.Cause = "closed", string(r.Closing.Cause)
	}
	for _, b := range r.Rollbacks {
		row.What = append(row.What, b.Spec+" "+strings.Join(abandoned(b), ", ")+" → "+b.Target)
		if b.Effect != nil {
			row.Effective = span(b.Effect.At.Sub(b.CommittedAt))
		}
	}
	if o := r.Owner; o != nil {
		row.Owner, row.Due = o.Name, at(o.Due, now)
		row.Late = r.Open() && !o.Due.IsZero() && o.Due.Before(now)
	}
	if r.Open() {
		row.Left = len(r.Unanswered(postmortem.SpecError))
	}
	for _, a := range r.Actions {
		if a.Done.IsZero() {
			row.Undone++
			if a.Due.Before(now) {
				row.Overdue++
			}
		}
	}
	if row.Late {
		row.Overdue++
	}
	return row
}

func abandoned(b postmortem.Rollback) []string {
	out := make([]string, 0, len(b.Abandoned))
	for _, a := range b.Abandoned {
		out = append(out, a.Version)
	}
	return out
}

// recordList is all records, open ones first.
type recordList struct {
	Open, Closed []recordRow
	Head         postmortem.Head
}

func (d *dashboard) records(_ *http.Request) (page, error) {
	now := time.Now()
	v := recordList{Head: d.Reads.ChainHead()}
	late := 0
	for _, r := range slices.Backward(sorted(d.Reads.Records(""))) {
		row := rowOf(r, now)
		late += row.Overdue
		if row.Open {
			v.Open = append(v.Open, row)
		} else {
			v.Closed = append(v.Closed, row)
		}
	}
	return page{Template: "records", Title: "Post-mortems", Nav: "records", Alarm: late, Refresh: 10, Content: v}, nil
}
