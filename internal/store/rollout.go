package store

import (
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/rollout"
	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// Rollout is the newest rollout of a spec, and what its evidence was made of.
type Rollout struct {
	rollout.Run
	// Cursors say how far the reports of each instance have been read, by its id.
	Cursors map[string]Cursor `json:"cursors,omitempty"`
}

// Cursor is how far one instance's reports have been read.
type Cursor struct {
	Arm evidence.Arm `json:"arm"`
	// Seq of its newest batch of failures.
	Seq uint64 `json:"seq,omitempty"`
	// Routed are its newest counts, of the rollout's generations.
	Routed []drain.Routed `json:"routed,omitempty"`
}

var rollouts = newKind("rollouts", func(r Rollout) []string { return []string{r.Spec} })

// Rollout returns the spec's newest rollout; false if it never had one.
func (r reader) Rollout(spec string) (Rollout, bool) { return one[Rollout](r, rollouts, path(spec)) }

// Rollouts returns the newest rollout of every spec that had one, by spec.
func (r reader) Rollouts() []Rollout { return values[Rollout](r.list(rollouts, "")) }

// PutRollout writes a spec's newest rollout.
func (t *Tx) PutRollout(r Rollout) { t.put(rollouts, path(r.Spec), r) }
