package postmortem

import (
	"fmt"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/routing"
)

const clock = "2006-01-02 15:04:05.000Z"

// Text writes the record as Markdown without charts. found is what follows from its evidence.
func Text(r Record, found []Found) string { return markdown(r, "", found) }

// markdown writes the record for reading: what happened, to whom, how it was proven, why it was not caught, what must be answered. pictures is
// the prefix of the names of the charts' files beside it; empty: without charts.
func markdown(r Record, pictures string, found []Found) string {
	var b strings.Builder
	p := func(format string, args ...any) {
		for i, a := range args {
			if text, ok := a.(string); ok {
				args[i] = oneLine(text)
			}
		}
		fmt.Fprintf(&b, format+"\n", args...)
	}
	p("# %s: rollback of %s", r.ID, strings.Join(r.Specs, ", "))
	p("")
	p("* **State:** %s", state(r))
	p("* **Opened:** %s by %s", r.OpenedAt.UTC().Format(clock), r.Actor)
	p("* **Reason given:** %s", orNone(r.Reason, "none was given"))
	if r.Owner != nil {
		due := ""
		if !r.Owner.Due.IsZero() {
			due = ", due " + r.Owner.Due.UTC().Format(time.DateOnly)
		}
		p("* **Owner:** %s%s (named by %s)%s", r.Owner.Name, due, r.Owner.By, said(r.Owner.Note))
	}
	if r.Undone != nil {
		p("* **Undone:** %s by %s: %s", r.Undone.At.UTC().Format(clock), r.Undone.Actor, orNone(r.Undone.Reason, "no reason was given"))
	}
	for _, u := range r.Unfrozen {
		p("* **Unfrozen:** %s, %s let automation change %s again", u.At.UTC().Format(clock), u.Actor, u.Spec)
	}
	for _, o := range r.Overrides {
		p("* **OVERRIDDEN:** %s, %s deployed %s while this record was open: %s", o.At.UTC().Format(clock), o.Actor, o.Version, o.Reason)
	}
	for _, i := range r.Interventions {
		p("* **INTERVENTION** %s: %s, %s decided %s over %s of %s, effects %s%s: %s%s", i.ID, i.At.UTC().Format(clock), i.Actor, i.Disposition, i.Execution, i.Version,
			i.Effects, despite(i), i.Reason, refused(i))
	}
	alerts(p, r)
	for _, rb := range r.Rollbacks {
		section(p, rb, pictures, found)
	}
	answers(p, r)
	return b.String()
}

// lines is text that may have several of them. All other text is put on one, so that nobody's words become a heading, a list or a table of the record.
type lines string

func oneLine(text string) string {
	if strings.ContainsAny(text, "\n\r") {
		return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), " ")
	}
	return text
}

func state(r Record) string {
	if r.Closing == nil {
		return "open"
	}
	return "closed, " + string(r.Closing.Cause)
}

func orNone(s, none string) string {
	if s == "" {
		return none
	}
	return s
}

// said is a note after what it is about.
func said(note string) string {
	if note == "" {
		return ""
	}
	return ": " + note
}

func section(p printf, rb Rollback, pictures string, found []Found) {
	names := make([]string, 0, len(rb.Abandoned))
	for _, a := range rb.Abandoned {
		names = append(names, a.Version)
	}
	p("")
	p("## %s: %s → %s", rb.Spec, strings.Join(names, ", "), rb.Target)
	p("")
	p("* **Command:** %s, committed %s as generation %d", rb.Command, rb.CommittedAt.UTC().Format(clock), rb.Generation)
	p("* **Weights:** %s → %s", routing.Describe(rb.Before), routing.Describe(rb.After))
	for _, t := range rb.HeaderTargets {
		p("* **Header that led there:** `%s: %s`, by %s", t.Header, t.Value, t.By)
	}
	p("* **Why this target:** %s", orNone(rb.TargetWhy, "not recorded"))
	for _, a := range rb.Abandoned {
		p("* **Abandoned:** %s `%s`", a.Version, a.Digest)
	}
	p("* **Target:** %s `%s`", rb.Target, rb.Digest)
	effect(p, rb)
	p("")
	canary(p, rb)
	p("### Outcomes at the commit")
	p("")
	p("Counted by the sidecars since they started; a success is one that the agent stated.")
	p("")
	p("| version | succeeded | failed | not stated | success | in flight |")
	p("|---|---:|---:|---:|---:|---:|")
	for _, o := range rb.Outcomes {
		p("| %s | %d | %d | %d | %s | %d |", o.Version, o.Succeeded, o.Failed, o.Unknown, share(o.Succeeded, o.Failed), o.InFlight)
	}
	p("")
	p("### Executions in flight")
	p("")
	plans(p, rb)
	settled(p, rb)
	touched(p, rb)
	evidenceOf(p, rb, pictures, found)
	p("### Weights until then")
	p("")
	p("| generation | at | by | change | weights |")
	p("|---:|---|---|---|---|")
	for _, s := range rb.Timeline {
		p("| %d | %s | %s | %s | %s |", s.Generation, s.At.UTC().Format(clock), s.By, s.Kind, routing.Describe(s.Splits))
	}
	p("")
	p("Failed executions with their keys: `specctl executions %s --on %s --failed -o csv`.", rb.Spec, names[0])
}

// alerts writes what others had said about the specs.
func alerts(p printf, r Record) {
	for _, a := range r.Alerts {
		version := ""
		if a.Version != "" {
			version = ":" + a.Version
		}
		p("* **Alert** %s from %s about %s%s: %s%s", a.At.UTC().Format(clock), a.Source, a.Spec, version, a.Name, said(a.Summary))
	}
}

func effect(p printf, rb Rollback) {
	e := rb.Effect
	if e == nil {
		p("* **Effect:** not proven yet")
		return
	}
	p("* **Effective:** %s after the commit, by %s; proxies %d of %d, fences %d of %d", e.At.Sub(rb.CommittedAt).Round(100*time.Microsecond), e.By,
		e.ProxiesAcked, e.Proxies, e.FencesAcked, e.Fences)
	if !e.LastAdmissionAt.IsZero() {
		p("* **Last new execution admitted by the abandoned pool:** %s (`%s`)", e.LastAdmissionAt.UTC().Format(clock), e.LastAdmissionID)
	}
	for _, l := range e.Laggards {
		p("* **Unproven:** %s", l)
	}
}

func share(succeeded, failed uint64) string {
	if succeeded+failed == 0 {
		return "unknown"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(succeeded)/float64(succeeded+failed))
}

func plans(p printf, rb Rollback) {
	if len(rb.Plans) == 0 {
		p("None were known to run on the abandoned pool.")
		p("")
		return
	}
	p("What the abandoned version's own contract meant for those known to run at the commit:")
	p("")
	p("| version | rule | disposition | executions |")
	p("|---|---|---|---:|")
	for _, x := range rb.Plans {
		p("| %s | %s | %s | %d |", x.Version, x.Rule, x.words(), x.Executions)
	}
	p("")
}

func settled(p printf, rb Rollback) {
	for _, a := range rb.Abandoned {
		if a.Settled == nil {
			p("%s still drains: `specctl get %s`.", a.Version, rb.Spec)
			p("")
			continue
		}
		c := a.Settled.Counts
		p("%s was %s at %s: %d completed under it, %d handed over to %s (%d arrived there), %d cancelled with the retry signal, %d held. %d executions failed or were cancelled under it in all.",
			a.Version, a.Settled.State, a.Settled.At.UTC().Format(clock), c.Completed, c.HandedOver, rb.Target, a.Settled.Arrived, c.Cancelled, c.Held, a.Settled.Failed)
		p("")
	}
}

func despite(i Intervention) string {
	if i.DespiteEffects {
		return ", IN SPITE OF WHAT IT HAD DONE"
	}
	return ""
}

func refused(i Intervention) string {
	if i.Refusal == "" {
		return ""
	}
	return " (refused by its sidecar: " + i.Refusal + ")"
}

// touched says what was done to the world, so that somebody undoes what can be undone.
func touched(p printf, rb Rollback) {
	p("### What was done to the world")
	p("")
	for _, a := range rb.Abandoned {
		if len(a.Touched) == 0 && a.TouchedOmitted == 0 {
			p("Nothing that is known was done under %s beyond reading. An agent that reports no effects leaves no trace here.", a.Version)
			p("")
			continue
		}
		p("| version | effects | acts | executions |")
		p("|---|---|---:|---:|")
		for _, t := range a.Touched {
			p("| %s | %s | %d | %d |", a.Version, t.Class, t.Acts, t.Executions)
		}
		p("")
		if a.TouchedOmitted > 0 {
			p("%d more are counted but no longer kept.", a.TouchedOmitted)
			p("")
		}
		p("Each with its keys and what would undo it: `specctl effects %s --on %s -o csv`.", rb.Spec, a.Version)
		p("")
	}
}
