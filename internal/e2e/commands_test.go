package e2e

import (
	"context"
	"fmt"
	"maps"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/versions"
)

// The versions that commands move weight between. Rollbacks abandon the second.
const (
	older = "1.0.0"
	newer = "1.1.0"
)

// command is one change of the route, and the model's word for what is true once it is done.
type command struct {
	kind string
	run  func(ctx context.Context, w *world) error
	then truth
}

// commands lists every kind of command that is possible in a state. share is what a split gives the newer version, in basis points.
func (s truth) commands(spec string, share uint32) []command {
	var out []command
	add := func(kind string, then truth, run func(ctx context.Context, w *world) error) {
		out = append(out, command{kind, run, then})
	}
	all := func(version string) map[string]uint32 { return map[string]uint32{version: routing.Full} }
	split := map[string]uint32{older: routing.Full - share, newer: share}
	deploy := func(version string, over *operatorv1.Override) func(context.Context, *world) error {
		return func(ctx context.Context, w *world) error {
			_, err := w.client.Deploy(ctx, connect.NewRequest(&operatorv1.DeployRequest{Refs: []*operatorv1.Ref{{Spec: spec, Version: version}}, Override: over}))
			return err
		}
	}
	weights := func(to map[string]uint32) func(context.Context, *world) error {
		return func(ctx context.Context, w *world) error {
			req := &operatorv1.SetWeightsRequest{Spec: spec}
			for version, points := range to {
				req.Weights = append(req.Weights, &operatorv1.Weight{Version: version, BasisPoints: points})
			}
			_, err := w.client.SetWeights(ctx, connect.NewRequest(req))
			return err
		}
	}
	id := s.Drains[newer].Record
	quarantined := s.Standings[newer] == string(versions.Quarantined)
	if quarantined {
		add("override", s.overridden(id).moved("deploy", all(newer)), deploy(newer, &operatorv1.Override{Postmortem: id, Reason: "test"}))
		if s.Records[id].Generation == s.Generation {
			add("undo", s.undone(id), func(ctx context.Context, w *world) error {
				_, err := w.client.Undo(ctx, connect.NewRequest(&operatorv1.UndoRequest{Postmortem: id}))
				return err
			})
		}
		return out
	}
	if s.Weights[newer] < routing.Full {
		add("deploy", s.moved("deploy", all(newer)), deploy(newer, nil))
	}
	if s.Weights[newer] != share {
		add("weights", s.moved("weights", split), weights(split))
	}
	if s.Weights[newer] > 0 {
		add("rollback", s.moved("rollback", all(older)), func(ctx context.Context, w *world) error {
			_, err := w.client.Rollback(ctx, connect.NewRequest(&operatorv1.RollbackRequest{Targets: []*operatorv1.RollbackTarget{{Spec: spec}}}))
			return err
		})
		add("deploy back", s.moved("deploy", all(older)), deploy(older, nil))
		add("weights back", s.moved("weights", all(older)), weights(all(older)))
	}
	return out
}

// moved is the state after a command that gives weights. Whatever its name, it is a rollback if the newer version loses all it had.
func (s truth) moved(command string, to map[string]uint32) truth {
	n := s.clone()
	n.Generation, n.Kind, n.Weights = s.Generation+1, command, to
	if to[newer] > 0 && s.Standings[newer] == string(versions.Published) {
		n.Standings[newer] = string(versions.Candidate)
	}
	if s.Weights[older] > 0 && to[older] == 0 {
		n.Standings[older] = string(versions.Good) // it held everything once, and is promoted away
	}
	if s.Weights[newer] > 0 && to[newer] == 0 {
		id := fmt.Sprintf("PM-%d", len(s.Records)+1)
		n.Kind, n.Frozen = "rollback", id
		n.Standings[newer], n.Blamed[newer] = string(versions.Quarantined), id
		n.Drains[newer] = drained{Generation: n.Generation, Target: older, Record: id, State: activeDrain}
		n.Records[id] = rolled{Generation: n.Generation, Command: command, Abandoned: []string{newer}, Before: s.Weights, After: to, Target: older}
	}
	return n
}

// undone is the state after an undo of the rollback in force.
func (s truth) undone(id string) truth {
	n := s.clone()
	r := n.Records[id]
	r.Undone = true
	n.Records[id] = r
	n.Generation, n.Kind, n.Weights = s.Generation+1, "undo", maps.Clone(r.Before)
	n.Standings[newer] = string(versions.Candidate)
	n.lift(drain.Cancelled)
	return n
}

// overridden is the state of the quarantine once a deploy has named its record.
func (s truth) overridden(id string) truth {
	n := s.clone()
	r := n.Records[id]
	r.Overrides++
	n.Records[id] = r
	n.Standings[newer] = string(versions.Candidate)
	n.lift(drain.Superseded)
	return n
}

func (s truth) lift(state drain.State) {
	d := s.Drains[newer]
	d.State = string(state)
	s.Drains[newer] = d
}
