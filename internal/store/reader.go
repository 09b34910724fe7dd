package store

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/versions"
)

// Reader is what both a View and a Tx answer. A Tx remembers what was asked and commits only if the answers still hold.
type Reader interface {
	// Revision is the one that all answers belong to.
	Revision() int64
	Version(spec, version string) (versions.Record, bool)
	// Versions of the spec in semantic version order, oldest first.
	Versions(spec string) []versions.Record
	// Specs that have a version, sorted.
	Specs() []string
	// Known says that the spec has a version.
	Known(spec string) bool
	// Newest version of the spec by semantic version order, deployed or not.
	Newest(spec string) (versions.Record, bool)
	// Relevant versions for a decision about the named ones: see there.
	Relevant(spec string, named []string) []versions.Record
	// Route in force.
	Route(spec string) (routing.Route, bool)
	// Routes in force, by spec.
	Routes() []routing.Route
	// History of the spec's routes, oldest first, the one in force last.
	History(spec string) []routing.Route
	// Generation of the spec's route.
	Generation(spec string, generation uint64) (routing.Route, bool)
	Instance(id string) (routing.Instance, bool)
	// Instances of the spec, by version and id.
	Instances(spec string) []routing.Instance
	// InstancesOf one version, by id.
	InstancesOf(spec, version string) []routing.Instance
	// Drain of the version: its newest.
	Drain(spec, version string) (drain.Drain, bool)
	// Drains of the spec, by version.
	Drains(spec string) []drain.Drain
	// AllDrains of every spec, by spec and version.
	AllDrains() []drain.Drain
	// Counted by an instance, when it was last stored.
	Counted(spec, version, instance string) (Counted, bool)
	// Shutdown of the instance: its newest.
	Shutdown(spec, version, instance string) (drain.Drain, bool)
	// Interventions of operators on executions of the version, by id; those that an instance has not answered.
	Interventions(spec, version string) []Intervention
	PendingInterventions(spec, version, instance string) []Intervention
	PostMortem(id string) (postmortem.Record, bool)
	// PostMortems, newest first.
	PostMortems() []postmortem.Record
	// OpenPostMortems that nobody has closed, newest first.
	OpenPostMortems() []postmortem.Record
	// ChainHead is the newest link of the chain of their events.
	ChainHead() postmortem.Head
	// Rollout of the spec: its newest; Rollouts are those of all specs, by spec.
	Rollout(spec string) (Rollout, bool)
	Rollouts() []Rollout
	Shadow(spec string) (Shadow, bool)
	Shadows() []Shadow
	// Proxies by node.
	Proxies() []routing.Proxy
	// Proxy by node.
	Proxy(node string) (routing.Proxy, bool)
	// Failures of the version, by instance and sequence number.
	Failures(spec, version string) []FailureBatch
	// Acts of the version, by instance and sequence number.
	Acts(spec, version string) []ActBatch
	// Settled executions of the version, by instance and sequence number: an order let them complete, and they neither failed nor did more than read.
	Settled(spec, version string) []FailureBatch
	// Excerpts of the version's failing executions, by execution.
	Excerpts(spec, version string) []Excerpt
	// HostOwner is the spec that a host name belongs to.
	HostOwner(host string) (spec string, ok bool)
	// Secret of the cluster: 32 bytes, the same for ever.
	Secret() []byte
}

// source is where a reader's rows come from.
type source interface {
	get(k *kind, path string) (*row, bool)
	list(k *kind, prefix string) []*row
	members(k *kind, prefix string) []*row
	// walk reads a span; mark is the prefix of the keys of which one is written whenever what is in the span changes.
	walk(k *kind, s span, mark string) []*row
}

// reader answers with typed records.
type reader struct{ source }

// Version returns one version's record.
func (r reader) Version(spec, version string) (versions.Record, bool) {
	return one[versions.Record](r, versionRecords, path(spec, version))
}

// Versions returns the spec's versions in semantic version order, oldest first.
func (r reader) Versions(spec string) []versions.Record {
	all := values[versions.Record](r.list(versionRecords, within(spec)))
	parsed := make(map[string]*semver.Version, len(all))
	for _, rec := range all {
		if v, err := semver.StrictNewVersion(rec.Version); err == nil {
			parsed[rec.Version] = v
		}
	}
	slices.SortStableFunc(all, func(a, b versions.Record) int {
		x, y := parsed[a.Version], parsed[b.Version]
		if x == nil || y == nil {
			return strings.Compare(a.Version, b.Version)
		}
		return x.Compare(y)
	})
	return all
}

// Specs returns the names of all specs that have a version, sorted. It reads one record of each.
func (r reader) Specs() []string {
	var names []string
	for at := ""; ; {
		rows := r.walk(versionRecords, span{index: byPath, from: at, limit: 1}, fullKey(versionRecords, ""))
		if len(rows) == 0 {
			slices.Sort(names)
			return names
		}
		name := firstElement(rows[0].path)
		names = append(names, name)
		at = afterAll(within(name))
	}
}

// Newest returns the spec's newest version by semantic version order, deployed or not.
func (r reader) Newest(spec string) (versions.Record, bool) {
	s := span{index: inOrder, prefix: within(spec), backward: true, limit: 1}
	for _, record := range values[versions.Record](r.walk(versionRecords, s, fullKey(versionRecords, within(spec)))) {
		return record, true
	}
	return versions.Record{}, false
}

// Known says that the spec has a version.
func (r reader) Known(spec string) bool {
	return len(r.walk(versionRecords, span{index: byPath, prefix: within(spec), limit: 1}, fullKey(versionRecords, within(spec)))) > 0
}

// Route returns the spec's route in force.
func (r reader) Route(spec string) (routing.Route, bool) {
	return one[routing.Route](r, routes, path(spec))
}

// Routes returns the routes in force, by spec.
func (r reader) Routes() []routing.Route { return values[routing.Route](r.list(routes, "")) }

// History returns all generations of the spec's route, oldest first.
func (r reader) History(spec string) []routing.Route {
	return values[routing.Route](r.list(history, within(spec)))
}

// Generation returns one generation of the spec's route.
func (r reader) Generation(spec string, generation uint64) (routing.Route, bool) {
	return one[routing.Route](r, history, path(spec, numbered(generation)))
}

// Instance returns one instance.
func (r reader) Instance(id string) (routing.Instance, bool) {
	return one[routing.Instance](r, instances, path(id))
}

// Instances returns the spec's instances, by version and id.
func (r reader) Instances(spec string) []routing.Instance {
	return values[routing.Instance](r.members(instances, within(spec)))
}

// InstancesOf returns one version's instances, by id.
func (r reader) InstancesOf(spec, version string) []routing.Instance {
	return values[routing.Instance](r.members(instances, within(spec, version)))
}

// Drain returns the version's newest drain.
func (r reader) Drain(spec, version string) (drain.Drain, bool) {
	return one[drain.Drain](r, drains, path(spec, version))
}

// Drains returns the spec's drains, by version.
func (r reader) Drains(spec string) []drain.Drain {
	return values[drain.Drain](r.list(drains, within(spec)))
}

// AllDrains returns the newest drain of every version that has one.
func (r reader) AllDrains() []drain.Drain { return values[drain.Drain](r.list(drains, "")) }

// PostMortem returns one record.
func (r reader) PostMortem(id string) (postmortem.Record, bool) {
	return one[postmortem.Record](r, postMortems, path(id))
}

// PostMortems returns all records, newest first.
func (r reader) PostMortems() []postmortem.Record {
	all := values[postmortem.Record](r.list(postMortems, ""))
	slices.SortStableFunc(all, func(a, b postmortem.Record) int {
		return cmp.Or(b.OpenedAt.Compare(a.OpenedAt), cmp.Compare(postMortemNumber(b.ID), postMortemNumber(a.ID)))
	})
	return all
}

// HostOwner returns the spec that a host name belongs to.
func (r reader) HostOwner(host string) (string, bool) {
	c, ok := one[HostClaim](r, hosts, path(host))
	return c.Spec, ok
}

// Proxies returns every proxy ever seen, by node.
func (r reader) Proxies() []routing.Proxy { return values[routing.Proxy](r.list(proxies, "")) }

// Proxy returns the record of one proxy.
func (r reader) Proxy(node string) (routing.Proxy, bool) {
	return one[routing.Proxy](r, proxies, path(node))
}

// Failures returns the version's failures, by instance and sequence number.
func (r reader) Failures(spec, version string) []FailureBatch {
	return values[FailureBatch](r.list(failures, within(spec, version, batches)))
}

// Acts returns what the version's executions did that did not fail, by instance and sequence number.
func (r reader) Acts(spec, version string) []ActBatch {
	return values[ActBatch](r.list(acts, within(spec, version, batches)))
}

// Settled returns the version's executions that an order let complete, and that neither failed nor did more than read.
func (r reader) Settled(spec, version string) []FailureBatch {
	return values[FailureBatch](r.list(settled, within(spec, version, batches)))
}

// Secret returns the cluster's secret, 32 bytes.
func (r reader) Secret() []byte {
	s, _ := one[secret](r, secrets, clusterSecret)
	return slices.Clone(s.Bytes)
}

// batches keeps failures apart from the mark of their deletion.
const batches = "batches"

// clusterSecret is the path of the only secret.
const clusterSecret = "cluster"

// one returns the record at a path.
func one[T any](r reader, k *kind, path string) (T, bool) {
	var none T
	found, ok := r.get(k, path)
	if !ok || found.value == nil {
		return none, false
	}
	return found.value.(T), true
}

// values returns the rows' legible records.
func values[T any](rows []*row) []T {
	all := make([]T, 0, len(rows))
	for _, r := range rows {
		if r.value != nil {
			all = append(all, r.value.(T))
		}
	}
	return all
}

// postMortemNumber is 1 for "PM-1", 0 for what was not numbered here.
func postMortemNumber(id string) uint64 {
	n, err := strconv.ParseUint(strings.TrimPrefix(id, "PM-"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
