package store

import (
	"fmt"
	"time"

	"github.com/specproxy/specproxy/internal/postmortem"
)

// Exposure is what the versions of a spec had counted when a generation of its route was committed.
type Exposure struct {
	Spec       string               `json:"spec"`
	Generation uint64               `json:"generation"`
	At         time.Time            `json:"at"`
	Outcomes   []postmortem.Outcome `json:"outcomes"`
}

// Personal is what must be possible to erase: a record's events name it by Digest, which is that of Salt and Text.
type Personal struct {
	Record string `json:"record"`
	Digest string `json:"digest"`
	Salt   []byte `json:"salt"`
	Text   string `json:"text"`
	// Excerpt: it is a part of one, not a key.
	Excerpt bool `json:"excerpt,omitempty"`
}

var (
	exposures = newKind("exposures", func(c Exposure) []string { return []string{c.Spec} })
	personal  = newKind("personal", func(Personal) []string { return nil })
	alerts    = newKind("alerts", func(a postmortem.Alert) []string { return []string{a.Spec} })
)

// PutExposure writes what had been counted at a generation.
func (t *Tx) PutExposure(c Exposure) { t.put(exposures, path(c.Spec, numbered(c.Generation)), c) }

// Exposure returns what had been counted at a generation.
func (r reader) Exposure(spec string, generation uint64) (Exposure, bool) {
	return one[Exposure](r, exposures, path(spec, numbered(generation)))
}

// PutPersonal writes personal data of a record beside the chain.
func (t *Tx) PutPersonal(p Personal) { t.put(personal, path(p.Record, p.Digest), p) }

// DeletePersonal erases it.
func (t *Tx) DeletePersonal(record, digest string) { t.delete(personal, path(record, digest)) }

// Personal returns what is left of a record's personal data.
func (r reader) Personal(record string) []Personal {
	return values[Personal](r.list(personal, within(record)))
}

// PutAlert keeps an alert for the records that may come.
func (t *Tx) PutAlert(a postmortem.Alert) {
	t.put(alerts, path(a.Spec, numbered(uint64(a.At.UnixNano())), a.Source, a.Name), a) //nolint:gosec // after 1970
}

// Alerts returns the spec's alerts since a time, oldest first.
func (r reader) Alerts(spec string, since time.Time) []postmortem.Alert {
	prefix := within(spec)
	s := span{index: byPath, prefix: prefix, from: prefix + fmt.Sprintf("%020d", since.UnixNano())}
	return values[postmortem.Alert](r.walk(alerts, s, fullKey(alerts, prefix)))
}
