package dashboard

import (
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/gen/specproxy/operator/v1/operatorv1connect"
	"github.com/specproxy/specproxy/internal/api"
	"github.com/specproxy/specproxy/internal/auth"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
)

const secret = "a-token-of-good-length"

// fleet is a Reader of one spec, whose every free text is said by somebody else.
type fleet struct {
	operatorv1connect.UnimplementedOperatorServiceHandler
	spec     *operatorv1.Spec
	rollout  *operatorv1.Rollout
	drains   []*operatorv1.Drain
	proxies  []*operatorv1.Proxy
	effect   *operatorv1.GetEffectResponse
	history  []*operatorv1.Change
	all      []postmortem.Record
	stand    api.Standpoint
	stats    *operatorv1.GetStatsResponse
	replicas []*operatorv1.Replica
}

func (f *fleet) GetFleet(context.Context, *connect.Request[operatorv1.GetFleetRequest]) (*connect.Response[operatorv1.GetFleetResponse], error) {
	out := &operatorv1.GetFleetResponse{ProxiesKnown: uint32(len(f.proxies))}
	if f.spec != nil {
		out.Specs, out.SpecsTotal = []*operatorv1.Spec{f.spec}, 1
		if len(f.spec.GetTrouble()) > 0 {
			out.SpecsInTrouble = 1
		}
	}
	for _, p := range f.proxies {
		if p.GetConnected() {
			out.ProxiesConnected++
		}
	}
	return connect.NewResponse(out), nil
}

func (f *fleet) known(name string) error {
	if f.spec == nil || f.spec.GetName() != name {
		return connect.NewError(connect.CodeNotFound, errNoPage("spec "+name+"\n  next: specctl"))
	}
	return nil
}

func (f *fleet) GetSpec(_ context.Context, req *connect.Request[operatorv1.GetSpecRequest]) (*connect.Response[operatorv1.GetSpecResponse], error) {
	if err := f.known(req.Msg.GetSpec()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.GetSpecResponse{Spec: f.spec, History: f.history}), nil
}

func (f *fleet) ListVersions(_ context.Context, req *connect.Request[operatorv1.ListVersionsRequest]) (*connect.Response[operatorv1.ListVersionsResponse], error) {
	return connect.NewResponse(&operatorv1.ListVersionsResponse{Versions: f.spec.GetVersions()}), f.known(req.Msg.GetSpec())
}

func (f *fleet) ListDrains(context.Context, *connect.Request[operatorv1.ListDrainsRequest]) (*connect.Response[operatorv1.ListDrainsResponse], error) {
	return connect.NewResponse(&operatorv1.ListDrainsResponse{Drains: f.drains}), nil
}

func (f *fleet) ListProxies(context.Context, *connect.Request[operatorv1.ListProxiesRequest]) (*connect.Response[operatorv1.ListProxiesResponse], error) {
	return connect.NewResponse(&operatorv1.ListProxiesResponse{Proxies: f.proxies, Replicas: f.replicas}), nil
}

func (f *fleet) GetShadow(context.Context, *connect.Request[operatorv1.GetShadowRequest]) (*connect.Response[operatorv1.GetShadowResponse], error) {
	return connect.NewResponse(&operatorv1.GetShadowResponse{Shadow: f.spec.GetShadow(), BothSucceeded: 90, RequestFailed: 1, CopyFailed: 7, BothFailed: 2, Unknown: 3}), nil
}

func (f *fleet) GetRollout(context.Context, *connect.Request[operatorv1.GetRolloutRequest]) (*connect.Response[operatorv1.GetRolloutResponse], error) {
	if f.rollout == nil {
		return nil, connect.NewError(connect.CodeNotFound, errNoPage("rollout"))
	}
	return connect.NewResponse(&operatorv1.GetRolloutResponse{Rollout: f.rollout}), nil
}

func (f *fleet) GetStats(context.Context, *connect.Request[operatorv1.GetStatsRequest]) (*connect.Response[operatorv1.GetStatsResponse], error) {
	if f.stats == nil {
		return connect.NewResponse(&operatorv1.GetStatsResponse{}), nil
	}
	return connect.NewResponse(f.stats), nil
}

func (f *fleet) Reach(string, uint64) (*operatorv1.GetEffectResponse, error) { return f.effect, nil }

func (f *fleet) Record(id string) (postmortem.Record, error) {
	for _, r := range f.all {
		if r.ID == id {
			return r, nil
		}
	}
	return postmortem.Record{}, connect.NewError(connect.CodeNotFound, errNoPage("post-mortem "+id))
}

func (f *fleet) Figures(r postmortem.Record) []postmortem.Found { return postmortem.Derive(r) }

func (f *fleet) Records(string) []postmortem.Record { return f.all }

func (f *fleet) OpenRecords() []postmortem.Record {
	var out []postmortem.Record
	for _, r := range f.all {
		if r.Open() {
			out = append(out, r)
		}
	}
	return out
}

func (f *fleet) ChainHead() postmortem.Head {
	return postmortem.Head{Seq: 7, Link: strings.Repeat("ab", 32)}
}

func (f *fleet) Standpoint() api.Standpoint { return f.stand }

func handler(t *testing.T, f *fleet, change func(*Options)) *Options {
	t.Helper()
	keys, err := auth.NewKeyring(auth.NewToken(secret), "", zaptest.NewLogger(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Reads: f, Keys: keys, Log: zaptest.NewLogger(t)}
	if change != nil {
		change(&o)
	}
	return &o
}

// busy is a fleet in which everything happens at once, and in which text stands wherever somebody from outside can put it.
func busy(text string) *fleet {
	now := time.Now()
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	record := postmortem.Record{
		ID: "PM-1", Specs: []string{"shop"}, OpenedAt: now.Add(-time.Hour), Actor: text, Reason: text,
		Rollbacks: []postmortem.Rollback{{
			Spec: "shop", Generation: 3, Command: "rollback", CommittedAt: now.Add(-time.Hour), Target: "2.0.0", TargetWhy: text,
			Abandoned: []postmortem.Abandoned{{Version: "2.1.0", Digest: "sha256:" + strings.Repeat("cd", 32)}},
			Before:    []routing.Split{{Version: "2.1.0", BasisPoints: 10000}}, After: []routing.Split{{Version: "2.0.0", BasisPoints: 10000}},
			Effect: &postmortem.Effect{At: now.Add(-time.Hour + 13*time.Millisecond), By: "route and fence", Proxies: 2, ProxiesAcked: 2, Laggards: []string{text}},
			Plans:  []postmortem.Plan{{Version: "2.1.0", Rule: text, Disposition: drain.Complete, Executions: 3}},
			Evidence: &postmortem.Evidence{
				At: now.Add(-time.Minute), Steps: []postmortem.Exposed{{Step: postmortem.Step{Generation: 2, At: now.Add(-2 * time.Hour), By: text, Splits: []routing.Split{{Version: "2.1.0", BasisPoints: 10000}}}, Until: now.Add(-time.Hour)}},
				Reasons: []postmortem.Reason{{Version: "2.1.0", Reason: text, Count: 3}},
				First: []postmortem.Sample{{Failing: postmortem.Failing{ID: text, Version: "2.1.0", Method: text, Path: text}, Reason: text, Why: text, Excerpt: &postmortem.Excerpt{
					Request: postmortem.Part{Text: text + "\n```\n" + text}, Response: postmortem.Part{Missing: text},
				}}},
				Changes: []postmortem.Changed{{Version: "2.1.0", Words: []string{text}, Files: []postmortem.File{{Path: text, Status: "changed", Unified: text + "\n```\n" + text}}}},
				Reports: []postmortem.Report{{Version: "2.1.0", Suite: text, By: text, Touching: []string{text}}},
				Proxies: []postmortem.ProxyAck{{Node: text}},
				Sources: []postmortem.Source{{Item: "excerpts", From: text, Missing: text}},
			},
		}},
		Overrides: []postmortem.Override{{At: now, Actor: text, Version: "2.1.0", Reason: text}},
		Owner:     &postmortem.Owner{Name: text, Due: now.Add(-24 * time.Hour), Note: text, By: text},
		Answers:   []postmortem.Answer{{Question: postmortem.WhyCanary, Text: text, By: text, At: now}},
		Actions:   []postmortem.Action{{ID: "A1", What: text, Owner: text, Due: now.Add(-time.Hour)}, {ID: "A2", What: text, Owner: text, Due: now.Add(time.Hour)}},
		Alerts:    []postmortem.Alert{{At: now, Source: text, Name: text, Summary: text, Spec: "shop"}},
		NamedBy:   []postmortem.Fix{{Spec: "shop", Version: "2.2.0", Digest: "sha256:" + strings.Repeat("ef", 32), By: text}},
	}
	closed := record
	closed.ID, closed.Closing = "PM-0", &postmortem.Closing{At: now, Actor: text, Cause: postmortem.SpecError, Note: text}
	return &fleet{
		spec: &operatorv1.Spec{
			Name: "shop", Generation: 4, ChangedAt: ago(time.Minute), ChangedBy: text, LastChange: text, Trouble: []string{text, "it is slow"}, Next: "specctl rollback shop",
			Shadow:        &operatorv1.Shadow{Version: "2.2.0", BasisPoints: 1000, Actor: text, Reason: text, Until: ago(-time.Hour)},
			HeaderTargets: []*operatorv1.HeaderTarget{{Header: "x-tenant", Value: text, Version: "2.2.0", Actor: text, Reason: text, Until: ago(-time.Hour)}},
			Exit:          "2.0.0", ExitReason: text, Hosts: []string{text}, Freeze: &operatorv1.Freeze{Since: ago(time.Hour), Until: ago(-time.Hour), Postmortem: "PM-1"},
			Versions: []*operatorv1.Version{
				{Spec: "shop", Version: "2.0.0", Digest: "sha256:" + strings.Repeat("ab", 32), Standing: "good", Weight: 9000, PublishedBy: text, PublishedAt: ago(time.Hour), Pool: &operatorv1.Pool{
					Ready: 2, Instances: 2, Rate: 8.8, RecentSucceeded: 196, RecentFailed: 4, RecentSuccess: .98, InFlight: 4,
				}},
				{Spec: "shop", Version: "2.1.0", Digest: text, Standing: "quarantined", StandingReason: text, Postmortem: "PM-1", Weight: 1000, Pool: &operatorv1.Pool{Instances: 1, Silent: 1, Rate: 1.2, Fenced: true}},
				{Spec: "shop", Version: "2.2.0", Standing: "published", Pool: &operatorv1.Pool{}},
			},
		},
		rollout: &operatorv1.Rollout{
			Spec: "shop", Canary: "2.1.0", Stable: "2.0.0", Phase: "failed", Why: text, Step: 2, Weight: 1000, Share: 0.12, AckBy: ago(-time.Minute),
			Elapsed: durationpb.New(time.Minute), Bound: durationpb.New(time.Hour), Eta: durationpb.New(3 * time.Minute),
			Plan:  &operatorv1.RolloutPlan{Preset: text, Steps: []*operatorv1.RolloutStep{{Weight: 500, Until: "evidence"}, {Weight: 1000, Until: text}, {Weight: 5000, Until: "manual"}}},
			Gates: []*operatorv1.GateStatus{{Gate: &operatorv1.RolloutGate{Name: text, Manual: true}, Why: text, ApproveUrl: "https://gate.example/secret"}},
			Rehearsal: &operatorv1.Rehearsal{
				Undo: durationpb.New(38 * time.Millisecond), Summary: text, EndedAt: ago(time.Minute), StartedAt: ago(time.Minute),
				Proxies: []*operatorv1.RehearsedProxy{{Node: text, There: durationpb.New(41 * time.Millisecond), Acked: durationpb.New(38 * time.Millisecond), Note: text}},
			},
			Verdict: &operatorv1.RolloutVerdict{Result: "fail", Reason: text, Metrics: []*operatorv1.MetricVerdict{{Name: text, Result: "fail", Stake: 22, Alpha: .05, Bound: .4, CanaryFailed: 5, CanaryEnded: 12, StableFailed: 7, StableEnded: 280}}, Judges: []*operatorv1.JudgeVerdict{{
				Name: text, Result: "insufficient", Reason: text, Asks: text, At: ago(time.Minute), Asked: 7,
				Answers: []*operatorv1.JudgeAnswer{
					{Step: 1, AskedAt: ago(time.Hour), At: ago(2 * time.Minute), Result: "fail", Reason: "0.75 is above 0.5, late"},
					{Step: 4, AskedAt: ago(time.Minute), At: ago(time.Minute), Result: "insufficient", Reason: text},
				},
			}}},
		},
		drains: []*operatorv1.Drain{{
			Spec: "shop", Version: "2.1.0", Target: "2.0.0", Kind: "rollback", State: "held", OrderedAt: ago(time.Minute), InFlight: 3, Completed: 10, HandedOver: 5, Arrived: 5, Cancelled: 2, Held: 1,
			EtaUnknown: text, FinalTarget: "1.9.0", Oldest: &operatorv1.Execution{Method: text, Path: text, StartedAt: ago(time.Hour)}, Laggards: []string{text},
		}, {Spec: "shop", Version: "1.9.0", Target: "2.0.0", Kind: "promote", State: "drained", OrderedAt: ago(time.Hour), EndedAt: ago(time.Minute), Completed: 4}},
		proxies: []*operatorv1.Proxy{
			{Node: "edge-1", Connected: true, LastSeen: ago(0), Specs: []*operatorv1.ProxySpec{{Spec: "shop", AckedGeneration: 4, AckedAt: ago(time.Minute - 23*time.Millisecond)}}},
			{Node: text, Version: text, LastSeen: ago(time.Minute), Refusal: text, Replica: text, Specs: []*operatorv1.ProxySpec{{Spec: "shop", AckedGeneration: 3, Refusal: text}}},
		},
		effect: &operatorv1.GetEffectResponse{
			Spec: "shop", Generation: 4, Effective: false, CommittedAt: ago(time.Minute), ProxiesAcked: 1, ProxiesTotal: 2, FencesAcked: 0, FencesTotal: 1,
			Laggards: []string{"proxy edge-2: " + text}, Refusals: []string{text},
		},
		history: []*operatorv1.Change{
			{Spec: "shop", Generation: 4, Kind: "weights", Actor: text, CommittedAt: ago(time.Minute), After: []*operatorv1.Weight{{Version: "2.0.0", BasisPoints: 9000}, {Version: "2.1.0", BasisPoints: 1000}}},
			{Spec: "shop", Generation: 3, Kind: "rollback", Actor: text, CommittedAt: ago(time.Hour), Postmortem: "PM-1", After: []*operatorv1.Weight{{Version: "2.0.0", BasisPoints: 10000}}},
			{Spec: "shop", Generation: 2, Kind: "target", Actor: text, CommittedAt: ago(time.Minute), After: []*operatorv1.Weight{{Version: "2.0.0", BasisPoints: 10000}}, HeaderTargets: []*operatorv1.HeaderTarget{{Header: "x-tenant", Value: text, Version: "2.2.0"}}},
		},
		all:      []postmortem.Record{record, closed},
		replicas: []*operatorv1.Replica{{Name: text, Leader: true, Since: ago(time.Hour)}},
		stats: &operatorv1.GetStatsResponse{Overall: &operatorv1.Stats{Deploys: 9, FailedDeploys: 2, Warnings: []string{text}, Causes: map[string]uint32{text: 1}},
			Specs: []*operatorv1.Stats{{Spec: "shop", Deploys: 9, FailedDeploys: 2, Rollbacks: 2, TimeToRestore: durationpb.New(13 * time.Millisecond), Warnings: []string{text}}}},
	}
}
