package api

import (
	"context"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/control"
)

// ListEffects lists what a version's executions did to the world, running ones included.
func (s *Server) ListEffects(_ context.Context, req *connect.Request[operatorv1.ListEffectsRequest]) (*connect.Response[operatorv1.ListEffectsResponse], error) {
	view := s.Store.View()
	name := req.Msg.GetSpec()
	if err := exists(view, name); err != nil {
		return nil, err
	}
	out := &operatorv1.ListEffectsResponse{}
	found := false
	for _, r := range view.Versions(name) {
		if v := req.Msg.GetVersion(); v != "" && v != r.Version {
			continue
		}
		found = true
		acts, omitted := control.Acts(view, s.Fleet, name, r.Version)
		out.Omitted += omitted
		for _, a := range acts {
			out.Effects = append(out.Effects, actOf(r.Version, a))
		}
		for _, c := range control.CountActs(acts) {
			out.Counts = append(out.Counts, &operatorv1.EffectCount{Version: r.Version, Class: string(c.Class), Acts: uint64(c.Acts), Executions: uint64(c.Executions)})
		}
	}
	if !found {
		return nil, &control.NotFound{Refused: control.Refused{Why: "version " + req.Msg.GetVersion() + " of " + name + " is not published", Next: "specctl versions " + name}}
	}
	return connect.NewResponse(out), nil
}

func actOf(version string, a control.Act) *operatorv1.Effect {
	x := a.Execution
	return &operatorv1.Effect{
		Version: version, Execution: x.ID, ExecutionKey: x.Key, Instance: x.Instance, Tool: a.Tool, Class: string(a.Class), Key: a.Key, Compensation: a.Compensation,
		At: stamp(a.At), Source: string(a.Source), Outcome: x.Outcome, Reason: x.Reason, Disposition: string(x.Disposition), Running: a.Running,
	}
}
