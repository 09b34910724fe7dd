package api

import (
	"slices"
	"strings"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
)

// Record is one post-mortem as it reads now.
func (s *Server) Record(id string) (postmortem.Record, error) { return s.recordIn(s.Store.View(), id) }

// Figures are what follows from a record's evidence.
func (s *Server) Figures(r postmortem.Record) []postmortem.Found { return s.figures.Of(r) }

func (s *Server) recordIn(view *store.View, id string) (postmortem.Record, error) {
	record, ok := view.PostMortem(id)
	if !ok {
		return record, &control.NotFound{Refused: control.Refused{Why: "post-mortem " + id + " does not exist", Next: "specctl postmortem list"}}
	}
	texts := map[string]string{}
	for _, p := range view.Personal(id) {
		texts[p.Digest] = p.Text
	}
	return control.WithActs(view, s.Fleet, control.Counted(view, record)).WithTexts(texts), nil
}

// Records are the post-mortems of a spec, or all of them, newest first, as they read now.
func (s *Server) Records(spec string) []postmortem.Record {
	view := s.Store.View()
	var out []postmortem.Record
	for _, r := range view.PostMortems() {
		if spec == "" || slices.Contains(r.Specs, spec) {
			out = append(out, control.WithActs(view, s.Fleet, control.Counted(view, r)))
		}
	}
	return out
}

// OpenRecords are the post-mortems that wait for their answers, as they are kept.
func (s *Server) OpenRecords() []postmortem.Record { return s.Store.View().OpenPostMortems() }

// ChainHead is the newest link of the chain of all records' events.
func (s *Server) ChainHead() postmortem.Head { return s.Store.View().ChainHead() }

// Reach is GetEffect for who only looks: it does not wait, and notes nothing.
func (s *Server) Reach(spec string, generation uint64) (*operatorv1.GetEffectResponse, error) {
	e, err := s.Control.Reach(spec, generation)
	if err != nil {
		return nil, err
	}
	return effectOf(e), nil
}

// Standpoint is whose view of the fleet reads show.
type Standpoint struct {
	// Replica is this process's name and Leader that of the one that runs the loops which only one may run; both empty if it is the only one.
	Replica, Leader string
	// Adrift: this replica has lost its lease in etcd, so what it shows may be old.
	Adrift bool
	// Leaderless: there are replicas, and none of them leads.
	Leaderless bool
}

// Standpoint tells whether this replica is in touch with the others.
func (s *Server) Standpoint() Standpoint {
	self, changed := s.Store.Self()
	if changed == nil {
		return Standpoint{}
	}
	out := Standpoint{Adrift: self == "", Leaderless: true}
	all := s.Store.View().Replicas()
	slices.SortFunc(all, func(a, b routing.Replica) int { return strings.Compare(a.ID, b.ID) })
	for _, r := range all {
		if r.ID == self {
			out.Replica = r.Name
		}
		if r.Leader {
			out.Leader, out.Leaderless = r.Name, false
		}
	}
	return out
}
