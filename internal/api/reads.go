package api

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/store"
)

// ListVersions of one spec, newest first.
func (s *Server) ListVersions(_ context.Context, req *connect.Request[operatorv1.ListVersionsRequest]) (*connect.Response[operatorv1.ListVersionsResponse], error) {
	view := s.Store.View()
	name := req.Msg.GetSpec()
	if err := exists(view, name); err != nil {
		return nil, err
	}
	out := s.versionsOf(view, name)
	slices.Reverse(out)
	return connect.NewResponse(&operatorv1.ListVersionsResponse{Versions: out}), nil
}

func exists(view *store.View, spec string) error {
	if len(view.Versions(spec)) > 0 {
		return nil
	}
	next := "specctl publish DIR"
	if names := view.Specs(); len(names) > 0 {
		next = "specctl   (there is: " + strings.Join(names[:min(len(names), 8)], ", ") + ")"
	}
	return &control.NotFound{Refused: control.Refused{Why: "spec " + spec + " does not exist", Next: next}}
}

// GetFleet shows every spec, trouble first.
func (s *Server) GetFleet(context.Context, *connect.Request[operatorv1.GetFleetRequest]) (*connect.Response[operatorv1.GetFleetResponse], error) {
	view := s.Store.View()
	out := &operatorv1.GetFleetResponse{}
	for _, name := range view.Specs() {
		out.Specs = append(out.Specs, s.specOf(view, name))
	}
	slices.SortStableFunc(out.Specs, func(a, b *operatorv1.Spec) int {
		if d := len(b.GetTrouble()) - len(a.GetTrouble()); d != 0 {
			return d
		}
		return b.GetChangedAt().AsTime().Compare(a.GetChangedAt().AsTime())
	})
	for _, p := range s.Discovery.Proxies() {
		out.ProxiesKnown++
		if p.Connected {
			out.ProxiesConnected++
		}
	}
	for _, r := range view.PostMortems() {
		if r.Open() {
			out.PostmortemsOpen++
		}
	}
	return connect.NewResponse(out), nil
}

// GetSpec answers at once, or when the store has moved past after_revision.
func (s *Server) GetSpec(ctx context.Context, req *connect.Request[operatorv1.GetSpecRequest]) (*connect.Response[operatorv1.GetSpecResponse], error) {
	if after := req.Msg.GetAfterRevision(); after > 0 {
		waitCtx, cancel := context.WithTimeout(ctx, waitOf(req.Msg.GetWait()))
		_, _ = s.Store.Wait(waitCtx, int64(after)) // nothing new in time is an answer too
		cancel()
	}
	view := s.Store.View()
	name := req.Msg.GetSpec()
	if err := exists(view, name); err != nil {
		return nil, err
	}
	out := &operatorv1.GetSpecResponse{Spec: s.specOf(view, name), Revision: uint64(view.Revision())}
	for _, r := range slices.Backward(view.History(name)) {
		out.History = append(out.History, routeOf(r))
		if len(out.History) == 20 {
			break
		}
	}
	return connect.NewResponse(out), nil
}

// ListExecutions lists what runs, or what failed.
func (s *Server) ListExecutions(_ context.Context, req *connect.Request[operatorv1.ListExecutionsRequest]) (*connect.Response[operatorv1.ListExecutionsResponse], error) {
	view := s.Store.View()
	name := req.Msg.GetSpec()
	if err := exists(view, name); err != nil {
		return nil, err
	}
	out := &operatorv1.ListExecutionsResponse{}
	found := false
	for _, r := range view.Versions(name) {
		if v := req.Msg.GetVersion(); v != "" && v != r.Version {
			continue
		}
		found = true
		if req.Msg.GetFailed() {
			batches := view.Failures(name, r.Version)
			for _, x := range control.Failed(batches) {
				out.Executions = append(out.Executions, failureOf(x))
			}
			for _, b := range batches {
				out.Omitted += b.Omitted
			}
			continue
		}
		for _, x := range s.Fleet.Running(name, r.Version) {
			out.Executions = append(out.Executions, runningOf(r.Version, x))
		}
	}
	if !found {
		return nil, &control.NotFound{Refused: control.Refused{Why: "version " + req.Msg.GetVersion() + " of " + name + " is not published", Next: "specctl versions " + name}}
	}
	slices.SortStableFunc(out.Executions, func(a, b *operatorv1.Execution) int {
		return a.GetStartedAt().AsTime().Compare(b.GetStartedAt().AsTime())
	})
	return connect.NewResponse(out), nil
}

func runningOf(version string, r fleet.Running) *operatorv1.Execution {
	x := r.Execution
	return &operatorv1.Execution{
		Id: x.GetId(), Key: x.GetKey(), Version: version, Instance: r.Instance, Method: x.GetMethod(), Path: x.GetPath(), StartedAt: x.GetStartedAt(), EndedAt: x.GetEndedAt(),
		Effects: x.GetEffects(), Outcome: x.GetOutcome(), Reason: x.GetOutcomeReason(), Disposition: x.GetDisposition(), Why: x.GetWhy(),
		RouteGeneration: x.GetRouteGeneration(), Status: x.GetStatus(), Tools: x.GetTools(), Skill: x.GetSkill(),
	}
}

// ListProxies shows what every Envoy acknowledged.
func (s *Server) ListProxies(context.Context, *connect.Request[operatorv1.ListProxiesRequest]) (*connect.Response[operatorv1.ListProxiesResponse], error) {
	out := &operatorv1.ListProxiesResponse{}
	for _, p := range s.Discovery.Proxies() {
		out.Proxies = append(out.Proxies, proxyOf(p))
	}
	return connect.NewResponse(out), nil
}

func proxyOf(p discovery.ProxyState) *operatorv1.Proxy {
	out := &operatorv1.Proxy{Node: p.Node, Version: p.Version, Connected: p.Connected, LastSeen: stamp(p.LastSeen), Refusal: p.Refusal}
	for _, s := range p.Specs {
		out.Specs = append(out.Specs, &operatorv1.ProxySpec{Spec: s.Spec, AckedGeneration: s.Generation, AckedAt: stamp(s.AckedAt)})
	}
	return out
}

// ListPostMortems, newest first.
func (s *Server) ListPostMortems(_ context.Context, req *connect.Request[operatorv1.ListPostMortemsRequest]) (*connect.Response[operatorv1.ListPostMortemsResponse], error) {
	out := &operatorv1.ListPostMortemsResponse{}
	view := s.Store.View()
	for _, r := range view.PostMortems() {
		if want := req.Msg.GetSpec(); want == "" || slices.Contains(r.Specs, want) {
			out.Postmortems = append(out.Postmortems, postMortemOf(control.WithActs(view, s.Fleet, control.Counted(view, r))))
		}
	}
	return connect.NewResponse(out), nil
}

// GetPostMortem shows one record.
func (s *Server) GetPostMortem(_ context.Context, req *connect.Request[operatorv1.GetPostMortemRequest]) (*connect.Response[operatorv1.GetPostMortemResponse], error) {
	view := s.Store.View()
	record, ok := view.PostMortem(req.Msg.GetId())
	if !ok {
		return nil, &control.NotFound{Refused: control.Refused{Why: "post-mortem " + req.Msg.GetId() + " does not exist", Next: "specctl postmortem list"}}
	}
	return connect.NewResponse(&operatorv1.GetPostMortemResponse{Postmortem: postMortemOf(control.WithActs(view, s.Fleet, control.Counted(view, record)))}), nil
}
