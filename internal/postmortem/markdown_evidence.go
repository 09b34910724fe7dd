package postmortem

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/specproxy/specproxy/internal/routing"
)

// shownSegments bounds the list of methods and paths.
const shownSegments = 8

type printf = func(string, ...any)

// evidenceOf writes what was gathered of one rollback, and what follows from it. pictures is the prefix of the charts' files; empty: none.
func evidenceOf(p printf, rb Rollback, pictures string, found []Found) {
	if rb.Evidence == nil {
		p("### Evidence")
		p("")
		p("None has been gathered yet: that begins a few seconds after the rollback.")
		p("")
		return
	}
	for _, f := range found {
		if f.Spec != rb.Spec {
			continue
		}
		a := f.Analysis
		if pictures != "" {
			for _, c := range f.Charts {
				p("![%s, in %s](%s)", c.Title, orNone(c.Unit, "numbers"), chartFile(pictures, rb, a, c))
			}
			p("")
		}
		harmed(p, rb, a)
		whyCanary(p, rb, a)
		segments(p, a)
		evidenceCurve(p, a)
	}
	whyConformance(p, rb)
	changes(p, rb)
	acks(p, rb)
	sources(p, rb)
}

// chartFile is the name of a chart's file.
func chartFile(prefix string, rb Rollback, a Analysis, c Chart) string {
	return fmt.Sprintf("%s.%s-%s.%s.svg", prefix, rb.Spec, a.Version, c.Name)
}

func percent(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) }

func points(bp uint32) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", float64(bp)*100/routing.Full), "0"), ".") + " %"
}

func seconds(s float64) string {
	unit := 100 * time.Millisecond
	if s < 1 {
		unit = time.Millisecond
	}
	return time.Duration(s * float64(time.Second)).Round(unit).String()
}

func harmed(p printf, rb Rollback, a Analysis) {
	p("### To whom")
	p("")
	p("%d of the %d executions under %s that stated an outcome failed: %s. Under %s it was %d of %d: %s. So about %.0f executions failed that %s would have carried out.",
		a.Bad.Failed, a.Bad.Ended, a.Version, percent(a.Bad.Rate), a.Target, a.Base.Failed, a.Base.Ended, percent(a.Base.Rate), a.Harmed, a.Target)
	p("")
	who := fmt.Sprintf("Clients gave the failing ones %d different keys", a.Keys)
	if a.Keyless > 0 {
		who += fmt.Sprintf("; %d had none", a.Keyless)
	}
	p("%s. The keys are kept beside the record, so that they can be erased.", who)
	p("")
	if len(a.Segments) > 0 {
		p("| failing executions | method and path | of them assigned by a canary step |")
		p("|---:|---|---:|")
		for i, s := range a.Segments {
			if i == shownSegments {
				p("| | and %d more paths | |", len(a.Segments)-shownSegments)
				break
			}
			p("| %d | `%s %s` | %d |", s.Failed, s.Method, cell(s.Path), s.Canary)
		}
		p("")
	}
	if reasons := rb.Evidence.Reasons; len(reasons) > 0 {
		p("| version | what the agents said | times |")
		p("|---|---|---:|")
		for _, r := range reasons {
			p("| %s | %s | %d |", r.Version, cell(orNone(r.Reason, "no reason")), r.Count)
		}
		p("")
	}
	samples(p, "First", rb.Evidence.First)
	samples(p, "Last", rb.Evidence.Last)
}

func samples(p printf, which string, all []Sample) {
	if len(all) == 0 {
		return
	}
	p("%s failing executions:", which)
	p("")
	p("| id | version | began | ended | reason | status | effects |")
	p("|---|---|---|---|---|---:|---|")
	for _, s := range all {
		ended := "still ran"
		if !s.Ended.IsZero() {
			ended = s.Ended.UTC().Format(clock)
		}
		p("| `%s` | %s | %s | %s | %s | %d | %s |", s.ID, s.Version, s.Started.UTC().Format(clock), ended, cell(orNone(s.Reason, "none was given")), s.Status, orNone(s.Effects, "unknown"))
	}
	p("")
	for _, s := range all {
		if s.Excerpt != nil {
			excerptPart(p, "Request", s.ID, s.Excerpt.Request)
			excerptPart(p, "Response", s.ID, s.Excerpt.Response)
		}
	}
}

// excerptPart shows the beginning of a body as it is: it may hold anything.
func excerptPart(p printf, what, id string, x Part) {
	switch {
	case x.Missing != "":
		p("%s of `%s`: not captured: `%s`.", what, id, strings.ReplaceAll(visible(x.Missing), "`", "'"))
	case x.Erased:
		p("%s of `%s`: erased.", what, id)
	case x.Text == "":
		p("%s of `%s`: kept beside the record, not in this copy.", what, id)
	default:
		p("%s of `%s`%s:", what, id, map[bool]string{true: ", its beginning"}[x.Cut])
		p("")
		fenced(p, "text", visible(x.Text))
		return
	}
	p("")
}

// visible is text whose control characters can be seen and do nothing, but for the ends of its lines.
func visible(text string) string {
	var b strings.Builder
	for _, c := range strings.ReplaceAll(text, "\r\n", "\n") {
		if c == '\n' || c == '\t' || unicode.IsPrint(c) {
			b.WriteRune(c)
			continue
		}
		b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(c), "'"))
	}
	return b.String()
}

// fenced shows lines that are not the record's own.
func fenced(p printf, kind, text string) {
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	p("%s%s", fence, kind)
	p("%s", lines(strings.TrimRight(text, "\n")))
	p("%s", fence)
	p("")
}

func whyCanary(p printf, rb Rollback, a Analysis) {
	if rb.Canary != nil && rb.Canary.Itself {
		p("### What the canary saw")
		p("")
		p("**The canary caught it**: the rollout rolled back by itself.")
	} else {
		p("### Why the canary did not catch it")
	}
	p("")
	p("| generation | weight of %s | for | executions on it | on all | of its own failed |", a.Version)
	p("|---:|---:|---:|---:|---:|---:|")
	for _, s := range a.Steps {
		if !s.Known {
			p("| %d | %s | %s | not counted | | |", s.Generation, points(s.Weight), seconds(s.Until.Sub(s.From).Seconds()))
			continue
		}
		p("| %d | %s | %s | %d | %d | %d |", s.Generation, points(s.Weight), seconds(s.Until.Sub(s.From).Seconds()), s.Executions, s.All, s.Failed)
	}
	p("")
	switch {
	case a.Bad.Rate <= a.Base.Rate:
		p("By its outcomes %s was not worse than %s: no canary that looks at outcomes would have stopped it.", a.Version, a.Target)
		p("")
		return
	case a.Canary.Steps == 0:
		p("**There was no canary**: %s got all the traffic at once, so nothing was compared.", a.Version)
	default:
		p("In %s the canary saw %d executions of %s and %d in all. At the true failure rates that had a **%s chance** of stopping it (a false alarm in %.0f %% of harmless deploys allowed).",
			seconds(a.Canary.Seconds), a.Canary.Executions, a.Version, a.Canary.All, percent(a.Canary.Chance), 100*Alpha)
	}
	if a.Same.Caught {
		p("At %s, %d executions in all (%d of them on the canary) would have given 80 %%%s.", points(uint32(a.Same.Weight)), a.Same.Executions, a.Same.Canary, within(a.Same))
	}
	p("")
	p("| canary weight | executions in all for 80 %% | on the canary | time | harmed, in the mean | harmed fewer than %d |", HarmBudget)
	p("|---:|---:|---:|---:|---:|---:|")
	for _, plan := range a.Plans {
		if !plan.Caught {
			p("| %s | more than %d | | | | |", points(uint32(plan.Weight)), a.most(plan.Weight))
			continue
		}
		p("| %s | %d | %d | %s | %.1f | %s |", points(uint32(plan.Weight)), plan.Executions, plan.Canary, orNone(strings.TrimPrefix(within(plan), ", or "), "unknown"), plan.Harmed, percent(plan.Within))
	}
	p("")
	if a.Best != nil {
		p("**What would have caught it:** one step at %s until the evidence decides: with a chance of 80 %% within %d executions%s, harming %.1f in the mean and fewer than %d in %s of all runs.",
			points(uint32(a.Best.Weight)), a.Best.Executions, within(*a.Best), a.Best.Harmed, HarmBudget, percent(a.Best.Within))
	} else {
		p("No single step of these weights catches it while harming fewer than %d executions in 80 %% of all runs.", HarmBudget)
	}
	p("")
}

// segments says which part of production the canary saw little or nothing of.
func segments(p printf, a Analysis) {
	p("### Which segment the canary never saw")
	p("")
	if len(a.Attributes) == 0 {
		p("No execution of %s was counted by an attribute (`segments` in spec.yaml): methods and paths of the failing ones, above, are all that is known.", a.Version)
		p("")
		return
	}
	for _, x := range a.Attributes {
		p("By `%s`, as spec.yaml declares it, %d of the %d executions were counted that began while %s held weight.", x.Name, x.Counted, x.Executions, a.Version)
		p("")
		p("| `%s` | of all executions | failures on %s | of its failures | not stated | the canary saw | step by step |", x.Name, a.Version)
		p("|---|---:|---:|---:|---:|---:|---|")
		for _, v := range x.Values {
			steps := make([]string, 0, len(v.Steps))
			for _, n := range v.Steps {
				steps = append(steps, fmt.Sprint(n))
			}
			p("| `%s` | %s | %d | %s | %d | %d | %s |", v.Value, percent(v.Share), v.Failed, percent(v.FailedShare), v.Unknown, v.Canary, orNone(strings.Join(steps, ", "), "no step was counted"))
		}
		p("")
		if w := a.Where; w != nil && w.Attribute == x.Name {
			v := x.Values[slices.IndexFunc(x.Values, func(v ValueSeen) bool { return v.Value == w.Value })]
			p("**Segment `%s=%s` was %s of all executions and %s of the failures; %s.**", x.Name, v.Value, percent(v.Share), percent(v.FailedShare), sawOf(a, x, v))
			p("")
		}
	}
}

// sawOf says how much the canary saw of a segment.
func sawOf(a Analysis, x AttributeSeen, v ValueSeen) string {
	switch {
	case a.Canary.Steps == 0:
		return "there was no canary to see it"
	case len(x.Steps) == 0:
		return "how much the canary saw of it was not counted"
	case len(x.Steps) < a.Canary.Steps:
		return fmt.Sprintf("at %d of its %d steps the canary saw %d, at the others it was not counted", len(x.Steps), a.Canary.Steps, v.Canary)
	case v.Canary == 0:
		return "the canary saw none of it"
	}
	return fmt.Sprintf("the canary saw %d", v.Canary)
}

func within(plan Plan80) string {
	if plan.Seconds == 0 {
		return ""
	}
	return ", or " + seconds(plan.Seconds) + " of that traffic"
}

func evidenceCurve(p printf, a Analysis) {
	last := func(c []Evidently) string {
		if len(c) == 0 {
			return "has no point: no execution was assigned while both versions had traffic"
		}
		return fmt.Sprintf("ended at %.2f after %d points", c[len(c)-1].Log, len(c))
	}
	p("### The evidence that decided, or would have")
	p("")
	p("A test that may be looked at after each execution speaks at %.2f nats. Beside %s the evidence %s; against \"fails at most %s\" (twice the rate of %s) it %s.",
		a.Threshold, a.Target, last(a.Curve), percent(a.Ceiling), a.Target, last(a.Alone))
	p("")
	if a.Spoke.IsZero() {
		p("Neither test would have spoken on what was seen.")
	} else {
		p("**One of them would have spoken at %s.**", a.Spoke.UTC().Format(clock))
	}
	p("")
}

func whyConformance(p printf, rb Rollback) {
	p("### Why conformance passed")
	p("")
	touching := 0
	if len(rb.Evidence.Reports) > 0 {
		p("| version | suite | at | tests | failed | skipped | cases that touch what changed |")
		p("|---|---|---|---:|---:|---:|---|")
		for _, r := range rb.Evidence.Reports {
			touching += len(r.Touching)
			p("| %s | %s | %s | %d | %d | %d | %s |", r.Version, cell(r.Suite), r.At.UTC().Format(clock), r.Tests, r.Failed, r.Skipped, cell(orNone(strings.Join(r.Touching[:min(len(r.Touching), 5)], ", "), "none")))
		}
		p("")
	}
	for _, a := range rb.Abandoned {
		tested := false
		for _, r := range rb.Evidence.Reports {
			tested = tested || r.Version == a.Version
		}
		if !tested {
			p("**No report is attached to %s**: nothing that is known of was tested before it got traffic.", a.Version)
			p("")
		}
	}
	if len(rb.Evidence.Reports) > 0 && touching == 0 {
		p("No case has a word in its name that is among what changed (words that most cases have aside): the change was not tested.")
		p("")
	}
	p("The failing executions above are offered as cases: `specctl postmortem export` writes them to `conformance/`, one file each, for the publisher to complete and add.")
	p("")
}

func changes(p printf, rb Rollback) {
	for _, c := range rb.Evidence.Changes {
		p("### What changed from %s to %s", rb.Target, c.Version)
		p("")
		for _, w := range c.Words {
			p("* %s", w)
		}
		p("")
		for _, f := range c.Files {
			p("`%s` (%s, lines added: %d, removed: %d):", f.Path, f.Status, f.Added, f.Removed)
			p("")
			if f.Unified != "" {
				fenced(p, "diff", f.Unified)
			}
		}
	}
}

func acks(p printf, rb Rollback) {
	if len(rb.Evidence.Proxies) == 0 {
		return
	}
	p("### Proxies")
	p("")
	p("| proxy | acknowledged | after the commit |")
	p("|---|---|---:|")
	for _, x := range rb.Evidence.Proxies {
		if x.At.IsZero() {
			p("| %s | not yet: it is at generation %d | |", cell(x.Node), x.Generation)
			continue
		}
		p("| %s | %s | %s |", cell(x.Node), x.At.UTC().Format(clock), x.At.Sub(rb.CommittedAt).Round(100*time.Microsecond))
	}
	p("")
}

func sources(p printf, rb Rollback) {
	p("### Where this comes from, and what is missing")
	p("")
	p("Gathered %s%s.", rb.Evidence.At.UTC().Format(clock), map[bool]string{true: ", for the last time", false: "; it will be gathered again"}[rb.Evidence.Final])
	p("")
	p("| item | from | missing |")
	p("|---|---|---|")
	for _, s := range rb.Evidence.Sources {
		p("| %s | %s | %s |", s.Item, s.From, cell(orNone(s.Missing, "nothing that is known of")))
	}
	p("")
}
