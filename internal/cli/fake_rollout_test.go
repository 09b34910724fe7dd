package cli_test

import (
	"context"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/gen/specproxy/operator/v1/operatorv1connect"
)

// fakeRollouts is the control plane's part that moves canaries. What a rollout looks like is set by `given`; the words of its errors are the real one's.
type fakeRollouts struct {
	operatorv1connect.UnimplementedRolloutServiceHandler
	*fakeControl
}

func span(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func (f fakeRollouts) LookAhead(_ context.Context, req *connect.Request[operatorv1.LookAheadRequest]) (*connect.Response[operatorv1.LookAheadResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.planned = req.Msg.GetPlan()
	origin := "its manifest"
	if f.planned != nil {
		origin = "the deploy"
	}
	out := &operatorv1.LookAheadResponse{
		Plan:   &operatorv1.RolloutPlan{Preset: "standard", Alpha: 0.05, Judges: []*operatorv1.RolloutJudge{{Name: "cost", Prometheus: `sum(cost{version="{{canary}}"})`}}},
		Stable: "2.0.3", ExecutionsPerHour: 15120, Base: 0.02, BaseKnown: true, Origin: origin,
		Steps: []*operatorv1.StepOutlook{
			{Name: "step 1", Weight: 500, Until: "evidence", Demand: 0.31, Executions: 240, Canary: 12, Duration: span(57 * time.Second), Power: []float64{0.004, 0.21, 0.74}},
			{Name: "step 2", Weight: 5000, Until: "manual", Executions: 1200, Canary: 600, Power: []float64{0.3, 0.98, 1}},
			{Name: "bake", Weight: 9500, Until: "duration", Duration: span(time.Hour), Power: []float64{0.54, 1, 1}},
		},
		Total: span(2 * time.Hour), Endless: true, Ratios: []float64{2, 5, 10}, Harm: []float64{18.2, 7.25, 3}, FalseAlarm: 0.029,
		Warnings: []string{"step 2 waits for a person"},
	}
	if f.trickle {
		out.ExecutionsPerHour, out.Impossible = 4, []string{"at 4 executions an hour step 1 needs 9 days"}
	}
	return connect.NewResponse(out), nil
}

func (f fakeRollouts) StartRollout(_ context.Context, req *connect.Request[operatorv1.StartRolloutRequest]) (*connect.Response[operatorv1.StartRolloutResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := req.Msg
	f.planned = m.GetPlan()
	switch {
	case f.version(m.GetVersion()) == nil:
		return nil, refuse(connect.CodeNotFound, "%s:%s is not published\n  next: specctl publish DIR", m.GetSpec(), m.GetVersion())
	case f.hole && !m.GetNoRehearsal():
		f.rollout = rolloutOf("refused", "its way back is not proven")
		return nil, refuse(connect.CodeFailedPrecondition, "%s:%s gets no traffic: its way back is not proven\n  proxy edge-2: has not acknowledged it\n"+
			"  next: specctl proxies   (or, in an emergency and on record: repeat the command with --no-rehearsal --reason \"…\")", m.GetSpec(), m.GetVersion())
	case m.GetNoRehearsal() && strings.TrimSpace(m.GetReason()) == "":
		return nil, refuse(connect.CodeFailedPrecondition, "a canary without a rehearsal needs a reason\n  next: repeat the command with --reason \"…\"")
	}
	f.rollout = rolloutOf("stepping", "step 1 of 2 begins")
	change := f.change("deploy", m.GetReason(), []*operatorv1.Weight{{Version: "2.0.3", BasisPoints: 9500}, {Version: m.GetVersion(), BasisPoints: 500}}, false)
	change.Planned = "standard: 5%, 50%, bake 1h (the plan of its manifest)\nthis deploy can be undone in 38ms, as rehearsed at 2 proxies"
	return connect.NewResponse(&operatorv1.StartRolloutResponse{Change: change, Rollout: f.rollout}), nil
}

func (f fakeRollouts) GetRollout(_ context.Context, req *connect.Request[operatorv1.GetRolloutRequest]) (*connect.Response[operatorv1.GetRolloutResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rollout == nil {
		return nil, refuse(connect.CodeNotFound, "%s never had a canary\n  next: specctl deploy %s:VERSION --canary", req.Msg.GetSpec(), req.Msg.GetSpec())
	}
	return connect.NewResponse(&operatorv1.GetRolloutResponse{Rollout: f.rollout}), nil
}

func (f fakeRollouts) ChangeRollout(_ context.Context, req *connect.Request[operatorv1.ChangeRolloutRequest]) (*connect.Response[operatorv1.ChangeRolloutResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rollout == nil {
		return nil, refuse(connect.CodeNotFound, "%s has no canary under way\n  next: specctl deploy %s:VERSION --canary", req.Msg.GetSpec(), req.Msg.GetSpec())
	}
	out := &operatorv1.ChangeRolloutResponse{}
	why := map[bool]string{true: ", by ada@laptop: " + req.Msg.GetReason(), false: ", by ada@laptop"}[req.Msg.GetReason() != ""]
	switch command := req.Msg.GetCommand(); command {
	case "pause", "ack":
		f.rollout = rolloutOf("paused", "paused"+why)
	case "resume", "retry", "promote", "approve":
		f.rollout = rolloutOf("stepping", command+why)
	case "abort":
		f.rollout = rolloutOf("aborted", "rolled back"+why)
		out.Change = &operatorv1.Change{Postmortem: "PM-1"}
	}
	out.Rollout = f.rollout
	return connect.NewResponse(out), nil
}

func (f fakeRollouts) GetWebhookSecret(context.Context, *connect.Request[operatorv1.GetWebhookSecretRequest]) (*connect.Response[operatorv1.GetWebhookSecretResponse], error) {
	return connect.NewResponse(&operatorv1.GetWebhookSecretResponse{Secret: "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"}), nil
}

// rolloutOf has something of everything that can be shown.
func rolloutOf(phase, why string) *operatorv1.Rollout {
	r := &operatorv1.Rollout{
		Spec: "customer-service", Canary: "2.1.0", Stable: "2.0.3", Attempt: 1, Phase: phase, Why: why, Step: 1, StartedAt: ago(90 * time.Second), EnteredAt: ago(90 * time.Second),
		Plan:    &operatorv1.RolloutPlan{Preset: "standard", Steps: []*operatorv1.RolloutStep{{Weight: 500, Until: "evidence"}, {Weight: 5000, Until: "manual"}}},
		Elapsed: span(90 * time.Second), Bound: span(6 * time.Hour), Weight: 500, Share: 0.0484, Origin: "its manifest", Eta: span(40 * time.Second),
		Verdict: &operatorv1.RolloutVerdict{
			Result: "insufficient", Reason: "outcome: 31 more executions of the canary", More: 31,
			Metrics: []*operatorv1.MetricVerdict{{Name: "outcome", Result: "insufficient", Stake: 0.62, Alpha: 0.05, Bound: 0.41, CanaryFailed: 0, CanaryEnded: 9, StableFailed: 4, StableEnded: 180}},
			Judges: []*operatorv1.JudgeVerdict{
				{Name: "cost", Result: "pass", Reason: "0.21 is not above 0.5", Asks: `sum(cost{version="2.1.0"})`, At: ago(8 * time.Second), Asked: 3, Fails: 3},
				{Name: "grader", Result: "fail", Reason: "worse answers (2 failures in a row)", Asks: "webhook at grader.example.com", At: ago(20 * time.Second), Asked: 2, Fails: 2, Failing: 2},
			},
		},
		Rehearsal: &operatorv1.Rehearsal{
			StartedAt: ago(92 * time.Second), EndedAt: ago(91 * time.Second), Undo: span(38 * time.Millisecond), Summary: "this deploy can be undone in 38ms, as rehearsed at 2 proxies",
			Proxies: []*operatorv1.RehearsedProxy{
				{Node: "edge-1", There: span(12 * time.Millisecond), Acked: span(9 * time.Millisecond), Seen: span(38 * time.Millisecond)},
				{Node: "edge-2", There: span(11 * time.Millisecond), Acked: span(10 * time.Millisecond), Note: "by its word alone: it does not say where it takes requests"},
			},
		},
		History: []*operatorv1.RolloutEntry{
			{At: ago(92 * time.Second), By: "ada@laptop", Phase: "rehearsing", Why: "the way back is rehearsed at every proxy"},
			{At: ago(90 * time.Second), Event: "rehearsed", Phase: "stepping", Weight: 500, Why: "step 1 of 2 begins"},
		},
	}
	switch phase {
	case "gated":
		r.Bound, r.Eta = nil, nil
		r.Gates = []*operatorv1.GateStatus{
			{
				Gate: &operatorv1.RolloutGate{Name: "sign-off", Manual: true}, Since: ago(5 * time.Second),
				ApproveUrl: "https://specproxy.example.com/gates/a1", RollbackUrl: "https://specproxy.example.com/gates/r1",
			},
			{Gate: &operatorv1.RolloutGate{Name: "ledger", Webhook: "https://ledger.example.com/ok"}, Since: ago(5 * time.Second), Asked: 2, Why: "no answer in time"},
			{Gate: &operatorv1.RolloutGate{Name: "office", Manual: true}, Since: ago(5 * time.Second), Open: true, By: "bob@ci", Why: "fine"},
		}
	case "refused":
		r.Step, r.Weight, r.Share, r.Elapsed, r.Bound, r.Eta, r.Verdict = 0, 0, -1, nil, nil, nil, &operatorv1.RolloutVerdict{Result: "insufficient", Reason: "nothing is known yet"}
		r.Rehearsal = &operatorv1.Rehearsal{
			StartedAt: ago(12 * time.Second), EndedAt: ago(2 * time.Second), Summary: "its way back is not proven: proxy edge-2: has not acknowledged it",
			Failures: []string{"proxy edge-2: has not acknowledged it"}, Proxies: []*operatorv1.RehearsedProxy{{Node: "edge-1", There: span(12 * time.Millisecond)}},
		}
		r.History = r.History[:1]
	case "failed":
		r.AckBy = ago(-3 * time.Minute)
		r.Verdict.Result, r.Verdict.Reason = "fail", "judge grader: worse answers (2 failures in a row)"
	}
	return r
}
