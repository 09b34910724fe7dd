package store

import (
	"time"

	"github.com/specproxy/specproxy/internal/capture"
)

// Excerpt is what was captured of one failing execution of a version: it is personal data until it is erased.
type Excerpt struct {
	Spec      string       `json:"spec"`
	Version   string       `json:"version"`
	Execution string       `json:"execution"`
	StartedAt time.Time    `json:"startedAt"`
	Request   capture.Part `json:"request"`
	Response  capture.Part `json:"response"`
	// Erased: it must not be written again, though a sidecar may tell of it again.
	Erased bool `json:"erased,omitempty"`
}

var excerpts = newKind("excerpts", func(e Excerpt) []string { return []string{e.Spec} })

// PutExcerpt writes an excerpt.
func (t *Tx) PutExcerpt(e Excerpt) { t.put(excerpts, path(e.Spec, e.Version, e.Execution), e) }

// DeleteExcerpt deletes the excerpt of an execution.
func (t *Tx) DeleteExcerpt(e Excerpt) { t.delete(excerpts, path(e.Spec, e.Version, e.Execution)) }

// Excerpts returns those of the version, by execution.
func (r reader) Excerpts(spec, version string) []Excerpt {
	return values[Excerpt](r.list(excerpts, within(spec, version)))
}
