package drain

import "time"

// Kind says what made an order, and so which section of the contract governs.
type Kind string

const (
	// KindRollback abandons the version: the rules and the default govern. It is what an empty kind means.
	KindRollback Kind = "rollback"
	// KindPromote takes all weight from a version that nothing is wrong with: onPromote governs, and the version goes on admitting what is pinned to it.
	KindPromote Kind = "promote"
	// KindShutdown ends one instance: onShutdown governs.
	KindShutdown Kind = "shutdown"
)

// Section is what becomes of running executions where the version is not at fault. The zero value lets them complete.
type Section struct {
	// Disposition is complete, handover or cancel.
	Disposition Disposition `json:"disposition" yaml:"disposition"`
	// Within, Then, Else and RetryAfter are as in Action.
	Within     Duration    `json:"within,omitempty" yaml:"within,omitempty"`
	Then       Disposition `json:"then,omitempty" yaml:"then,omitempty"`
	Else       Disposition `json:"else,omitempty" yaml:"else,omitempty"`
	RetryAfter Range       `json:"retryAfter,omitzero" yaml:"retryAfter,omitempty"`
}

// IsZero says that the contract has no such section.
func (s Section) IsZero() bool { return s == Section{} }

// action is the section as an action.
func (s Section) action() Action {
	if s.IsZero() {
		return Action{OnRollback: Complete}
	}
	return Action{OnRollback: s.Disposition, Within: s.Within, Then: s.Then, Else: s.Else, RetryAfter: s.RetryAfter}
}

// OperatorRule is the Decision.Rule of what an operator decided.
const OperatorRule = -2

// governing is the action that applies under an order of this kind, the index of its rule and the beginning of the why.
func (p *plan) governing(kind Kind, x *View, effects Effects, now time.Time) (action Action, rule int, label string) {
	switch kind {
	case KindPromote:
		return p.OnPromote.action(), -1, "onPromote: "
	case KindShutdown:
		return p.OnShutdown.action(), -1, "onShutdown: "
	case KindRollback, "":
	}
	if rule = p.match(x, effects, now); rule >= 0 {
		return p.Rules[rule].Action, rule, p.labels[rule]
	}
	return p.Default, -1, p.labels[len(p.Rules)]
}

func (s Section) validate(at string, p *problems) {
	if s.IsZero() {
		return
	}
	a := s.action()
	if s.Disposition == "" {
		p.add(at+".disposition", "missing: write %s", oneOf([]Disposition{Complete, Handover, Cancel}))
		a.OnRollback = Complete
	} else if s.Disposition != Complete && s.Disposition != Handover && s.Disposition != Cancel {
		p.add(at+".disposition", "%q is not a disposition here: write %s", s.Disposition, oneOf([]Disposition{Complete, Handover, Cancel}))
		a.OnRollback = Complete
	}
	a.validate(at, p)
}
