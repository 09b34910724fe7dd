package drain

import (
	"strings"
	"time"
)

// match is the index of the first rule that takes the execution, -1 for none.
func (c Contract) match(x View, effects Effects, now time.Time) int {
	for i := range c.Rules {
		m := &c.Rules[i].When
		if c.matchesEffects(*m, effects) && m.matches(x, now) {
			return i
		}
	}
	return -1
}

// matches leaves the effects aside.
func (m *Match) matches(x View, now time.Time) bool {
	if m.Method != "" && m.Method != x.Method {
		return false
	}
	if m.OlderThan != 0 && now.Sub(x.Started) <= time.Duration(m.OlderThan) {
		return false
	}
	return m.Path == "" || m.matchesPath(x.Path)
}

// matchesPath leaves a query aside, which has no say in what an execution is.
func (m *Match) matchesPath(path string) bool {
	path, _, _ = strings.Cut(path, "?")
	if prefix, isPrefix := strings.CutSuffix(m.Path, "*"); isPrefix {
		return strings.HasPrefix(path, prefix)
	}
	return path == m.Path
}

// matchesEffects takes unknown for irreversible, unless some rule of the contract names unknown.
func (c Contract) matchesEffects(m Match, effects Effects) bool {
	return m.Effects == "" || m.Effects == effects ||
		effects == EffectsUnknown && m.Effects == EffectsIrreversible && !c.namesUnknown()
}

func (c Contract) namesUnknown() bool {
	for i := range c.Rules {
		if c.Rules[i].When.Effects == EffectsUnknown {
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
