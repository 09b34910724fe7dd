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
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// ListVersions of one spec, newest first, a page at a time.
func (s *Server) ListVersions(_ context.Context, req *connect.Request[operatorv1.ListVersionsRequest]) (*connect.Response[operatorv1.ListVersionsResponse], error) {
	view := s.Store.View()
	name := req.Msg.GetSpec()
	if err := exists(view, name); err != nil {
		return nil, err
	}
	size, err := sizeOf(req.Msg.GetPageSize())
	if err != nil {
		return nil, err
	}
	after := req.Msg.GetPageToken()
	if after != "" && versions.CheckVersion(after) != nil {
		return nil, badToken(after)
	}
	records, err := view.SomeVersions(store.VersionQuery{
		Spec: name, Numbers: req.Msg.GetPrefix(), Standing: versions.Standing(req.Msg.GetStanding()), After: after, Newest: true, Limit: size + 1,
	})
	if err != nil {
		return nil, invalid(err.Error())
	}
	out := &operatorv1.ListVersionsResponse{}
	if len(records) > size {
		records = records[:size]
		out.NextPageToken = records[size-1].Version
	}
	route, _ := view.Route(name)
	for _, r := range records {
		out.Versions = append(out.Versions, s.versionOf(view, route, r))
	}
	return connect.NewResponse(out), nil
}

func exists(view *store.View, spec string) error {
	if view.Known(spec) {
		return nil
	}
	next := "specctl publish DIR"
	if names := view.SomeSpecs("", "", 8); len(names) > 0 {
		next = "specctl   (there is: " + strings.Join(names, ", ") + ")"
	}
	return &control.NotFound{Refused: control.Refused{Why: "spec " + spec + " does not exist", Next: next}}
}

// GetFleet shows the specs, trouble first, a page at a time; by name where a prefix is asked for.
func (s *Server) GetFleet(_ context.Context, req *connect.Request[operatorv1.GetFleetRequest]) (*connect.Response[operatorv1.GetFleetResponse], error) {
	m := req.Msg
	size, err := sizeOf(m.GetPageSize())
	if err != nil {
		return nil, err
	}
	var after *row
	if m.GetPageToken() != "" && m.GetPrefix() == "" {
		if after, err = parseToken(m.GetPageToken()); err != nil {
			return nil, err
		}
	}
	names, next, total, troubled := s.overview.page(s, after, size)
	view := s.Store.View()
	if m.GetPrefix() != "" {
		next = ""
		if names = view.SomeSpecs(m.GetPrefix(), m.GetPageToken(), size+1); len(names) > size {
			names, next = names[:size], names[size-1]
		}
	}
	out := &operatorv1.GetFleetResponse{NextPageToken: next, SpecsTotal: uint32(total), SpecsInTrouble: uint32(troubled)}
	for _, name := range names {
		out.Specs = append(out.Specs, s.specOf(view, name))
	}
	s.overview.shown(out.Specs)
	for _, p := range s.Discovery.Proxies() {
		out.ProxiesKnown++
		if p.Connected {
			out.ProxiesConnected++
		}
	}
	out.PostmortemsOpen = uint32(len(view.OpenPostMortems()))
	return connect.NewResponse(out), nil
}

// shownGenerations is how much of a route's history GetSpec shows.
const shownGenerations = 20

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
	for _, r := range view.LastGenerations(name, shownGenerations) {
		out.History = append(out.History, routeOf(r))
	}
	return connect.NewResponse(out), nil
}

// ListExecutions lists what runs, or what failed, or what an order decided over.
func (s *Server) ListExecutions(_ context.Context, req *connect.Request[operatorv1.ListExecutionsRequest]) (*connect.Response[operatorv1.ListExecutionsResponse], error) {
	view := s.Store.View()
	name := req.Msg.GetSpec()
	if err := exists(view, name); err != nil {
		return nil, err
	}
	out := &operatorv1.ListExecutionsResponse{}
	refs := []string{req.Msg.GetVersion()}
	switch {
	case refs[0] != "":
		if _, ok := view.Version(name, refs[0]); !ok {
			return nil, &control.NotFound{Refused: control.Refused{Why: "version " + refs[0] + " of " + name + " is not published", Next: "specctl versions " + name}}
		}
	case req.Msg.GetFailed():
		refs = recorded(view, name)
	case req.Msg.GetDecided(): // of a version whose first order has just come nothing is recorded yet
		refs = slices.Concat(recorded(view, name), s.Fleet.Seen(view, name))
		slices.Sort(refs)
		refs = slices.Compact(refs)
	default:
		refs = s.Fleet.Seen(view, name)
	}
	for _, version := range refs {
		if req.Msg.GetFailed() {
			batches := view.Failures(name, version)
			for _, x := range control.Failed(batches) {
				out.Executions = append(out.Executions, failureOf(x))
			}
			for _, b := range batches {
				out.Omitted += b.Omitted
			}
			continue
		}
		if req.Msg.GetDecided() {
			ended, omitted := control.Decided(view, s.Fleet, name, version)
			for _, x := range ended {
				out.Executions = append(out.Executions, failureOf(x))
			}
			out.Omitted += omitted
		}
		for _, x := range s.Fleet.Running(name, version) {
			if req.Msg.GetDecided() && x.Execution.GetDisposition() == "" {
				continue
			}
			out.Executions = append(out.Executions, runningOf(version, x))
		}
	}
	slices.SortStableFunc(out.Executions, func(a, b *operatorv1.Execution) int {
		return a.GetStartedAt().AsTime().Compare(b.GetStartedAt().AsTime())
	})
	return connect.NewResponse(out), nil
}

// recorded are the versions of a spec of which records of executions are kept.
func recorded(view *store.View, spec string) []string {
	var out []string
	for _, ref := range view.Recorded(spec) {
		out = append(out, ref.Version)
	}
	return out
}

func runningOf(version string, r fleet.Running) *operatorv1.Execution {
	x := r.Execution
	return &operatorv1.Execution{
		Id: x.GetId(), Key: x.GetKey(), Version: version, Instance: r.Instance, Method: x.GetMethod(), Path: x.GetPath(), StartedAt: x.GetStartedAt(), EndedAt: x.GetEndedAt(),
		Effects: x.GetEffects(), Outcome: x.GetOutcome(), Reason: x.GetOutcomeReason(), Disposition: x.GetDisposition(), Why: x.GetWhy(),
		RouteGeneration: x.GetRouteGeneration(), Status: x.GetStatus(), Tools: x.GetTools(), Skill: x.GetSkill(),
		SettleBy: x.GetSettleBy(), Holds: x.GetHolds(),
	}
}

// ListProxies shows what every Envoy acknowledged.
func (s *Server) ListProxies(context.Context, *connect.Request[operatorv1.ListProxiesRequest]) (*connect.Response[operatorv1.ListProxiesResponse], error) {
	out := &operatorv1.ListProxiesResponse{}
	for _, p := range s.Discovery.Proxies() {
		out.Proxies = append(out.Proxies, proxyOf(p))
	}
	for _, r := range s.Store.View().Replicas() {
		out.Replicas = append(out.Replicas, &operatorv1.Replica{Name: r.Name, Since: stamp(r.Since), Leader: r.Leader})
	}
	slices.SortFunc(out.Replicas, func(a, b *operatorv1.Replica) int { return strings.Compare(a.GetName(), b.GetName()) })
	return connect.NewResponse(out), nil
}

// ForgetProxy takes a proxy out of account.
func (s *Server) ForgetProxy(ctx context.Context, req *connect.Request[operatorv1.ForgetProxyRequest]) (*connect.Response[operatorv1.ForgetProxyResponse], error) {
	if err := s.Control.ForgetProxy(ctx, actor(ctx, req.Header(), false), req.Msg.GetNode(), req.Msg.GetReason()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.ForgetProxyResponse{}), nil
}

func proxyOf(p discovery.ProxyState) *operatorv1.Proxy {
	out := &operatorv1.Proxy{Node: p.Node, Version: p.Version, Connected: p.Connected, LastSeen: stamp(p.LastSeen), Refusal: p.Refusal, Replica: p.Replica}
	for _, s := range p.Specs {
		out.Specs = append(out.Specs, &operatorv1.ProxySpec{Spec: s.Spec, AckedGeneration: s.Generation, AckedAt: stamp(s.AckedAt), Refusal: s.Refusal})
	}
	return out
}

// ListPostMortems lists the records, newest first.
func (s *Server) ListPostMortems(_ context.Context, req *connect.Request[operatorv1.ListPostMortemsRequest]) (*connect.Response[operatorv1.ListPostMortemsResponse], error) {
	out := &operatorv1.ListPostMortemsResponse{}
	for _, r := range s.Records(req.Msg.GetSpec()) {
		out.Postmortems = append(out.Postmortems, postMortemOf(r))
	}
	return connect.NewResponse(out), nil
}

// GetPostMortem shows one record.
func (s *Server) GetPostMortem(_ context.Context, req *connect.Request[operatorv1.GetPostMortemRequest]) (*connect.Response[operatorv1.GetPostMortemResponse], error) {
	record, err := s.Record(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	out := postMortemOf(record)
	out.Markdown = postmortem.Text(record, s.Figures(record))
	return connect.NewResponse(&operatorv1.GetPostMortemResponse{Postmortem: out}), nil
}
