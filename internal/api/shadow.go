package api

import (
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/versions"
)

// SetShadow sends copies of requests to a version.
func (s *Server) SetShadow(ctx context.Context, req *connect.Request[operatorv1.SetShadowRequest]) (*connect.Response[operatorv1.SetShadowResponse], error) {
	m := req.Msg
	change, err := s.Control.Shadow(ctx, actor(ctx, req.Header(), m.GetAutomation()), versions.Ref{Spec: m.GetSpec(), Version: m.GetVersion()}, m.GetBasisPoints(),
		m.GetLasts().AsDuration(), how(m.GetReason(), m.GetDryRun(), m.GetNow(), nil))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.SetShadowResponse{Change: changeOf(change, m.GetDryRun())}), nil
}

// StopShadow ends that.
func (s *Server) StopShadow(ctx context.Context, req *connect.Request[operatorv1.StopShadowRequest]) (*connect.Response[operatorv1.StopShadowResponse], error) {
	m := req.Msg
	change, err := s.Control.StopShadow(ctx, actor(ctx, req.Header(), m.GetAutomation()), m.GetSpec(), how(m.GetReason(), m.GetDryRun(), false, nil))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.StopShadowResponse{Change: changeOf(change, m.GetDryRun())}), nil
}

// GetShadow returns a spec's newest shadow and its pairs.
func (s *Server) GetShadow(_ context.Context, req *connect.Request[operatorv1.GetShadowRequest]) (*connect.Response[operatorv1.GetShadowResponse], error) {
	view, spec := s.Store.View(), req.Msg.GetSpec()
	if err := exists(view, spec); err != nil {
		return nil, err
	}
	x, ok := view.Shadow(spec)
	if !ok {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no version of %s ever got copies of requests\n  next: specctl shadow %s:VERSION --percent 10", spec, spec))
	}
	t := x.Tally
	out := &operatorv1.GetShadowResponse{
		Shadow: shadowOf(&x.Shadow), Stable: x.Stable, EndedAt: stamp(x.Ended), EndedBy: x.EndedBy,
		BothSucceeded: t.BothSucceeded, RequestFailed: t.RequestFailed, CopyFailed: t.CopyFailed, BothFailed: t.BothFailed, Unknown: t.Unknown,
		Requests: t.Requests, Copies: t.Copies, Counts: shadowCountsOf(s.Fleet.Pool(view, spec, x.Version).Shadow),
	}
	if p, ok := t.Sign(); ok {
		out.Sign = &p
	}
	for _, p := range slices.Backward(t.Discordant) {
		out.Discordant = append(out.Discordant, &operatorv1.ShadowPair{Request: p.Request, RequestOutcome: p.RequestEnded, Copy: p.Copy, CopyOutcome: p.CopyEnded, At: stamp(p.At)})
	}
	return connect.NewResponse(out), nil
}

// shadowCountsOf is nil where nothing was counted.
func shadowCountsOf(c fleet.Shadow) *operatorv1.ShadowCounts {
	if c == (fleet.Shadow{}) {
		return nil
	}
	return &operatorv1.ShadowCounts{Started: c.Started, Succeeded: c.Succeeded, Failed: c.Failed, Unknown: c.Unknown, InFlight: c.InFlight, Acted: c.Acted}
}
