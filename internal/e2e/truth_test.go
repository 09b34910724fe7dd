package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/versions"
)

// truth is everything that a command on one spec changes, as the control plane tells it. What goes on by itself afterwards is left out:
// how far a drain has come, and what a record has learned of it.
type truth struct {
	Generation uint64
	Kind       string
	Weights    map[string]uint32  // of versions that have any
	Standings  map[string]string  // by version
	Blamed     map[string]string  // by version, the record that quarantined it last
	Drains     map[string]drained // by version
	Records    map[string]rolled  // by id
	Frozen     string             // the record that froze the spec
}

// drained is an abandoned version's drain without its progress: "active" stands for every state in which the order stands.
type drained struct {
	Generation            uint64
	Target, Record, State string
}

// rolled is a post-mortem as far as commands write it.
type rolled struct {
	Generation    uint64
	Command       string
	Abandoned     []string
	Before, After map[string]uint32
	Undone        bool
	Overrides     int
	Cause         postmortem.Cause
	Target        string
}

const activeDrain = "active"

// truth reads a spec, and fails the test if what it reads contradicts itself.
func (w *world) truth(spec string) truth {
	w.t.Helper()
	got, err := w.client.GetSpec(w.t.Context(), connect.NewRequest(&operatorv1.GetSpecRequest{Spec: spec}))
	if err != nil {
		w.t.Fatalf("get %s: %v", spec, err)
	}
	listed, err := w.client.ListPostMortems(w.t.Context(), connect.NewRequest(&operatorv1.ListPostMortemsRequest{Spec: spec}))
	if err != nil {
		w.t.Fatalf("post-mortems of %s: %v", spec, err)
	}
	s := got.Msg.GetSpec()
	out := truth{
		Generation: s.GetGeneration(), Kind: got.Msg.GetHistory()[0].GetKind(), Weights: map[string]uint32{}, Standings: map[string]string{},
		Blamed: map[string]string{}, Drains: map[string]drained{}, Records: map[string]rolled{}, Frozen: s.GetFreeze().GetPostmortem(),
	}
	for _, v := range s.GetVersions() {
		if v.GetWeight() > 0 {
			out.Weights[v.GetVersion()] = v.GetWeight()
		}
		out.Standings[v.GetVersion()] = v.GetStanding()
		if v.GetPostmortem() != "" {
			out.Blamed[v.GetVersion()] = v.GetPostmortem()
		}
	}
	for _, d := range s.GetDrains() {
		if drain.Kind(d.GetKind()) != drain.KindRollback { // listed only until it has ended
			if out.Weights[d.GetVersion()] > 0 {
				w.t.Fatalf("%s has weight and drains for having been replaced: %v", d.GetVersion(), d)
			}
			continue
		}
		state := d.GetState()
		if (drain.Drain{State: drain.State(state)}).Active() {
			state = activeDrain
		}
		out.Drains[d.GetVersion()] = drained{Generation: d.GetGeneration(), Target: d.GetTarget(), Record: d.GetPostmortem(), State: state}
	}
	for _, pm := range listed.Msg.GetPostmortems() {
		var r postmortem.Record
		if err := json.Unmarshal([]byte(pm.GetJson()), &r); err != nil {
			w.t.Fatalf("record %s: %v", pm.GetId(), err)
		}
		out.Records[r.ID] = recordTruth(r, spec)
	}
	if err := out.agrees(got.Msg.GetHistory()); err != nil {
		w.t.Fatalf("%s contradicts itself: %v\n%+v", spec, err, out)
	}
	return out
}

func recordTruth(r postmortem.Record, spec string) rolled {
	b, _ := r.Rollback(spec)
	out := rolled{
		Generation: b.Generation, Command: b.Command, Before: map[string]uint32{}, After: map[string]uint32{}, Undone: r.Undone != nil,
		Overrides: len(r.Overrides), Target: b.Target,
	}
	for _, a := range b.Abandoned {
		out.Abandoned = append(out.Abandoned, a.Version)
	}
	for _, s := range b.Before {
		out.Before[s.Version] = s.BasisPoints
	}
	for _, s := range b.After {
		out.After[s.Version] = s.BasisPoints
	}
	if r.Closing != nil {
		out.Cause = r.Closing.Cause
	}
	return out
}

// agrees checks what holds in every state between two commands: a rollback has its generation, quarantine, drain and record, or none of
// them. history is newest first and may be cut off at its old end.
func (s truth) agrees(history []*operatorv1.Change) error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if history[0].GetGeneration() != s.Generation || !maps.Equal(weightsOf(history[0]), s.Weights) {
		wrong("generation %d gives %v, but generation %d with %v is the newest in the history", s.Generation, s.Weights, history[0].GetGeneration(), weightsOf(history[0]))
	}
	for i, h := range history {
		if h.GetGeneration() != s.Generation-uint64(i) {
			wrong("the history has generation %d where %d should be", h.GetGeneration(), s.Generation-uint64(i))
		}
		r, ok := s.Records[h.GetPostmortem()]
		switch {
		case h.GetKind() == "rollback" && (!ok || r.Generation != h.GetGeneration() || !slices.Equal(r.Abandoned, h.GetAbandoned()) || !maps.Equal(r.After, weightsOf(h))):
			wrong("generation %d is a rollback that abandons %v, its record %q is %+v", h.GetGeneration(), h.GetAbandoned(), h.GetPostmortem(), r)
		case h.GetKind() == "undo" && (!ok || !r.Undone):
			wrong("generation %d undoes %q, which does not say so", h.GetGeneration(), h.GetPostmortem())
		}
		if h.GetKind() == "rollback" && i+1 < len(history) && !maps.Equal(r.Before, weightsOf(history[i+1])) {
			wrong("record %s says that %v was before it, the history %v", h.GetPostmortem(), r.Before, weightsOf(history[i+1]))
		}
	}
	oldest := history[len(history)-1].GetGeneration()
	for id, r := range s.Records {
		if r.Generation > s.Generation || r.Generation >= oldest && history[s.Generation-r.Generation].GetPostmortem() != id {
			wrong("record %s is of generation %d, which is not its rollback", id, r.Generation)
		}
	}
	for version, standing := range s.Standings {
		d := s.Drains[version]
		quarantined := standing == string(versions.Quarantined)
		if quarantined != (d.State == activeDrain) || quarantined && (d.Record != s.Blamed[version] || s.Records[d.Record].Cause != "") {
			wrong("%s is %s by %q, its drain is %+v, the record %+v", version, standing, s.Blamed[version], d, s.Records[d.Record])
		}
		if r, ok := s.Records[d.Record]; d.State != "" && (!ok || r.Generation != d.Generation || !slices.Contains(r.Abandoned, version) || r.Target != d.Target) {
			wrong("the drain of %s is %+v, its record %+v", version, d, r)
		}
		if d.State == activeDrain && s.Weights[version] > 0 {
			wrong("%s has %d basis points and drains: %+v", version, s.Weights[version], d)
		}
	}
	return errors.Join(errs...)
}

func weightsOf(c *operatorv1.Change) map[string]uint32 {
	out := map[string]uint32{}
	for _, x := range c.GetAfter() {
		out[x.GetVersion()] = x.GetBasisPoints()
	}
	return out
}

// clone lets a model change a copy. The maps inside records are never changed.
func (s truth) clone() truth {
	s.Weights, s.Standings, s.Blamed = maps.Clone(s.Weights), maps.Clone(s.Standings), maps.Clone(s.Blamed)
	s.Drains, s.Records = maps.Clone(s.Drains), maps.Clone(s.Records)
	return s
}
