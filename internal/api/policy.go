package api

import (
	"context"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/signing"
	"github.com/specproxy/specproxy/internal/versions"
)

// shownPolicies bounds the history that GetPolicy returns.
const shownPolicies = 20

// GetPolicy returns what a spec demands of a version before it gets traffic.
func (s *Server) GetPolicy(_ context.Context, req *connect.Request[operatorv1.GetPolicyRequest]) (*connect.Response[operatorv1.GetPolicyResponse], error) {
	view := s.Store.View()
	name := req.Msg.GetSpec()
	if err := exists(view, name); err != nil {
		return nil, err
	}
	policy, _ := view.Policy(name)
	policy.Spec = name
	out := &operatorv1.GetPolicyResponse{Policy: policyOf(policy)}
	for _, p := range slices.Backward(view.Policies(name)) {
		if p.Revision != policy.Revision && len(out.History) < shownPolicies {
			out.History = append(out.History, policyOf(p))
		}
	}
	return connect.NewResponse(out), nil
}

// SetPolicy replaces it.
func (s *Server) SetPolicy(ctx context.Context, req *connect.Request[operatorv1.SetPolicyRequest]) (*connect.Response[operatorv1.SetPolicyResponse], error) {
	m := req.Msg
	set, err := s.Control.SetPolicy(ctx, actor(ctx, req.Header(), false),
		versions.Policy{Spec: m.GetSpec(), SignedBy: m.GetSignedBy(), Conformance: m.GetConformance(), Approval: m.GetApproval(), OpenFor: m.GetOpenFor().AsDuration(), Reason: m.GetReason()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.SetPolicyResponse{Policy: policyOf(set.Policy), AlreadyDone: set.AlreadyDone, Warnings: set.Warnings}), nil
}

func policyOf(p versions.Policy) *operatorv1.Policy {
	out := &operatorv1.Policy{
		Spec: p.Spec, Revision: p.Revision, SignedBy: p.SignedBy, Conformance: p.Conformance, Actor: p.By, SetAt: stamp(p.At), Reason: p.Reason,
	}
	out.Approval = p.Approval
	if p.OpenFor > 0 {
		out.OpenFor = durationpb.New(p.OpenFor)
	}
	for _, text := range p.SignedBy {
		id := "unusable"
		if key, err := signing.ParsePublicKey([]byte(text)); err == nil {
			id = key.ID
		}
		out.KeyIds = append(out.KeyIds, id)
	}
	return out
}
