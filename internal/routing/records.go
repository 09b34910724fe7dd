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
	// KindTarget changes which headers lead to which version, and no weight.
	KindTarget Kind = "target"
	// KindShadow begins or ends a shadow, and changes no weight.
	KindShadow Kind = "shadow"
)

// Moves says that generations of the kind are about weights.
func (k Kind) Moves() bool { return k != KindTarget && k != KindShadow }

// Route is one spec's traffic split at one generation. The newest is in force; all are kept.
type Route struct {
	Spec       string `json:"spec"`
	Generation uint64 `json:"generation"`
	// Splits holds only versions with weight, in the order they first held weight.
	Splits []Split `json:"splits"`
	// HeaderTargets go before the splits, in this order; carried from generation to generation.
	HeaderTargets []HeaderTarget `json:"headerTargets,omitempty"`
	// Shadow is nil while no request is copied.
	Shadow *Shadow   `json:"shadow,omitempty"`
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
	// Transport is how it takes them.
	Transport Transport `json:"transport,omitempty"`
	Health    Health    `json:"health"`
	// Reason says why it is not ready.
	Reason       string    `json:"reason,omitempty"`
	RegisteredAt time.Time `json:"registeredAt"`
}

// Transport is how a sidecar takes requests.
type Transport string

const (
	Plain Transport = ""
	// TLS: the sidecar shows a certificate.
	TLS Transport = "tls"
	// MutualTLS: and wants one of its caller.
	MutualTLS Transport = "mtls"
)

// Transports are all of them, each demanding more of the caller than the one before.
var Transports = []Transport{Plain, TLS, MutualTLS}

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
	// Replica that it is connected to, by id; empty: to none, or the control plane is alone.
	Replica string `json:"replica,omitempty"`
	// Listen is where it takes requests, host:port, as far as that can be told from here; empty: unknown.
	Listen string `json:"listen,omitempty"`
	// Forgotten says that somebody vouches for it serving nobody any more; nil: nobody does, or it has come back since.
	Forgotten *Forgotten `json:"forgotten,omitempty"`
}

// Forgotten is who vouches for a proxy's end, and why.
type Forgotten struct {
	At  time.Time `json:"at"`
	By  string    `json:"by"`
	Why string    `json:"why,omitempty"`
}

// Replica is one process of a control plane of several, for as long as it lives.
type Replica struct {
	// ID is another one whenever the others may have taken it for dead.
	ID string `json:"id"`
	// Name is for people.
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
	// Leader runs the loops that only one may run.
	Leader bool `json:"leader,omitempty"`
}

// Acks is what the proxies that are connected to one replica said of one spec's route. It is as large for a million proxies as for a few
// hundred. It goes with its replica.
type Acks struct {
	Spec    string `json:"spec"`
	Replica string `json:"replica"`
	// Proxies are the slowest, lowest generation first, then by node: at most MaxAcks.
	Proxies []ProxyAck `json:"proxies"`
	// More counts the others by the generation that their word proves.
	More map[uint64]int `json:"more,omitempty"`
	// Marked counts those of them whose acknowledged route has a rehearsal, by its mark.
	Marked map[string]int `json:"marked,omitempty"`
}

// MaxAcks is how many proxies an Acks names.
const MaxAcks = 200

// ProxyAck is one proxy's word.
type ProxyAck struct {
	Node string `json:"node"`
	// Generation acknowledged, and when; 0: none yet, or it has not said.
	Generation uint64    `json:"generation"`
	At         time.Time `json:"at,omitzero"`
	// Refusal is its own message if it refused what came later, of RefusedGeneration; 0: of the spec's clusters or endpoints.
	Refusal           string `json:"refusal,omitempty"`
	RefusedGeneration uint64 `json:"refusedGeneration,omitempty"`
	// Mark of the rehearsal's round that is in the acknowledged route; empty: there is none in it.
	Mark string `json:"mark,omitempty"`
}

// Proven is the newest generation that its word proves. A route can change within a generation, as when a version's pin comes on top: who
// acknowledged the one and refuses the other does not have the generation as it is.
func (a ProxyAck) Proven() uint64 {
	if a.Refusal != "" && a.RefusedGeneration > 0 && a.RefusedGeneration <= a.Generation {
		return a.RefusedGeneration - 1
	}
	return a.Generation
}
