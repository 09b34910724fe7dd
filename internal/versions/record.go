package versions

import "time"

// Record is what the control plane keeps of one published version, for ever. Only Standing and what explains it change.
type Record struct {
	Spec    string `json:"spec"`
	Version string `json:"version"`
	// Digest of the OCI image manifest, "sha256:<hex>".
	Digest      string    `json:"digest"`
	PublishedAt time.Time `json:"publishedAt"`
	PublishedBy string    `json:"publishedBy"`
	Manifest    Manifest  `json:"manifest"`

	Standing       Standing `json:"standing"`
	StandingReason string   `json:"standingReason,omitempty"`
	// PostMortem is the record that quarantined or retired the version.
	PostMortem string `json:"postMortem,omitempty"`

	// FirstWeight is the order in which versions of the spec first held weight: the route generation at which this one did, 0 if never.
	FirstWeight uint64 `json:"firstWeight,omitempty"`
	// FullSince is the time since which the version holds all the weight; zero while it does not.
	FullSince time.Time `json:"fullSince,omitzero"`
	// HeldAll is set once the version has held all the weight.
	HeldAll bool `json:"heldAll,omitempty"`
	// WasGood is set once the version's standing was good, whatever became of it.
	WasGood bool `json:"wasGood,omitempty"`
}

// EverGood says that the version was good at some time.
func (r Record) EverGood() bool { return r.WasGood || r.Standing == Good }

// Ref is the record's name:version.
func (r Record) Ref() Ref { return Ref{Spec: r.Spec, Version: r.Version} }
