package drain

import (
	"fmt"
	"strings"
	"time"
)

// Act is one effect on the world: asked for beforehand (guarded) or told of afterwards.
type Act struct {
	Tool  string  `json:"tool"`
	Class Effects `json:"class"`
	// Key is what the agent gave the outside world to tell a repeat from a new act.
	Key string `json:"key,omitempty"`
	// Compensation names what would undo it.
	Compensation string    `json:"compensation,omitempty"`
	At           time.Time `json:"at"`
	// Source says how the act is known; set by the ledger.
	Source Source `json:"source,omitempty"`
}

// Touches says that the act may have changed the world.
func (a Act) Touches() bool { return a.Class.rank() > EffectsReadonly.rank() }

// Classes lists the effects classes, harmless first. Unknown stands before irreversible: a known irreversible effect is never forgotten over
// an unknown one.
func Classes() []Effects {
	return []Effects{EffectsNone, EffectsReadonly, EffectsIdempotent, EffectsCompensable, EffectsUnknown, EffectsIrreversible}
}

// ParseEffects reads a class as an agent or a manifest writes it. The error lists the classes.
func ParseEffects(s string) (Effects, error) {
	e := Effects(strings.ToLower(strings.TrimSpace(s)))
	if e.rank() == 0 {
		return EffectsUnknown, fmt.Errorf("%q is not a class of effects: write %s", s, oneOf(Classes()))
	}
	return e, nil
}

// Worse is the worse of two classes. Empty means that nothing was said; a word that is no class counts as unknown.
func (e Effects) Worse(than Effects) Effects {
	a, b := e.known(), than.known()
	if a.rank() >= b.rank() {
		return a
	}
	return b
}

// known replaces a word that is no class by unknown, and leaves silence alone.
func (e Effects) known() Effects {
	if e != "" && e.rank() == 0 {
		return EffectsUnknown
	}
	return e
}

// rank orders the classes as Classes does; 0 is none of them.
func (e Effects) rank() int {
	switch e {
	case EffectsNone:
		return 1
	case EffectsReadonly:
		return 2
	case EffectsIdempotent:
		return 3
	case EffectsCompensable:
		return 4
	case EffectsUnknown:
		return 5
	case EffectsIrreversible:
		return 6
	}
	return 0
}

// oneOf writes a list of alternatives: "a, b or c".
func oneOf[T ~string](words []T) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(string(w))
	}
	return b.String()
}
