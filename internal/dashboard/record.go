package dashboard

import (
	"html/template"
	"net/http"
	"time"

	"github.com/specproxy/specproxy/internal/postmortem"
)

// recordView is one post-mortem: what is to be done about it, its charts, and the record as specctl prints it.
type recordView struct {
	recordRow
	Effects   []effectLine
	Questions []questionView
	Actions   []actionView
	Fixes     []string
	Alerts    []string
	Approval  string
	Closed    *closedView
	Charts    []template.HTML
	Text      template.HTML
	Head      postmortem.Head
	// Missing is what the evidence lacks, as its sources say.
	Missing   []missingView
	Gathering bool
	Commands  []string
}

type effectLine struct{ Spec, Text string }

type questionView struct {
	Words, Text, By string
	At              moment
	Answered        bool
	Command         string
}

type actionView struct {
	ID, What, Owner string
	Due, Done       moment
	By              string
	Late            bool
}

type missingView struct{ Item, From, Missing string }

type closedView struct {
	At          moment
	Actor, Note string
}

func (d *dashboard) record(r *http.Request) (page, error) {
	now := time.Now()
	record, err := d.Reads.Record(r.PathValue("id"))
	if err != nil {
		return page{}, err
	}
	v := recordView{recordRow: rowOf(record, now), Head: d.Reads.ChainHead(), Questions: questionsOf(record, now), Actions: actionsOf(record, now)}
	for _, b := range record.Rollbacks {
		line := effectLine{Spec: b.Spec, Text: "not proven effective yet"}
		if e := b.Effect; e != nil {
			line.Text = "effective " + span(e.At.Sub(b.CommittedAt)) + " after the commit, by " + e.By
		}
		v.Effects = append(v.Effects, line)
		v.Gathering = v.Gathering || b.Evidence == nil || !b.Evidence.Final
		if b.Evidence == nil {
			continue
		}
		for _, s := range b.Evidence.Sources {
			if s.Missing != "" {
				v.Missing = append(v.Missing, missingView{s.Item, s.From, s.Missing})
			}
		}
	}
	for _, f := range record.NamedBy {
		v.Fixes = append(v.Fixes, f.Spec+":"+f.Version)
	}
	if c := record.Closing; c != nil {
		v.Closed = &closedView{at(c.At, now), c.Actor, c.Note}
	}
	v.Commands = commandsFor(record)
	found := d.Reads.Figures(record)
	for _, f := range found {
		for _, c := range f.Charts {
			v.Charts = append(v.Charts, lineChart(f.Spec+":"+f.Analysis.Version, c))
		}
	}
	if v.Text, err = fromMarkdown(postmortem.Text(record, found)); err != nil {
		return page{}, err
	}
	p := page{Template: "record", Title: record.ID, Nav: "records", Alarm: v.Overdue, Refresh: 10, Content: v}
	if !record.Open() {
		p.Refresh = 60
	}
	return p, nil
}

func questionsOf(r postmortem.Record, now time.Time) []questionView {
	open := map[postmortem.Question]bool{}
	for _, q := range r.Unanswered(postmortem.SpecError) {
		open[q] = true
	}
	var out []questionView
	for _, q := range postmortem.Questions() {
		v := questionView{Words: q.Words()}
		a, answered := r.Answer(q)
		switch {
		case answered:
			v.Answered, v.Text, v.By, v.At = true, a.Text, a.By, at(a.At, now)
		case open[q] && r.Open():
			v.Command = "specctl postmortem answer " + r.ID + " --" + string(q) + ` "…"`
		default:
			continue
		}
		out = append(out, v)
	}
	return out
}

func actionsOf(r postmortem.Record, now time.Time) []actionView {
	var out []actionView
	for _, a := range r.Actions {
		out = append(out, actionView{
			ID: a.ID, What: a.What, Owner: a.Owner, Due: at(a.Due, now), Done: at(a.Done, now), By: a.DoneBy, Late: a.Done.IsZero() && a.Due.Before(now),
		})
	}
	return out
}

// commandsFor are what a person types next about a record.
func commandsFor(r postmortem.Record) []string {
	export := "specctl postmortem export " + r.ID + " --out postmortems"
	if !r.Open() {
		return []string{export, "specctl postmortem verify", "specctl postmortem reopen " + r.ID + ` --reason "…"`}
	}
	out := []string{
		"specctl postmortem assign " + r.ID + " --owner NAME --due 3d",
		"specctl postmortem assign " + r.ID + ` --what "…" --owner NAME --due 14d`,
	}
	if r.Approval && len(r.Approvals) == 0 {
		out = append(out, "specctl postmortem approve "+r.ID)
	}
	return append(out, "specctl postmortem close "+r.ID+` --cause CAUSE --note "…"`, export)
}
