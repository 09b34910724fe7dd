// Package agentproto holds what every agent protocol has to tell a client whose execution was cut; the packages below it say it in their
// protocol's own words.
//
// Invariants: a signal never invites a repeat of work that has done something which must not be done twice, and it always says what is
// known about effects. The package and those below it are pure: no clock, no I/O, no goroutines, no dice.
package agentproto

import (
	"fmt"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

// Signal is one retry signal: this execution ended because its version was rolled back, or because its instance leaves.
type Signal struct {
	// Spec is the spec's name; From the version that was cut, To the one a repeat gets. Equal if the instance merely leaves.
	Spec, From, To string
	// Execution is the id that was cut; empty if the work was never admitted.
	Execution string
	// Effects is the worst the execution is known to have done; empty is said as unknown.
	Effects drain.Effects
	// RetryAfter is the delay drawn for this one client.
	RetryAfter time.Duration
	// Reached says that the request reached the agent.
	Reached bool
	// Why is the contract's rule, in words.
	Why string
	// PostMortem is the record of the rollback, such as PM-1; empty if there is none.
	PostMortem string
}

// RolledBack tells a rollback from an instance that leaves.
func (s Signal) RolledBack() bool { return s.To != "" && s.To != s.From }

// Known is Effects with silence spelled out.
func (s Signal) Known() drain.Effects {
	if s.Effects == "" {
		return drain.EffectsUnknown
	}
	return s.Effects
}

// Repeatable says whether the client is invited to send the same work again. After an act that is compensable or irreversible it is not: the
// repeat would do it twice. Unknown is repeatable, since the contract had to name such an execution before it could be cut; the signal says so.
func (s Signal) Repeatable() bool {
	switch s.Known() {
	case drain.EffectsCompensable, drain.EffectsIrreversible:
		return false
	case drain.EffectsNone, drain.EffectsReadonly, drain.EffectsIdempotent, drain.EffectsUnknown:
		return true
	}
	return false
}

// Seconds is RetryAfter in whole seconds, rounded up and at least 1: Retry-After has no fractions (RFC 9110 section 10.2.3).
func (s Signal) Seconds() int64 {
	return max(1, int64((s.RetryAfter+time.Second-1)/time.Second))
}

// Milliseconds is RetryAfter in whole milliseconds, never negative.
func (s Signal) Milliseconds() int64 { return max(0, s.RetryAfter.Milliseconds()) }

// Code is the machine's name of what happened, upper case with underscores.
func (s Signal) Code() string {
	if s.RolledBack() {
		return "SPEC_VERSION_ROLLED_BACK"
	}
	return "INSTANCE_LEAVING"
}

// Detail says in one sentence what happened and what to do.
func (s Signal) Detail() string {
	next := "send the request again"
	if !s.Repeatable() {
		next = fmt.Sprintf("do not repeat it blindly: it has had %s effects", s.Known())
	}
	if s.RolledBack() {
		return fmt.Sprintf("%s %s was rolled back to %s while this ran; %s", s.Spec, s.From, s.To, next)
	}
	return fmt.Sprintf("this instance of %s %s is shutting down; %s", s.Spec, s.From, next)
}
