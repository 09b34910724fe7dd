package postmortem

import (
	"fmt"
	"strings"
	"time"
)

// answers writes the questions, what was said to them, what is to be done, and how to go on.
func answers(p printf, r Record) {
	p("")
	p("## Questions")
	p("")
	for _, q := range Questions() {
		a, answered := r.Answer(q)
		switch {
		case answered:
			p("**%s** %s", q.Words(), lines(quoted(a.Text)))
			p("— %s, %s", a.By, a.At.UTC().Format(clock))
		case q == NoAction:
			continue
		case q == FixedIn && len(r.NamedBy) > 0:
			p("**%s** %s", q.Words(), fixes(r))
		default:
			p("**%s** *Nobody has answered.*", q.Words())
		}
		p("")
	}
	if len(r.NamedBy) > 0 {
		p("Versions that say they fix it: %s.", fixes(r))
		p("")
	}
	actions(p, r)
	for _, a := range r.Approvals {
		p("* **Approved** %s by %s. %s", a.At.UTC().Format(clock), a.By, a.Note)
	}
	if r.Approval && len(r.Approvals) == 0 && r.Open() {
		p("* The policy wants a second person to approve the answers: `specctl postmortem approve %s`", r.ID)
	}
	for _, x := range r.Reopenings {
		p("* **Reopened** %s by %s: %s. It had been closed %s by %s as %s.", x.At.UTC().Format(clock), x.Actor, x.Reason, x.Was.At.UTC().Format(clock), x.Was.Actor, x.Was.Cause)
	}
	if r.Closing != nil {
		p("")
		p("**Closed** %s by %s. Cause: **%s**.", r.Closing.At.UTC().Format(clock), r.Closing.Actor, r.Closing.Cause)
		p("")
		p("%s", lines(quoted(r.Closing.Note)))
		return
	}
	until := "; until then the abandoned version is refused"
	if r.Undone != nil || len(r.Overrides) > 0 {
		until = "" // it has been brought back
	}
	p("")
	p("It is open. Close it once every question is answered: `specctl postmortem close %s --cause CAUSE --note \"…\"`%s.", r.ID, until)
}

func actions(p printf, r Record) {
	if len(r.Actions) == 0 {
		return
	}
	p("| action | what | who | due | done |")
	p("|---|---|---|---|---|")
	for _, a := range r.Actions {
		done := "no"
		if !a.Done.IsZero() {
			done = fmt.Sprintf("%s by %s", a.Done.UTC().Format(time.DateOnly), a.DoneBy)
		}
		p("| %s | %s | %s | %s | %s |", a.ID, cell(a.What), cell(a.Owner), a.Due.UTC().Format(time.DateOnly), done)
	}
	p("")
}

func fixes(r Record) string {
	var names []string
	for _, f := range r.NamedBy {
		names = append(names, fmt.Sprintf("%s:%s %#q", f.Spec, f.Version, f.Digest))
	}
	return strings.Join(names, ", ")
}

// cell makes text fit into a table.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "\r", " ").Replace(s)
}

// quoted keeps what a person wrote from becoming a heading or a table of the record.
func quoted(s string) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	for i, line := range all {
		if line = strings.TrimSpace(line); line != "" && strings.ContainsRune("#>-*+=|<`~", rune(line[0])) {
			all[i] = "\\" + line
		}
	}
	return strings.Join(all, "\n> ")
}
