package store

import (
	"cmp"
	"slices"
	"strings"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/versions"
)

// VersionQuery asks for some versions of one spec. Finding the first of them costs the logarithm of how many there are.
type VersionQuery struct {
	Spec string
	// Numbers with which the versions begin, such as "2.0"; empty: all.
	Numbers string
	// Standing that they have; empty: any.
	Standing versions.Standing
	// After is the version after which to go on, whether it exists or not; empty: from the beginning.
	After string
	// Newest first instead of oldest.
	Newest bool
	// Limit is the most to return; 0: all.
	Limit int
}

// SomeVersions answers a query, in semantic version order. It fails if Numbers begin no version.
func (v *View) SomeVersions(q VersionQuery) ([]versions.Record, error) {
	numbers, err := versions.SortKeyPrefix(q.Numbers)
	if err != nil {
		return nil, err
	}
	s := span{index: inOrder, prefix: within(q.Spec), backward: q.Newest, limit: q.Limit}
	if q.Standing != "" {
		s.index, s.prefix = byStanding, within(q.Spec, string(q.Standing))
	}
	if q.After != "" {
		s.from = s.prefix + versions.SortKey(q.After)
	}
	s.prefix += numbers
	return values[versions.Record](v.walk(versionRecords, s, "")), nil
}

// SomeSpecs returns the first specs after one whose names begin with the prefix; limit 0: all. They come by name, one that begins with
// another's and a hyphen before that.
func (v *View) SomeSpecs(prefix, after string, limit int) []string {
	txn := v.db.Txn(false)
	var names []string
	from := ""
	if after != "" {
		from = afterAll(within(after))
	}
	for limit == 0 || len(names) < limit {
		rows := walk(txn, versionRecords, span{index: byPath, prefix: path(prefix), from: from, limit: 1})
		if len(rows) == 0 {
			break
		}
		name := firstElement(rows[0].path)
		names = append(names, name)
		from = afterAll(within(name))
	}
	return names
}

// LastGenerations returns the newest generations of the spec's route, newest first.
func (v *View) LastGenerations(spec string, limit int) []routing.Route {
	return values[routing.Route](v.walk(history, span{index: byPath, prefix: within(spec), backward: true, limit: limit}, ""))
}

// UnfinishedDrains returns the drains of the spec in which executions may still run; of all specs if it is empty.
func (v *View) UnfinishedDrains(spec string) []drain.Drain {
	s := span{index: unfinished}
	if spec != "" {
		s.prefix = within(spec)
	}
	return values[drain.Drain](v.walk(drains, s, ""))
}

// OpenPostMortems returns the records that nobody has closed, newest first.
func (r reader) OpenPostMortems() []postmortem.Record {
	return values[postmortem.Record](r.walk(postMortems, span{index: unfinished, backward: true}, fullKey(postMortems, "")))
}

// AllInstances returns the instances of all specs, by id.
func (v *View) AllInstances() []routing.Instance {
	return values[routing.Instance](v.list(instances, ""))
}

// Recorded returns the versions of a spec (empty: of all) of which records of executions are kept: failures, acts or both. It reads one record
// of each.
func (v *View) Recorded(spec string) []versions.Ref {
	txn := v.db.Txn(false)
	var all []versions.Ref
	prefix := ""
	if spec != "" {
		prefix = within(spec)
	}
	for _, k := range []*kind{failures, acts, settled} {
		for from := ""; ; {
			rows := walk(txn, k, span{index: byPath, prefix: prefix, from: from, limit: 1})
			if len(rows) == 0 {
				break
			}
			elements := strings.SplitN(rows[0].path, "/", 3)
			if b, ok := rows[0].value.(FailureBatch); ok {
				all = append(all, versions.Ref{Spec: b.Spec, Version: b.Version})
			}
			from = afterAll(elements[0] + "/" + elements[1] + "/")
		}
	}
	slices.SortFunc(all, func(a, b versions.Ref) int {
		return cmp.Or(strings.Compare(a.Spec, b.Spec), versions.Compare(a.Version, b.Version))
	})
	return slices.Compact(all)
}
