package drain

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
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
	if c.CompatibleWith != "" {
		if _, err := parseRange(c.CompatibleWith); err != nil {
			p.add("inFlight.compatibleWith", "%s", err)
		}
	}
	if c.DefaultWithin.Min < 0 || !c.DefaultWithin.IsZero() && c.DefaultWithin.Max == 0 {
		p.add("inFlight.defaultWithin", "%s is not a range: write such as 1m-1h", c.DefaultWithin)
	}
	if c.MaxTotal < 0 {
		p.add("inFlight.maxTotal", "%s is negative: write a duration such as 24h", c.MaxTotal)
	}
	c.OnPromote.validate("inFlight.onPromote", &p)
	c.OnShutdown.validate("inFlight.onShutdown", &p)
	for i, d := range c.Declared {
		d.validate(fmt.Sprintf("inFlight.declared[%d]", i), &p)
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
	for i, class := range m.Effects {
		if class.rank() == 0 {
			p.add(at+".effects", "%q is not a class of effects: write %s", class, oneOf(Classes()))
		} else if slices.Index(m.Effects, class) < i {
			p.add(at+".effects", "%s is listed twice", class)
		}
	}
	m.route().validate(at, p)
	validatePattern(at+".tool", m.Tool, p)
	validatePattern(at+".skill", m.Skill, p)
	for _, name := range slices.Sorted(maps.Keys(m.Header)) {
		validateHeader(at+".header."+name, name, m.Header[name], p)
	}
	if m.OlderThan < 0 {
		p.add(at+".olderThan", "%s is negative: write a duration such as 30s", m.OlderThan)
	}
	if m.YoungerThan < 0 {
		p.add(at+".youngerThan", "%s is negative: write a duration such as 30s", m.YoungerThan)
	}
	if m.YoungerThan > 0 && m.YoungerThan <= m.OlderThan {
		p.add(at, "can never match: nothing is older than %s and younger than %s", m.OlderThan, m.YoungerThan)
	}
	return len(*p) == before
}

func (r route) validate(at string, p *problems) {
	if r.method != "" && (r.method != strings.ToUpper(r.method) || strings.ContainsAny(r.method, " \t,/*")) {
		p.add(at+".method", "%q is not an HTTP method: write one method in capitals, such as GET", r.method)
	}
	if r.path != "" && r.path[0] != '/' && r.path != "*" {
		p.add(at+".path", "%q is not a path: it begins with a slash, such as /v1/chat or /v1/*", r.path)
	}
	validatePattern(at+".path", r.path, p)
	if strings.ContainsAny(r.path, "?#") {
		p.add(at+".path", "%q holds a query or a fragment: rules match the path alone", r.path)
	}
	if r.grpc == "" {
		return
	}
	if service, method, ok := strings.Cut(r.grpc, "/"); !ok || service == "" || method == "" || strings.Contains(method, "/") {
		p.add(at+".grpc", "%q is not a gRPC method: write package.Service/Method, or package.Service/* for all of a service", r.grpc)
	}
	validatePattern(at+".grpc", r.grpc, p)
	if r.method != "" || r.path != "" {
		p.add(at+".grpc", "grpc says method and path: leave those out")
	}
}

// validatePattern looks at where the * is.
func validatePattern(at, pattern string, p *problems) {
	if star := strings.IndexByte(pattern, '*'); star >= 0 && star != len(pattern)-1 {
		p.add(at, "%q has a * before its end: only a trailing * matches any rest", pattern)
	}
}

// secretHeaders must not be kept: what rules look at is remembered, reported and shown.
var secretHeaders = []string{"authorization", "proxy-authorization", "cookie", "set-cookie"}

func validateHeader(at, name, pattern string, p *problems) {
	lower := strings.ToLower(name)
	switch {
	case name == "" || strings.ContainsAny(name, " \t\r\n:,/*\""):
		p.add(at, "%q is not a header's name", name)
	case slices.Contains(secretHeaders, lower):
		p.add(at, "%s holds secrets, and what a rule looks at is kept and shown: match another header", lower)
	case strings.HasPrefix(lower, "x-spec-"):
		p.add(at, "%s is consumed on the way and never seen by a rule: match another header", lower)
	case pattern == "":
		p.add(at, "has no value: write one, or * for any")
	}
	validatePattern(at, pattern, p)
}

func (d Declaration) validate(at string, p *problems) {
	named := d.route() != route{}
	switch {
	case !named && d.Tool == "" && d.Skill == "":
		p.add(at, "names nothing: say which tool, skill, grpc, path or method it is about")
	case d.Tool != "" && (named || d.Skill != ""):
		p.add(at, "names a tool and more: a tool's acts are the same on every route; leave the rest out")
	case d.Skill != "" && named:
		p.add(at, "names a skill and a route: a skill is the same on every route; leave the route out")
	}
	d.route().validate(at, p)
	validatePattern(at+".tool", d.Tool, p)
	validatePattern(at+".skill", d.Skill, p)
	switch {
	case d.Class == "":
		p.add(at+".class", "missing: write %s", oneOf(Classes()))
	case d.Class.rank() == 0:
		p.add(at+".class", "%q is not a class of effects: write %s", d.Class, oneOf(Classes()))
	}
	if d.Compensation != "" && d.Tool == "" {
		p.add(at+".compensation", "undoes an act, and acts are of a tool: name the tool, or leave it out")
	}
}

// reachable reports a rule that can never match: because its class of effects never occurs under the contract's reporting, or because earlier
// rules take all that it could match.
func (c Contract) reachable(i int, at string, p *problems) {
	m := c.Rules[i].When
	if m.Effects.Has(EffectsNone) && c.reporting() != Guarded {
		const why = "effects: none counts only where the agent asks before it acts; write inFlight.effects: guarded, or effects: readonly here"
		if len(m.Effects) == 1 {
			p.add(at, "can never match: "+why)
		} else {
			p.add(at+".when.effects", "none can never match: "+why)
		}
		return
	}
	var by []string
	for _, class := range c.occurring() {
		if !c.matchesEffects(m.Effects, class) {
			continue
		}
		for _, age := range c.ages() {
			if !m.ofAge(age) {
				continue
			}
			j := c.firstCovering(i, class, age)
			if j < 0 {
				return
			}
			if name := fmt.Sprintf("inFlight.rules[%d]", j); !slices.Contains(by, name) {
				by = append(by, name)
			}
		}
	}
	if len(by) == 1 {
		p.add(at, "can never match: %s comes first and takes all of it; move this rule up or delete it", by[0])
		return
	}
	p.add(at, "can never match: %s come first and take all of it; move this rule up or delete it", strings.Join(by, ", "))
}

// ages has one age of each span that the rules tell apart: every bound itself, and something between it and the next.
func (c Contract) ages() []time.Duration {
	bounds := []time.Duration{0}
	for i := range c.Rules {
		bounds = append(bounds, time.Duration(c.Rules[i].When.OlderThan), time.Duration(c.Rules[i].When.YoungerThan))
	}
	slices.Sort(bounds)
	var ages []time.Duration
	for _, bound := range slices.Compact(bounds) {
		ages = append(ages, bound, bound+1)
	}
	return ages
}

// firstCovering is the first rule before rule i that takes every execution of this class and age that rule i could match, or -1.
func (c Contract) firstCovering(i int, class Effects, age time.Duration) int {
	for j := range i {
		if earlier := c.Rules[j].When; c.matchesEffects(earlier.Effects, class) && earlier.ofAge(age) && earlier.covers(c.Rules[i].When) {
			return j
		}
	}
	return -1
}

// covers says that m matches whatever n matches, effects and age aside.
func (m Match) covers(n Match) bool {
	for name, pattern := range m.Header {
		if other, ok := headerOf(n, name); !ok || !coversGlob(pattern, other) {
			return false
		}
	}
	return m.route().covers(n.route()) && coversName(m.Tool, n.Tool) && coversName(m.Skill, n.Skill)
}

func headerOf(m Match, name string) (string, bool) {
	for other, pattern := range m.Header {
		if strings.EqualFold(other, name) {
			return pattern, true
		}
	}
	return "", false
}

// covers takes a gRPC method for what it is on the wire, a POST to its path.
func (r route) covers(o route) bool {
	if r.grpc != "" {
		return o.grpc != "" && coversGlob(r.grpc, o.grpc)
	}
	if o.grpc != "" {
		o = route{method: "POST", path: "/" + o.grpc}
	}
	return (r.method == "" || r.method == o.method) && coversPath(r.path, o.path)
}

func coversPath(m, n string) bool {
	if n == "" {
		// Every path that a request can have begins with a slash or is "*" (OPTIONS): only a bare * matches them all.
		return m == "" || m == "*"
	}
	return m == "" || coversGlob(m, n)
}

// coversName compares patterns of names that not every execution has.
func coversName(m, n string) bool { return m == "" || n != "" && coversGlob(m, n) }

// coversGlob says that pattern m matches all that pattern n matches.
func coversGlob(m, n string) bool {
	if m == n {
		return true
	}
	prefix, isPrefix := strings.CutSuffix(m, "*")
	rest, _ := strings.CutSuffix(n, "*")
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
