package store

import (
	"github.com/specproxy/specproxy/internal/drain"
)

// Counted is what an instance had counted when it was last stored. It outlives the memory of the control plane, so that what an instance settled
// is not lost if it goes while no replica is there. It is only kept while a drain of the instance's spec goes on, and goes with the instance.
type Counted struct {
	Spec     string       `json:"spec"`
	Version  string       `json:"version"`
	Instance string       `json:"instance"`
	Counts   drain.Counts `json:"counts"`
	// ArrivedFrom are the executions that were handed over to it, by origin: see drain.Drain.Origin.
	ArrivedFrom map[string]uint64 `json:"arrivedFrom,omitempty"`
}

var (
	counted   = newKind("counted", func(Counted) []string { return nil })
	shutdowns = newKind("shutdowns", func(d drain.Drain) []string { return []string{d.Spec} }).indexed(unfinished, unfinishedShutdown)
)

func unfinishedShutdown(v any) string {
	d := v.(drain.Drain)
	if !d.Unfinished() {
		return ""
	}
	return path(d.Spec, d.Version, d.Instance)
}

// Counted returns what an instance had counted, false if nothing was stored.
func (r reader) Counted(spec, version, instance string) (Counted, bool) {
	return one[Counted](r, counted, path(spec, version, instance))
}

// Shutdown returns the newest shutdown of an instance.
func (r reader) Shutdown(spec, version, instance string) (drain.Drain, bool) {
	return one[drain.Drain](r, shutdowns, path(spec, version, instance))
}

// Shutdowns returns those of the spec's instances, by version and instance; of all specs if it is empty.
func (v *View) Shutdowns(spec string) []drain.Drain {
	if spec == "" {
		return values[drain.Drain](v.list(shutdowns, ""))
	}
	return values[drain.Drain](v.list(shutdowns, within(spec)))
}

// UnfinishedShutdowns returns those that go on, of the spec or, if it is empty, of all.
func (v *View) UnfinishedShutdowns(spec string) []drain.Drain {
	s := span{index: unfinished}
	if spec != "" {
		s.prefix = within(spec)
	}
	return values[drain.Drain](v.walk(shutdowns, s, ""))
}

// PutCounted writes what an instance has counted.
func (t *Tx) PutCounted(c Counted) { t.put(counted, path(c.Spec, c.Version, c.Instance), c) }

// PutShutdown writes the shutdown of an instance in place of its earlier one.
func (t *Tx) PutShutdown(d drain.Drain) { t.put(shutdowns, path(d.Spec, d.Version, d.Instance), d) }

// DropShutdown deletes the record of a shutdown.
func (t *Tx) DropShutdown(d drain.Drain) { t.delete(shutdowns, path(d.Spec, d.Version, d.Instance)) }

// dropCounted deletes what an instance had counted, if anything is stored.
func (t *Tx) dropCounted(spec, version, instance string) {
	if _, ok := t.Counted(spec, version, instance); ok {
		t.delete(counted, path(spec, version, instance))
	}
}
