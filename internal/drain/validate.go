package drain

import (
	"fmt"
	"slices"
	"strings"
)

// Validate lists everything that is wrong with the contract; nil means it can be deployed. Every error begins with the place in the manifest
// ("inFlight.rules[2].then", counted from 0) and ends with the remedy.
func (c Contract) Validate() []error {
	var p problems
	if c.Effects != "" && !c.Effects.valid() {
		p.add("inFlight.effects", "%q is not a way of reporting: write %s", c.Effects, oneOf([]Reporting{Unreported, Reported, Guarded}))
	}
	if c.Default == (Action{}) {
		p.add("inFlight.default", "missing: it says what happens to an execution that no rule matches; write {onRollback: complete}, or handover or cancel")
	} else {
		c.Default.validate("inFlight.default", &p)
	}
	for i, r := range c.Rules {
		at := fmt.Sprintf("inFlight.rules[%d]", i)
		r.validate(at, &p)
		if r.When.validate(at+".when", &p) {
			c.reachable(i, at, &p)
		}
	}
	return p
}

// problems collects errors that begin with a place.
type problems []error

func (p *problems) add(at, format string, args ...any) {
	*p = append(*p, fmt.Errorf("%s: "+format, append([]any{at}, args...)...))
}

func (a Action) validate(at string, p *problems) {
	a.validateDispositions(at, p)
	switch {
	case !a.canComplete() && (a.Within != 0 || a.Then != ""):
		p.add(at, "within and then belong to complete, which never happens here: leave them out, or write onRollback: complete")
	case a.Within != 0 && a.Then == "":
		p.add(at+".then", "missing: say what follows after %s, cancel or hold", a.Within)
	case a.Within == 0 && a.Then != "":
		p.add(at+".within", "missing: then: %s has no deadline to follow; add within: 2m, or leave then out to let it run until it ends", a.Then)
	}
	if a.Within < 0 {
		p.add(at+".within", "%s is negative: write a duration such as 2m", a.Within)
	}
	if a.RetryAfter.Min < 0 || a.RetryAfter.Max < a.RetryAfter.Min {
		p.add(at+".retryAfter", "%s is not a range: write 1s or 1s-5s", a.RetryAfter)
	}
	if !a.RetryAfter.IsZero() && a.OnRollback == Complete && a.Then != Cancel {
		p.add(at+".retryAfter", "nothing is cancelled here, so nobody is told to retry: leave it out")
	}
}

func (a Action) validateDispositions(at string, p *problems) {
	switch a.OnRollback {
	case Complete, Cancel, Handover:
	case Hold:
		p.add(at+".onRollback", "hold only follows a deadline: write {onRollback: complete, within: 15m, then: hold}")
	case "":
		p.add(at+".onRollback", "missing: write %s", oneOf([]Disposition{Complete, Handover, Cancel}))
	default:
		p.add(at+".onRollback", "%q is not a disposition: write %s", a.OnRollback, oneOf([]Disposition{Complete, Handover, Cancel}))
	}
	if a.Then != "" && a.Then != Cancel && a.Then != Hold {
		p.add(at+".then", "%q cannot follow a deadline: write %s", a.Then, oneOf([]Disposition{Cancel, Hold}))
	}
	switch {
	case a.OnRollback != Handover && a.Else != "":
		p.add(at+".else", "else belongs to handover: leave it out, or write onRollback: handover")
	case a.OnRollback == Handover && a.Else == "":
		p.add(at+".else", "missing: a hand-over is not always possible; say what happens then, complete or cancel")
	case a.OnRollback == Handover && a.Else != Complete && a.Else != Cancel:
		p.add(at+".else", "%q cannot stand in for a hand-over: write %s", a.Else, oneOf([]Disposition{Complete, Cancel}))
	}
}

// canComplete says whether the action may let an execution run on. A disposition that is wrong or missing is another error's business.
func (a Action) canComplete() bool {
	return a.OnRollback != Cancel && (a.OnRollback != Handover || a.Else != Cancel)
}

// validate reports whether the match is sound, so that it makes sense to ask what it covers.
func (m Match) validate(at string, p *problems) bool {
	before := len(*p)
	if m.Effects != "" && m.Effects.rank() == 0 {
		p.add(at+".effects", "%q is not a class of effects: write %s", m.Effects, oneOf(Classes()))
	}
	if m.Method != "" && (m.Method != strings.ToUpper(m.Method) || strings.ContainsAny(m.Method, " \t,/*")) {
		p.add(at+".method", "%q is not an HTTP method: write one method in capitals, such as GET", m.Method)
	}
	if m.Path != "" && m.Path[0] != '/' && m.Path != "*" {
		p.add(at+".path", "%q is not a path: it begins with a slash, such as /v1/chat or /v1/*", m.Path)
	}
	if star := strings.IndexByte(m.Path, '*'); star >= 0 && star != len(m.Path)-1 {
		p.add(at+".path", "%q has a * before its end: only a trailing * matches any rest", m.Path)
	}
	if strings.ContainsAny(m.Path, "?#") {
		p.add(at+".path", "%q holds a query or a fragment: rules match the path alone", m.Path)
	}
	if m.OlderThan < 0 {
		p.add(at+".olderThan", "%s is negative: write a duration such as 30s", m.OlderThan)
	}
	return len(*p) == before
}

// reachable reports a rule that can never match: because its class of effects never occurs under the contract's reporting, or because earlier
// rules take all that it could match.
func (c Contract) reachable(i int, at string, p *problems) {
	m := c.Rules[i].When
	if m.Effects == EffectsNone && c.reporting() != Guarded {
		p.add(at, "can never match: effects: none counts only where the agent asks before it acts; write inFlight.effects: guarded, or effects: readonly here")
		return
	}
	var by []string
	for _, class := range c.occurring() {
		if !c.matchesEffects(m, class) {
			continue
		}
		j := c.firstCovering(i, class)
		if j < 0 {
			return
		}
		if name := fmt.Sprintf("inFlight.rules[%d]", j); !slices.Contains(by, name) {
			by = append(by, name)
		}
	}
	if len(by) == 1 {
		p.add(at, "can never match: %s comes first and takes all of it; move this rule up or delete it", by[0])
		return
	}
	p.add(at, "can never match: %s come first and take all of it; move this rule up or delete it", strings.Join(by, ", "))
}

// firstCovering is the first rule before rule i that takes every execution of this class that rule i could match, or -1.
func (c Contract) firstCovering(i int, class Effects) int {
	for j := range i {
		if earlier := c.Rules[j].When; c.matchesEffects(earlier, class) && earlier.covers(c.Rules[i].When) {
			return j
		}
	}
	return -1
}

// covers says that m matches whatever n matches, effects aside.
func (m Match) covers(n Match) bool {
	return (m.Method == "" || m.Method == n.Method) && m.OlderThan <= n.OlderThan && coversPath(m.Path, n.Path)
}

func coversPath(m, n string) bool {
	if m == "" || m == n {
		return true
	}
	prefix, isPrefix := strings.CutSuffix(m, "*")
	rest, _ := strings.CutSuffix(n, "*")
	if n == "" {
		// Every path that a request can have begins with a slash or is "*" (OPTIONS): only a bare * matches them all.
		return prefix == ""
	}
	return isPrefix && strings.HasPrefix(rest, prefix)
}

// occurring lists the classes that an execution under this contract can have when an order comes.
func (c Contract) occurring() []Effects {
	classes := Classes()
	if c.reporting() != Guarded {
		return classes[1:]
	}
	return classes
}

func (r Reporting) valid() bool { return r == Unreported || r == Reported || r == Guarded }

// reporting is the declared way, or the default.
func (c Contract) reporting() Reporting {
	if c.Effects == "" {
		return Unreported
	}
	return c.Effects
}
