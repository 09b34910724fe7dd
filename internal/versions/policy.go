package versions

import (
	"slices"
	"time"
)

// Policy is what a spec demands of a version before it gets traffic. It looks ahead only: what has traffic keeps it, and a rollback to a version
// that held traffic before is never stopped by it.
type Policy struct {
	Spec string `json:"spec"`
	// Revision counts the policies of the spec, from 1.
	Revision uint64 `json:"revision"`
	// SignedBy are PEM public keys, one of which must have signed the version; empty: none need.
	SignedBy []string `json:"signedBy,omitempty"`
	// Conformance demands a report of tests, and that of every suite the newest report says passed.
	Conformance bool `json:"conformance,omitempty"`
	// Approval demands that a second person approves the answers of a post-mortem before it closes.
	Approval bool `json:"approval,omitempty"`
	// OpenFor is for how long a post-mortem may be open before no new version of the spec gets traffic; 0: for ever.
	OpenFor time.Duration `json:"openFor,omitempty"`

	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
	// Generation of the spec's route when the policy was set: a version that held traffic by then runs on without a signature.
	Generation uint64 `json:"generation"`
}

// Demands says that the policy asks for anything at all.
func (p Policy) Demands() bool { return len(p.SignedBy) > 0 || p.Conformance }

// Same says that two policies demand the same.
func (p Policy) Same(q Policy) bool {
	return p.Conformance == q.Conformance && p.Approval == q.Approval && p.OpenFor == q.OpenFor && slices.Equal(p.SignedBy, q.SignedBy)
}

// KeysFor are the keys one of which must have signed the version for its instances to be ready. A version that held traffic before the policy
// was set needs none: it may be what a rollback needs next.
func (p Policy) KeysFor(r Record) []string {
	if r.FirstWeight != 0 && r.FirstWeight <= p.Generation {
		return nil
	}
	return p.SignedBy
}
