package cli_test

import (
	"context"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// same is a change of the spec that leaves its weights alone.
func (f *fakeControl) same(kind, reason string, dryRun bool) *operatorv1.Change {
	var weights []*operatorv1.Weight
	for _, v := range f.spec.GetVersions() {
		if v.GetWeight() > 0 {
			weights = append(weights, &operatorv1.Weight{Version: v.GetVersion(), BasisPoints: v.GetWeight()})
		}
	}
	return f.change(kind, reason, weights, dryRun)
}

func (f *fakeControl) SetHeaderTargets(_ context.Context, req *connect.Request[operatorv1.SetHeaderTargetsRequest]) (*connect.Response[operatorv1.SetHeaderTargetsResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := req.Msg
	for _, h := range m.GetHeaders() {
		t := &operatorv1.HeaderTarget{Header: strings.ToLower(h.GetName()), Value: h.GetValue(), Version: m.GetVersion(), At: ago(0), Actor: f.actor, Reason: m.GetReason()}
		if d := m.GetLasts().AsDuration(); d > 0 {
			t.Until = timestamppb.New(now.Add(d))
		}
		f.spec.HeaderTargets = append(f.spec.HeaderTargets, t)
	}
	return connect.NewResponse(&operatorv1.SetHeaderTargetsResponse{Change: f.same("target", m.GetReason(), m.GetDryRun())}), nil
}

func (f *fakeControl) RemoveHeaderTargets(_ context.Context, req *connect.Request[operatorv1.RemoveHeaderTargetsRequest]) (*connect.Response[operatorv1.RemoveHeaderTargetsResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spec.HeaderTargets = slices.DeleteFunc(f.spec.HeaderTargets, func(t *operatorv1.HeaderTarget) bool {
		return req.Msg.GetAll() || slices.ContainsFunc(req.Msg.GetHeaders(), func(h *operatorv1.Header) bool { return h.GetName() == t.GetHeader() && h.GetValue() == t.GetValue() })
	})
	return connect.NewResponse(&operatorv1.RemoveHeaderTargetsResponse{Change: f.same("target", req.Msg.GetReason(), req.Msg.GetDryRun())}), nil
}

func (f *fakeControl) SetShadow(_ context.Context, req *connect.Request[operatorv1.SetShadowRequest]) (*connect.Response[operatorv1.SetShadowResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := req.Msg
	f.shadow = &operatorv1.Shadow{Version: m.GetVersion(), BasisPoints: m.GetBasisPoints(), At: ago(0), Actor: f.actor, Reason: m.GetReason()}
	if d := m.GetLasts().AsDuration(); d > 0 {
		f.shadow.Until = timestamppb.New(now.Add(d))
	}
	return connect.NewResponse(&operatorv1.SetShadowResponse{Change: f.same("shadow", m.GetReason(), m.GetDryRun())}), nil
}

func (f *fakeControl) StopShadow(_ context.Context, req *connect.Request[operatorv1.StopShadowRequest]) (*connect.Response[operatorv1.StopShadowResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return connect.NewResponse(&operatorv1.StopShadowResponse{Change: f.same("shadow", req.Msg.GetReason(), req.Msg.GetDryRun())}), nil
}

func (f *fakeControl) GetShadow(_ context.Context, req *connect.Request[operatorv1.GetShadowRequest]) (*connect.Response[operatorv1.GetShadowResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shadow == nil {
		return nil, refuse(connect.CodeNotFound, "%s never had a shadow\n  next: specctl shadow %s:VERSION --percent 10", req.Msg.GetSpec(), req.Msg.GetSpec())
	}
	p := 0.0215
	return connect.NewResponse(&operatorv1.GetShadowResponse{
		Shadow: f.shadow, Stable: "2.0.3", BothSucceeded: 181, RequestFailed: 2, CopyFailed: 11, BothFailed: 1, Unknown: 3, Requests: 200, Copies: 199, Sign: &p,
		Discordant: []*operatorv1.ShadowPair{{Request: "x-10", RequestOutcome: "success", Copy: "x-11", CopyOutcome: "failure", At: ago(3 * time.Second)}},
		Counts:     &operatorv1.ShadowCounts{Acted: 1},
	}), nil
}
