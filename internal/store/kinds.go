package store

import (
	"encoding/json"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/versions"
)

// kind is one sort of record: an element of the key, a table of the view.
type kind struct {
	name   string
	decode func([]byte) (any, error)
	// specs names the specs that a record concerns.
	specs func(any) []string
	// pool is the path of the record's pool; nil for kinds that are not indexed by pool.
	pool func(any) string
	// proxies marks the kinds that tell of proxies and of who serves them.
	proxies bool
	// indexes are further orders of the records, by name. A record whose text is empty is not in that one; no two have the same text.
	indexes map[string]func(any) string
}

// FailureBatch is one sidecar's report of failed executions. Batches are only ever added, and deleted together.
type FailureBatch struct {
	Spec     string `json:"spec"`
	Version  string `json:"version"`
	Instance string `json:"instance"`
	// Seq tells the batches of one instance apart and orders them.
	Seq uint64 `json:"seq"`
	// Omitted counts records older than this batch that were dropped to keep within bounds.
	Omitted    uint64    `json:"omitted,omitempty"`
	Executions []Failure `json:"executions"`
}

// ActBatch is one sidecar's report of executions that did more than read and did not fail. It is kept as a FailureBatch is.
type ActBatch = FailureBatch

// Failure is one execution that is kept, as its sidecar saw it end: it failed, a rollback decided over it, or it did more than read.
type Failure struct {
	ID string `json:"id"`
	// Key is the client's own id or idempotency key, if it sent one.
	Key       string    `json:"key,omitempty"`
	Instance  string    `json:"instance"`
	Version   string    `json:"version"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	StartedAt time.Time `json:"startedAt"`
	EndedAt   time.Time `json:"endedAt,omitzero"`
	// Effects is the worst class seen, Acts what was done, ActsOmitted how much more of it.
	Effects     drain.Effects `json:"effects"`
	Acts        []Act         `json:"acts,omitempty"`
	ActsOmitted uint64        `json:"actsOmitted,omitempty"`
	// Tools that it has used, and the A2A skill that it asked for.
	Tools []string `json:"tools,omitempty"`
	Skill string   `json:"skill,omitempty"`
	// Outcome is success, failure, or empty while unknown.
	Outcome string `json:"outcome,omitempty"`
	// Reason is the agent's own statement of why it failed.
	Reason string `json:"reason,omitempty"`
	// Status is the HTTP status sent to the client, 0 if none was.
	Status int `json:"status,omitempty"`
	// Disposition and Why are set where an order decided over it.
	Disposition drain.Disposition `json:"disposition,omitempty"`
	Why         string            `json:"why,omitempty"`
	// RouteGeneration assigned it; 0 if it was pinned, handed over or came past Envoy.
	RouteGeneration uint64 `json:"routeGeneration,omitempty"`
}

// Act is one act on the world that an execution reported.
type Act struct {
	Tool         string        `json:"tool"`
	Class        drain.Effects `json:"class"`
	Key          string        `json:"key,omitempty"`
	Compensation string        `json:"compensation,omitempty"`
	At           time.Time     `json:"at,omitzero"`
	// Source says how it is known.
	Source drain.Source `json:"source,omitempty"`
}

// HostClaim gives a host name to one spec, for ever: clients of one spec must never reach another.
type HostClaim struct {
	Host string `json:"host"`
	Spec string `json:"spec"`
}

// counter numbers records.
type counter struct {
	Last uint64 `json:"last"`
}

// secret holds random bytes shared by all replicas.
type secret struct {
	Bytes []byte `json:"bytes"`
}

var (
	versionRecords = newKind("versions", func(r versions.Record) []string { return []string{r.Spec} })
	routes         = newKind("routes", func(r routing.Route) []string { return []string{r.Spec} })
	history        = newKind("history", func(r routing.Route) []string { return []string{r.Spec} })
	instances      = newPooled("instances", func(i routing.Instance) (spec, version string) { return i.Spec, i.Version }, func(i routing.Instance) string { return i.ID })
	drains         = newKind("drains", func(d drain.Drain) []string { return []string{d.Spec} })
	postMortems    = newKind("postmortems", func(p postmortem.Record) []string { return p.Specs })
	replicas       = newKind("replicas", func(routing.Replica) []string { return nil })
	acks           = newKind("acks", func(routing.Acks) []string { return nil })
	proxies        = newKind("proxies", func(routing.Proxy) []string { return nil })
	failures       = newKind("failures", func(b FailureBatch) []string { return []string{b.Spec} })
	acts           = newKind("acts", func(b ActBatch) []string { return []string{b.Spec} })
	settled        = newKind("settled", func(ActBatch) []string { return nil })
	hosts          = newKind("hosts", func(h HostClaim) []string { return []string{h.Spec} })
	counters       = newKind("counters", func(counter) []string { return nil })
	secrets        = newKind("secrets", func(secret) []string { return nil })

	kinds = byName(
		versionRecords.indexed(inOrder, orderOf).indexed(byStanding, standingOf).indexed(asExit, exitOf),
		drains.indexed(unfinished, unfinishedDrain), postMortems.indexed(unfinished, openPostMortem),
		routes, history, instances, proxies.ofProxies(), replicas.ofProxies(), acks.ofProxies(), failures, acts, settled, hosts, counters, secrets, policies, policyHistory,
		interventions, rollouts, shadows, chain, chainHead, counted, shutdowns, exposures, personal, excerpts, alerts, webhooks,
	)
)

func newKind[T any](name string, specs func(T) []string) *kind {
	return &kind{
		name: name,
		decode: func(data []byte) (any, error) {
			var v T
			err := json.Unmarshal(data, &v)
			return v, err
		},
		specs: func(v any) []string { return specs(v.(T)) },
	}
}

// newPooled makes a kind whose records are members of a version's pool, and are indexed by it.
func newPooled[T any](name string, pool func(T) (spec, version string), id func(T) string) *kind {
	k := newKind(name, func(v T) []string {
		spec, _ := pool(v)
		return []string{spec}
	})
	k.pool = func(v any) string {
		spec, version := pool(v.(T))
		return path(spec, version, id(v.(T)))
	}
	return k
}

// ofProxies marks the kind, see View.ProxiesRevision.
func (k *kind) ofProxies() *kind {
	k.proxies = true
	return k
}

// indexed gives the kind one more order.
func (k *kind) indexed(name string, text func(any) string) *kind {
	if k.indexes == nil {
		k.indexes = map[string]func(any) string{}
	}
	k.indexes[name] = text
	return k
}

func byName(all ...*kind) map[string]*kind {
	m := make(map[string]*kind, len(all))
	for _, k := range all {
		m[k.name] = k
	}
	return m
}
