package drain

import (
	"slices"
	"strings"
	"time"
)

// match is the index of the first rule that takes the execution, -1 for none.
func (c Contract) match(x *View, effects Effects, now time.Time) int {
	for i := range c.Rules {
		m := &c.Rules[i].When
		if c.matchesEffects(m.Effects, effects) && m.matches(x, now) {
			return i
		}
	}
	return -1
}

// matches leaves the effects aside.
func (m *Match) matches(x *View, now time.Time) bool {
	switch {
	case !m.route().matches(x.Method, x.Path, x.GRPC), !m.ofAge(now.Sub(x.Started)):
		return false
	case m.Skill != "" && (x.Skill == "" || !glob(m.Skill, x.Skill)):
		return false
	case m.Tool != "" && !slices.ContainsFunc(x.Tools, func(tool string) bool { return glob(m.Tool, tool) }):
		return false
	}
	for name, pattern := range m.Header {
		if value, sent := x.Headers[strings.ToLower(name)]; !sent || !glob(pattern, value) {
			return false
		}
	}
	return true
}

func (m *Match) ofAge(age time.Duration) bool {
	return (m.OlderThan == 0 || age > time.Duration(m.OlderThan)) && (m.YoungerThan == 0 || age < time.Duration(m.YoungerThan))
}

// route is the part of a match or a declaration that says which requests are meant.
type route struct{ method, path, grpc string }

func (m *Match) route() route { return route{m.Method, m.Path, m.GRPC} }

func (d *Declaration) route() route { return route{d.Method, d.Path, d.GRPC} }

// matches leaves a query aside, which has no say in what an execution is.
func (r route) matches(method, path string, grpc bool) bool {
	path, _, _ = strings.Cut(path, "?")
	return (r.method == "" || r.method == method) && (r.path == "" || glob(r.path, path)) &&
		(r.grpc == "" || grpc && glob("/"+r.grpc, path))
}

// glob compares text with a pattern whose trailing * matches any rest.
func glob(pattern, text string) bool {
	if prefix, isPrefix := strings.CutSuffix(pattern, "*"); isPrefix {
		return strings.HasPrefix(text, prefix)
	}
	return text == pattern
}

// matchesEffects takes unknown for irreversible, unless some rule of the contract names unknown.
func (c Contract) matchesEffects(named AnyOf, effects Effects) bool {
	return len(named) == 0 || named.Has(effects) ||
		effects == EffectsUnknown && named.Has(EffectsIrreversible) && !c.namesUnknown()
}

func (c Contract) namesUnknown() bool {
	for i := range c.Rules {
		if c.Rules[i].When.Effects.Has(EffectsUnknown) {
			return true
		}
	}
	return false
}

// effective is the class that rules are matched against: silence is none where the agent asks first, else unknown, and so is "none so far".
func (c Contract) effective(worst Effects) Effects {
	worst = worst.known()
	guarded := c.reporting() == Guarded
	switch {
	case worst == "" && guarded:
		return EffectsNone
	case worst == "", worst == EffectsNone && !guarded:
		return EffectsUnknown
	}
	return worst
}
