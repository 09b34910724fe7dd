package api

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/gen/specproxy/operator/v1/operatorv1connect"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/rollout"
	"github.com/specproxy/specproxy/internal/rollout/evidence"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// RolloutHandler is the API of canaries at its path.
func (s *Server) RolloutHandler() (string, http.Handler) {
	return operatorv1connect.NewRolloutServiceHandler(s, connect.WithReadMaxBytes(1<<20), calls)
}

// commands of people, by their names.
var commands = map[string]rollout.Event{
	"pause": rollout.EventPause, "resume": rollout.EventResume, "promote": rollout.EventPromote, "abort": rollout.EventAbort,
	"retry": rollout.EventRetry, "ack": rollout.EventAck,
}

// LookAhead says what a plan comes to.
func (s *Server) LookAhead(_ context.Context, req *connect.Request[operatorv1.LookAheadRequest]) (*connect.Response[operatorv1.LookAheadResponse], error) {
	plan, err := planFrom(req.Msg.GetPlan())
	if err != nil {
		return nil, err
	}
	o, err := s.Control.LookAhead(versions.Ref{Spec: req.Msg.GetSpec(), Version: req.Msg.GetVersion()}, plan)
	if err != nil {
		return nil, err
	}
	out := &operatorv1.LookAheadResponse{
		Plan: planOf(o.Plan), Origin: o.Origin, Stable: o.Stable, ExecutionsPerHour: o.Traffic.PerHour, Base: o.Traffic.Base, BaseKnown: o.Traffic.BaseKnown, Total: durationpb.New(o.Total),
		Endless: o.Endless, Ratios: rollout.Ratios, Harm: o.Harm, FalseAlarm: o.FalseAlarm, Impossible: o.Impossible, Warnings: o.Warnings,
	}
	for _, st := range o.Steps {
		step := &operatorv1.StepOutlook{
			Name: st.Name, Weight: uint32(st.Weight), Until: string(st.Until), Demand: st.Demand, Executions: st.Executions, Canary: st.Canary, Power: st.Power,
		}
		if !st.Unknown {
			step.Duration = durationpb.New(st.Duration)
		}
		out.Steps = append(out.Steps, step)
	}
	return connect.NewResponse(out), nil
}

// StartRollout begins one. A plan that cannot come to its end by itself is refused, unless that is meant.
func (s *Server) StartRollout(ctx context.Context, req *connect.Request[operatorv1.StartRolloutRequest]) (*connect.Response[operatorv1.StartRolloutResponse], error) {
	m := req.Msg
	plan, err := planFrom(m.GetPlan())
	if err != nil {
		return nil, err
	}
	ref := versions.Ref{Spec: m.GetSpec(), Version: m.GetVersion()}
	how := how(m.GetReason(), false, m.GetNow(), m.GetOverride())
	how.Impossible, how.NoRehearsal = m.GetImpossible(), m.GetNoRehearsal()
	change, ro, err := s.Control.StartRollout(ctx, actor(ctx, req.Header(), m.GetAutomation()), ref, plan, how)
	if err != nil {
		return nil, err
	}
	out := &operatorv1.StartRolloutResponse{Change: changeOf(change, false)}
	if ro.Spec != "" {
		out.Rollout = s.rolloutOf(ro)
	}
	return connect.NewResponse(out), nil
}

// GetRollout returns a spec's newest.
func (s *Server) GetRollout(_ context.Context, req *connect.Request[operatorv1.GetRolloutRequest]) (*connect.Response[operatorv1.GetRolloutResponse], error) {
	view := s.Store.View()
	if err := exists(view, req.Msg.GetSpec()); err != nil {
		return nil, err
	}
	ro, ok := view.Rollout(req.Msg.GetSpec())
	if !ok {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("%s never had a rollout\n  next: specctl deploy %s:VERSION --canary", req.Msg.GetSpec(), req.Msg.GetSpec()))
	}
	return connect.NewResponse(&operatorv1.GetRolloutResponse{Rollout: s.rolloutOf(ro)}), nil
}

// ChangeRollout carries out a command.
func (s *Server) ChangeRollout(ctx context.Context, req *connect.Request[operatorv1.ChangeRolloutRequest]) (*connect.Response[operatorv1.ChangeRolloutResponse], error) {
	if req.Msg.GetCommand() == "approve" {
		ro, err := s.Control.OpenGates(ctx, actor(ctx, req.Header(), false), req.Msg.GetSpec(), req.Msg.GetReason())
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(&operatorv1.ChangeRolloutResponse{Rollout: s.rolloutOf(ro)}), nil
	}
	event, ok := commands[req.Msg.GetCommand()]
	if !ok {
		return nil, invalid(fmt.Sprintf("command %q: there are pause, resume, promote, abort, retry, ack and approve", req.Msg.GetCommand()))
	}
	ro, change, err := s.Control.ChangeRollout(ctx, actor(ctx, req.Header(), false), req.Msg.GetSpec(), event, req.Msg.GetReason())
	if err != nil {
		return nil, err
	}
	out := &operatorv1.ChangeRolloutResponse{Rollout: s.rolloutOf(ro)}
	if change != nil {
		out.Change = changeOf(*change, false)
	}
	return connect.NewResponse(out), nil
}

// planFrom reads a plan as it was sent, nil if none was. What a preset is to fill in stays zero.
func planFrom(m *operatorv1.RolloutPlan) (*rollout.Plan, error) {
	if m == nil {
		return nil, nil
	}
	p := &rollout.Plan{
		Preset: m.GetPreset(), Alpha: m.GetAlpha(), PMax: m.GetPMax(), MaxHarmed: m.GetMaxHarmed(), Rollback: rollout.Reaction(m.GetRollback()),
		AckWithin: rollout.Duration(m.GetAckWithin().AsDuration()), Outcomes: m.GetOutcomes(), OnInsufficient: m.GetOnInsufficient(),
		Bake: rollout.Bake{For: rollout.Duration(m.GetBakeFor().AsDuration())},
	}
	var ok bool
	if p.Bake.Control, ok = basisPoints(m.GetBakeControl()); !ok {
		return p, invalid("bake_control: more than all of the traffic")
	}
	for i, st := range m.GetSteps() {
		weight, ok := basisPoints(st.GetWeight())
		if !ok {
			return p, invalid(fmt.Sprintf("step %d: more than all of the traffic", i+1))
		}
		step := rollout.Step{Weight: weight, Until: rollout.Until(st.GetUntil()), Within: rollout.Duration(st.GetWithin().AsDuration())}
		for _, g := range st.GetGates() {
			step.Gates = append(step.Gates, rollout.Gate{
				Name: g.GetName(), Manual: g.GetManual(), Notify: g.GetNotify(), Webhook: g.GetWebhook(), LinksFor: rollout.Duration(g.GetLinksFor().AsDuration()),
				Timeout: rollout.Duration(g.GetTimeout().AsDuration()), Every: rollout.Duration(g.GetEvery().AsDuration()),
			})
		}
		p.Steps = append(p.Steps, step)
	}
	for _, x := range m.GetMetrics() {
		p.Metrics = append(p.Metrics, rollout.Metric{Name: x.GetName(), Alpha: x.GetAlpha(), PMax: x.GetPMax(), Never: x.GetNever(), Reason: x.GetReason(), SlowerThan: rollout.Duration(x.GetSlowerThan().AsDuration())})
	}
	for _, j := range m.GetJudges() {
		p.Judges = append(p.Judges, rollout.Judge{
			Name: j.GetName(), Prometheus: j.GetPrometheus(), FailAbove: j.FailAbove, FailBelow: j.FailBelow, Webhook: j.GetWebhook(), //nolint:protogetter // unset is not 0
			Every: rollout.Duration(j.GetEvery().AsDuration()), Timeout: rollout.Duration(j.GetTimeout().AsDuration()), Fails: int(j.GetFails()),
		})
	}
	for _, f := range []float64{p.Alpha, p.PMax, p.MaxHarmed} {
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return p, invalid("alpha, p_max and max_harmed are numbers")
		}
	}
	return p, nil
}

func basisPoints(w uint32) (rollout.Weight, bool) {
	if w > evidence.Whole {
		return 0, false
	}
	return rollout.Weight(w), true
}

func planOf(p rollout.Plan) *operatorv1.RolloutPlan {
	out := &operatorv1.RolloutPlan{
		Preset: p.Preset, BakeControl: uint32(p.Bake.Control), Alpha: p.Alpha, PMax: p.PMax, MaxHarmed: p.MaxHarmed, Rollback: string(p.Rollback),
		Outcomes: p.Outcomes, OnInsufficient: p.OnInsufficient, BakeFor: spanOf(time.Duration(p.Bake.For)), AckWithin: spanOf(time.Duration(p.AckWithin)),
	}
	for _, st := range p.Steps {
		step := &operatorv1.RolloutStep{Weight: uint32(st.Weight), Until: string(st.Until), Within: spanOf(time.Duration(st.Within))}
		for _, g := range st.Gates {
			step.Gates = append(step.Gates, gateOf(g))
		}
		out.Steps = append(out.Steps, step)
	}
	for _, m := range p.Metrics {
		out.Metrics = append(out.Metrics, &operatorv1.RolloutMetric{Name: m.Name, Alpha: m.Alpha, PMax: m.PMax, Never: m.Never, Reason: m.Reason, SlowerThan: spanOf(time.Duration(m.SlowerThan))})
	}
	for _, j := range p.Judges {
		out.Judges = append(out.Judges, &operatorv1.RolloutJudge{
			Name: j.Name, Prometheus: j.Prometheus, FailAbove: j.FailAbove, FailBelow: j.FailBelow, Webhook: j.Webhook,
			Every: spanOf(time.Duration(j.Every)), Timeout: spanOf(time.Duration(j.Timeout)), Fails: uint32(max(0, j.Fails)), //nolint:gosec // a small count
		})
	}
	return out
}

func gateOf(g rollout.Gate) *operatorv1.RolloutGate {
	return &operatorv1.RolloutGate{
		Name: g.Name, Manual: g.Manual, Notify: g.Notify, Webhook: g.Webhook, LinksFor: spanOf(time.Duration(g.LinksFor)), Timeout: spanOf(time.Duration(g.Timeout)),
		Every: spanOf(time.Duration(g.Every)),
	}
}

// GetWebhookSecret returns what receivers check signatures with.
func (s *Server) GetWebhookSecret(context.Context, *connect.Request[operatorv1.GetWebhookSecretRequest]) (*connect.Response[operatorv1.GetWebhookSecretResponse], error) {
	return connect.NewResponse(&operatorv1.GetWebhookSecretResponse{Secret: s.Control.WebhookSecret()}), nil
}

// spanOf is unset for 0.
func spanOf(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func (s *Server) rolloutOf(ro store.Rollout) *operatorv1.Rollout {
	now := time.Now().UTC()
	v := ro.Judge(now)
	out := &operatorv1.Rollout{
		Spec: ro.Spec, Canary: ro.Canary, Stable: ro.Stable, Plan: planOf(ro.Plan), Attempt: uint32(max(0, ro.Attempt)), //nolint:gosec // a small count
		Phase: string(ro.Phase), Why: ro.Why, Step: uint32(max(0, ro.Step+1)), StartedAt: stamp(ro.StartedAt), EnteredAt: stamp(ro.EnteredAt), //nolint:gosec // a small count
		Origin: ro.Origin, AckBy: stamp(ro.AckBy), Weight: uint32(ro.Weight()), Share: -1, Verdict: verdictOf(v, ro.Plan.Rules()),
		Rehearsal: rehearsalOf(ro.Rehearsal),
	}
	if share, ok := control.Share(ro); ok {
		out.Share = share
	}
	if !ro.Phase.Ended() {
		out.Elapsed, out.Bound, out.Demand = durationpb.New(ro.Elapsed(now)), spanOf(ro.Bound()), ro.Demand()
		if wait, ok := s.Control.More(ro, v); ok {
			out.Eta = durationpb.New(wait)
		}
	}
	for _, j := range ro.JudgeVerdicts(now) {
		out.Verdict.Judges = append(out.Verdict.Judges, judgeOf(&ro.Run, j))
	}
	for i, g := range ro.Gates {
		status := &operatorv1.GateStatus{Gate: gateOf(g.Gate), Since: stamp(g.Since), Open: g.Open, By: g.By, Why: g.Why, Asked: uint32(max(0, g.Asked))} //nolint:gosec // a small count
		status.ApproveUrl, status.RollbackUrl = s.Control.Links(ro, i, now)
		out.Gates = append(out.Gates, status)
	}
	for _, h := range ro.History {
		out.History = append(out.History, &operatorv1.RolloutEntry{At: stamp(h.At), Event: string(h.Event), By: h.By, Phase: string(h.Phase), Weight: uint32(h.Weight), Why: h.Why})
	}
	for _, e := range slices.Backward(ro.Evidence.Recent) {
		out.Events = append(out.Events, &operatorv1.EvidenceEvent{Execution: e.Execution, Arm: e.Arm.String(), Weight: uint32(e.Weight), At: stamp(e.At), Stake: math.Exp(min(e.Log, 700))})
	}
	return out
}

func rehearsalOf(r *rollout.Rehearsal) *operatorv1.Rehearsal {
	if r == nil {
		return nil
	}
	out := &operatorv1.Rehearsal{
		StartedAt: stamp(r.StartedAt), EndedAt: stamp(r.EndedAt), Undo: spanOf(r.Undo), Summary: r.String(), More: uint32(max(0, r.More)), Failures: r.Failures, //nolint:gosec // a count
		Skipped: r.Skipped, SkippedBy: r.By,
	}
	for _, p := range r.Proxies {
		out.Proxies = append(out.Proxies, &operatorv1.RehearsedProxy{Node: p.Node, There: spanOf(p.There), Acked: spanOf(p.Acked), Seen: spanOf(p.Seen), Note: p.Note})
	}
	return out
}

func judgeOf(run *rollout.Run, j rollout.JudgeVerdict) *operatorv1.JudgeVerdict {
	last, _ := j.State.Last()
	out := &operatorv1.JudgeVerdict{
		Name: j.Judge.Name, Result: string(j.Result), Reason: j.Reason, Asks: run.Question(j.Judge), At: stamp(last.At),
		Failing: uint32(max(0, j.State.Failing)), Fails: uint32(max(0, j.Judge.InARow())), Asked: uint32(max(0, j.State.Asked)), //nolint:gosec // small counts
	}
	for _, a := range j.State.Answers {
		out.Answers = append(out.Answers, &operatorv1.JudgeAnswer{
			Step: uint32(max(0, a.Step)) + 1, AskedAt: stamp(a.AskedAt), At: stamp(a.At), Result: string(a.Result), Value: a.Value, Reason: a.Why, //nolint:gosec // a step of the plan
		})
	}
	return out
}

func verdictOf(v evidence.Verdict, rules evidence.Rules) *operatorv1.RolloutVerdict {
	out := &operatorv1.RolloutVerdict{Result: string(v.Result), Reason: v.Reason, More: v.More, Harmed: v.Harmed, Broken: v.Broken}
	for i, m := range v.Metrics {
		out.Metrics = append(out.Metrics, &operatorv1.MetricVerdict{
			Name: m.Name, Result: string(m.Result), Reason: m.Reason, Stake: m.Stake, Alpha: rules.Metrics[i].Alpha, Bound: m.Bound,
			CanaryFailed: m.Failed[evidence.Canary], CanaryEnded: m.Counts.Ended[evidence.Canary], CanaryUnknown: m.Counts.Unknown[evidence.Canary],
			StableFailed: m.Failed[evidence.Stable], StableEnded: m.Counts.Ended[evidence.Stable],
		})
	}
	return out
}
