package store

import (
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

// Intervention is what an operator decided over one execution in place of its rule: the order to its sidecar until that has answered, and the
// audit's record of it for ever.
type Intervention struct {
	// ID is "IV-1", then "IV-2".
	ID        string `json:"id"`
	Spec      string `json:"spec"`
	Version   string `json:"version"`
	Instance  string `json:"instance"`
	Execution string `json:"execution"`
	// Disposition is complete, handover or cancel.
	Disposition drain.Disposition `json:"disposition"`
	Reason      string            `json:"reason"`
	Actor       string            `json:"actor"`
	At          time.Time         `json:"at"`
	// DespiteEffects: the operator meant it in spite of what the execution had done.
	DespiteEffects bool `json:"despiteEffects,omitempty"`
	// Effects as they were known then; Before is what had been decided, empty for nothing.
	Effects drain.Effects     `json:"effects"`
	Before  drain.Disposition `json:"before,omitempty"`
	// PostMortem is the record that was open over the version, if one was.
	PostMortem string `json:"postMortem,omitempty"`
	// SettledAt is when the sidecar answered, zero while it has not; Refusal why it did not carry it out.
	SettledAt time.Time `json:"settledAt,omitzero"`
	Refusal   string    `json:"refusal,omitempty"`
}

// Pending says that the sidecar has not answered.
func (i Intervention) Pending() bool { return i.SettledAt.IsZero() }

var interventions = newKind("interventions", func(i Intervention) []string { return []string{i.Spec} }).indexed(unfinished, pendingIntervention)

func pendingIntervention(v any) string {
	i := v.(Intervention)
	if !i.Pending() {
		return ""
	}
	return within(i.Spec, i.Version, i.Instance) + path(i.ID)
}

// Intervention returns one record.
func (r reader) Intervention(spec, version, id string) (Intervention, bool) {
	return one[Intervention](r, interventions, path(spec, version, id))
}

// Interventions returns all of a version's, by id.
func (r reader) Interventions(spec, version string) []Intervention {
	return values[Intervention](r.list(interventions, within(spec, version)))
}

// PendingInterventions returns those that an instance has not answered. What it costs does not depend on how many others there are.
func (r reader) PendingInterventions(spec, version, instance string) []Intervention {
	prefix := within(spec, version, instance)
	return values[Intervention](r.walk(interventions, span{index: unfinished, prefix: prefix}, fullKey(interventions, within(spec, version))))
}

// PutIntervention writes a record. What was decided over never changes, only what became of it.
func (t *Tx) PutIntervention(i Intervention) { t.put(interventions, path(i.Spec, i.Version, i.ID), i) }

// NextInterventionID returns "IV-1", then "IV-2": each id once, unless the Update fails.
func (t *Tx) NextInterventionID() string { return t.nextID(interventions.name, "IV") }
