package store_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
)

// model is what the records of a few specs should be: maps, and nothing else.
type model struct {
	generations map[string]uint64
	pools       map[string]map[string][2]string // spec -> instance -> {version, health}
	drains      map[[2]string]uint64
	failures    map[[2]string]map[uint64]bool
}

func newModel() *model {
	return &model{
		generations: map[string]uint64{},
		pools:       map[string]map[string][2]string{},
		drains:      map[[2]string]uint64{},
		failures:    map[[2]string]map[uint64]bool{},
	}
}

func (m *model) clone() *model {
	c := &model{generations: maps.Clone(m.generations), drains: maps.Clone(m.drains), pools: map[string]map[string][2]string{}, failures: map[[2]string]map[uint64]bool{}}
	for spec, pool := range m.pools {
		c.pools[spec] = maps.Clone(pool)
	}
	for key, batches := range m.failures {
		c.failures[key] = maps.Clone(batches)
	}
	return c
}

// step is one random write, made in the store and in the model. It returns the spec that it touches, "" if it changes nothing.
func step(t *rapid.T, specs []string, tx *store.Tx, m *model) string {
	spec := rapid.SampledFrom(specs).Draw(t, "spec")
	version := rapid.SampledFrom([]string{"1.0.0", "1.0.0-rc.1", "10.0.0"}).Draw(t, "version")
	key := [2]string{spec, version}
	switch rapid.SampledFrom([]string{"route", "instance", "delete instance", "drain", "failures", "delete failures"}).Draw(t, "write") {
	case "route":
		m.generations[spec]++
		tx.PutRoute(route(spec, m.generations[spec], version))
	case "instance":
		// An id belongs to one version for ever, so it names it.
		id := fmt.Sprintf("%s/%s/%d", spec, version, rapid.IntRange(1, 3).Draw(t, "n"))
		health := rapid.SampledFrom([]routing.Health{routing.Starting, routing.Ready}).Draw(t, "health")
		if m.pools[spec] == nil {
			m.pools[spec] = map[string][2]string{}
		}
		m.pools[spec][id] = [2]string{version, string(health)}
		tx.PutInstance(routing.Instance{ID: id, Spec: spec, Version: version, Health: health})
	case "delete instance":
		id := fmt.Sprintf("%s/%s/%d", spec, version, rapid.IntRange(1, 3).Draw(t, "n"))
		_, there := m.pools[spec][id]
		delete(m.pools[spec], id)
		tx.DeleteInstance(id)
		if !there {
			return ""
		}
	case "drain":
		m.drains[key]++
		tx.PutDrain(drain.Drain{Spec: spec, Version: version, Generation: m.drains[key]})
	case "failures":
		seq := rapid.Uint64Range(1, 12).Draw(t, "seq")
		if m.failures[key] == nil {
			m.failures[key] = map[uint64]bool{}
		}
		m.failures[key][seq] = true
		tx.PutFailures(store.FailureBatch{Spec: spec, Version: version, Instance: "i", Seq: seq})
	case "delete failures":
		there := len(m.failures[key]) > 0
		delete(m.failures, key)
		tx.DeleteFailures(spec, version)
		if !there {
			return ""
		}
	}
	return spec
}

// same compares every list and every single record.
func (m *model) same(t *rapid.T, specs []string, r store.Reader) {
	for _, spec := range specs {
		current, ok := r.Route(spec)
		if want := m.generations[spec]; current.Generation != want || ok != (want > 0) || uint64(len(r.History(spec))) != want {
			t.Fatalf("%s is at generation %d with %d in its history, want %d", spec, current.Generation, len(r.History(spec)), want)
		}
		got := map[string][2]string{}
		for _, i := range r.Instances(spec) {
			got[i.ID] = [2]string{i.Version, string(i.Health)}
			if single, ok := r.Instance(i.ID); !ok || single != i {
				t.Fatalf("instance %s is %v alone and %v in the list", i.ID, single, i)
			}
			if !slices.Contains(r.InstancesOf(spec, i.Version), i) {
				t.Fatalf("instance %s is not in its version's pool", i.ID)
			}
		}
		if !maps.Equal(got, m.pools[spec]) {
			t.Fatalf("instances of %s are %v, want %v", spec, got, m.pools[spec])
		}
		for _, version := range []string{"1.0.0", "1.0.0-rc.1", "10.0.0"} {
			key := [2]string{spec, version}
			if d, _ := r.Drain(spec, version); d.Generation != m.drains[key] {
				t.Fatalf("drain of %v is of generation %d, want %d", key, d.Generation, m.drains[key])
			}
			var seqs []uint64
			for _, b := range r.Failures(spec, version) {
				seqs = append(seqs, b.Seq)
			}
			if want := slices.Sorted(maps.Keys(m.failures[key])); !slices.Equal(seqs, want) {
				t.Fatalf("failures of %v are %v, want %v", key, seqs, want)
			}
		}
	}
}

// TestAgainstModel commits and aborts random transactions and compares what a transaction sees, what the view shows after it, and which
// specs are told to have changed.
func TestAgainstModel(t *testing.T) {
	s := open(t, t.TempDir())
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		specs := []string{fmt.Sprintf("r%d", round), fmt.Sprintf("r%d-a", round)} // One name begins with the other.
		m := newModel()
		for range rapid.IntRange(1, 8).Draw(t, "transactions") {
			before, rev := m, s.View().Revision()
			next := m.clone()
			touched := map[string]bool{}
			abort := rapid.Bool().Draw(t, "abort")
			aborted := errors.New("aborted")
			_, err := s.Update(t.Context(), func(tx *store.Tx) error {
				for range rapid.IntRange(1, 6).Draw(t, "writes") {
					if spec := step(t, specs, tx, next); spec != "" {
						touched[spec] = true
					}
				}
				next.same(t, specs, tx)
				if abort {
					return aborted
				}
				return nil
			})
			if abort {
				if !errors.Is(err, aborted) {
					t.Fatal(err)
				}
				touched = nil
			} else {
				if err != nil {
					t.Fatal(err)
				}
				m = next
			}
			m.same(t, specs, s.View())
			changed, _, complete := s.Changed(rev)
			for _, spec := range specs {
				if !before.equal(m, spec) && !slices.Contains(changed, spec) {
					t.Fatalf("%s changed and is not told: %v", spec, changed)
				}
			}
			for _, spec := range changed {
				if !touched[spec] {
					t.Fatalf("%s is told to have changed and has not", spec)
				}
			}
			if !complete {
				t.Fatal("the change log has a gap")
			}
		}
	})
}

// equal says that two models hold the same of a spec.
func (m *model) equal(o *model, spec string) bool {
	same := m.generations[spec] == o.generations[spec] && maps.Equal(m.pools[spec], o.pools[spec])
	for _, version := range []string{"1.0.0", "1.0.0-rc.1", "10.0.0"} {
		key := [2]string{spec, version}
		same = same && m.drains[key] == o.drains[key] && maps.Equal(m.failures[key], o.failures[key])
	}
	return same
}
