// Package routing knows routes: how a spec's traffic is split over its versions, which changes are rollbacks, where a rollback goes,
// and the pins that keep a client on one version.
//
// Invariants: weights are basis points that sum to 10,000; generations only grow; a rollback's target first held weight earlier than what
// it abandons and is neither aborted, quarantined nor retired. The package is pure: no clock, no I/O, no goroutines.
package routing

import "time"

// Full is all of a spec's traffic, in basis points.
const Full = 10_000

// Split is one version's share.
type Split struct {
	Version     string `json:"version"`
	BasisPoints uint32 `json:"basisPoints"`
}

// Kind of change that made a generation.
type Kind string

const (
	KindDeploy   Kind = "deploy"
	KindWeights  Kind = "weights"
	KindRollback Kind = "rollback"
	KindUndo     Kind = "undo"
)

// Route is one spec's traffic split at one generation. The newest is in force; all are kept.
type Route struct {
	Spec       string `json:"spec"`
	Generation uint64 `json:"generation"`
	// Splits holds only versions with weight, in the order they first held weight.
	Splits []Split   `json:"splits"`
	Kind   Kind      `json:"kind"`
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	// Abandoned, Target and PostMortem are set on rollbacks.
	Abandoned  []string `json:"abandoned,omitempty"`
	Target     string   `json:"target,omitempty"`
	TargetWhy  string   `json:"targetWhy,omitempty"`
	PostMortem string   `json:"postMortem,omitempty"`
	// Freeze keeps automation from changing the spec; carried from generation to generation.
	Freeze *Freeze `json:"freeze,omitempty"`
}

// Weight of one version, in basis points.
func (r Route) Weight(version string) uint32 {
	for _, s := range r.Splits {
		if s.Version == version {
			return s.BasisPoints
		}
	}
	return 0
}

// Freeze is put on a spec by a rollback.
type Freeze struct {
	Since      time.Time `json:"since"`
	Until      time.Time `json:"until"`
	PostMortem string    `json:"postMortem"`
}

// Instance is one agent process with its sidecar, as stored: it outlives the silence of its control stream.
type Instance struct {
	ID      string `json:"id"`
	Spec    string `json:"spec"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
	// Address is host:port or unix:/path where the sidecar takes requests.
	Address string `json:"address"`
	Health  Health `json:"health"`
	// Reason says why it is not ready.
	Reason       string    `json:"reason,omitempty"`
	RegisteredAt time.Time `json:"registeredAt"`
}

// Health of an instance as its sidecar reports it, apart from weight and drain.
type Health string

const (
	// Starting: registered, not ready yet, or not ready any more. Gets no traffic.
	Starting Health = "starting"
	Ready    Health = "ready"
	// Leaving: gets no new work; what names it still reaches it.
	Leaving Health = "leaving"
)

// Proxy is one Envoy, remembered so that its silence can be told from its absence.
type Proxy struct {
	Node string `json:"node"`
	// Version is what the proxy says it is, such as envoy 1.40.0.
	Version  string    `json:"version"`
	LastSeen time.Time `json:"lastSeen"`
	// Specs whose RouteConfiguration it subscribed to, sorted.
	Specs []string `json:"specs"`
}
