package store

import (
	"time"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/shadow"
)

// Shadow is the newest shadow of a spec and what it has shown.
type Shadow struct {
	Spec string `json:"spec"`
	routing.Shadow
	// Stable is the version whose requests are copied.
	Stable string `json:"stable"`
	// Ended is zero while it goes on; EndedBy says what ended it.
	Ended   time.Time `json:"ended,omitzero"`
	EndedBy string    `json:"endedBy,omitempty"`
	// Tally of its pairs.
	Tally shadow.Tally `json:"tally"`
}

var shadows = newKind("shadows", func(s Shadow) []string { return []string{s.Spec} })

// Shadow returns the spec's newest one; false if it never had one.
func (r reader) Shadow(spec string) (Shadow, bool) { return one[Shadow](r, shadows, path(spec)) }

// Shadows returns the newest one of every spec that had one, by spec.
func (r reader) Shadows() []Shadow { return values[Shadow](r.list(shadows, "")) }

// PutShadow writes a spec's newest one.
func (t *Tx) PutShadow(s Shadow) { t.put(shadows, path(s.Spec), s) }
