package cli

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/rollout"
)

const planHelp = `Presets: careful (1, 5, 10, 25, 50 %), standard (5, 10, 25, 50 %), fast (10, 50 %),
blue-green (all at once). A plan file says more, in YAML; what it leaves out is its
preset's:

  preset: standard
  steps:
    - {weight: 5%, until: evidence, within: 6h}
    - weight: 25%
      until: evidence
      gates:             # before the step: a person, or a webhook that answers pass
        - {name: sign-off, manual: true, notify: "https://chat.example.com/hook"}
        - {name: ledger, webhook: "https://ledger.example.com/ok", timeout: 5s, every: 1m}
    - {weight: 50%, until: duration, within: 30m}
  bake: {for: 1h, control: 5%}
  alpha: 0.05          # chance of stopping a version that is as good as the old one
  pMax: 0.05           # failure rate it must be proven to stay below
  maxHarmed: 20        # executions that may fail beyond the old version's rate
  rollback: auto       # or manual, or auto-unless-acked-in with ackWithin: 5m
  metrics:
    - {name: policy, reason: "policy", never: true}
    - {name: latency, slowerThan: 2s}
  judges:              # asked from outside; no answer lets the canary go no further
    - {name: cost, prometheus: 'sum(rate(cost_usd_total{version="{{canary}}"}[5m]))', failAbove: 0.5}
    - {name: grader, webhook: "https://grader.example.com/judge", every: 1m, fails: 2}`

// declared is the plan of the version's manifest.
const declared = "declared"

// canaryFlags choose a plan.
type canaryFlags struct {
	preset, file string
	impossible   bool
	noRehearsal  bool
}

// rehearsalWait is how long the control plane may take for a rehearsal before it answers.
const rehearsalWait = 45 * time.Second

func addCanaryFlags(cmd *cobra.Command) *canaryFlags {
	f := &canaryFlags{}
	cmd.Flags().StringVar(&f.preset, "canary", "", "shift the traffic step by step: careful, standard, fast, blue-green; declared: as the manifest says, or standard")
	cmd.Flags().Lookup("canary").NoOptDefVal = declared
	cmd.Flags().StringVar(&f.file, "plan", "", "shift the traffic by the plan in this YAML file (see specctl plan --help)")
	cmd.Flags().BoolVar(&f.impossible, "impossible", false, "go ahead although the plan would not come to its end by itself")
	cmd.Flags().BoolVar(&f.noRehearsal, "no-rehearsal", false, "in an emergency: give it traffic although nobody has seen that it can be taken back; needs --reason")
	return f
}

func (f *canaryFlags) asked() bool { return f.preset != "" || f.file != "" }

// plan reads the file, if there is one; nil stands for the manifest's plan.
func (f *canaryFlags) plan() (*operatorv1.RolloutPlan, error) {
	if f.file == "" && (f.preset == "" || f.preset == declared) {
		return nil, nil
	}
	p := rollout.Plan{Preset: f.preset}
	if f.file != "" {
		data, err := os.ReadFile(f.file)
		if err != nil {
			return nil, err
		}
		if p, err = rollout.ParsePlan(data); err != nil {
			return nil, fmt.Errorf("%s: %w", f.file, err)
		}
		if f.preset != "" && f.preset != declared {
			p.Preset = f.preset
		}
	}
	if _, err := p.Complete(); err != nil {
		return nil, err
	}
	return planMessage(p), nil
}

func planMessage(p rollout.Plan) *operatorv1.RolloutPlan {
	out := &operatorv1.RolloutPlan{
		Preset: p.Preset, BakeControl: uint32(p.Bake.Control), Alpha: p.Alpha, PMax: p.PMax, MaxHarmed: p.MaxHarmed, Rollback: string(p.Rollback),
		Outcomes: p.Outcomes, OnInsufficient: p.OnInsufficient, BakeFor: durationpb.New(time.Duration(p.Bake.For)), AckWithin: durationpb.New(time.Duration(p.AckWithin)),
	}
	for _, st := range p.Steps {
		step := &operatorv1.RolloutStep{Weight: uint32(st.Weight), Until: string(st.Until), Within: durationpb.New(time.Duration(st.Within))}
		for _, g := range st.Gates {
			step.Gates = append(step.Gates, &operatorv1.RolloutGate{
				Name: g.Name, Manual: g.Manual, Notify: g.Notify, Webhook: g.Webhook, LinksFor: durationpb.New(time.Duration(g.LinksFor)),
				Timeout: durationpb.New(time.Duration(g.Timeout)), Every: durationpb.New(time.Duration(g.Every)),
			})
		}
		out.Steps = append(out.Steps, step)
	}
	for _, m := range p.Metrics {
		out.Metrics = append(out.Metrics, &operatorv1.RolloutMetric{Name: m.Name, Alpha: m.Alpha, PMax: m.PMax, Never: m.Never, Reason: m.Reason, SlowerThan: durationpb.New(time.Duration(m.SlowerThan))})
	}
	for _, j := range p.Judges {
		out.Judges = append(out.Judges, &operatorv1.RolloutJudge{
			Name: j.Name, Prometheus: j.Prometheus, FailAbove: j.FailAbove, FailBelow: j.FailBelow, Webhook: j.Webhook,
			Every: durationpb.New(time.Duration(j.Every)), Timeout: durationpb.New(time.Duration(j.Timeout)), Fails: uint32(max(0, j.Fails)), //nolint:gosec // a small count
		})
	}
	return out
}

func (a *app) planCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan REF",
		Short: "Show what a canary's plan comes to, before it is deployed",
		Long: `Show what a canary's plan comes to at today's traffic: how long its steps take, the
chance of having stopped a version that fails 2, 5 or 10 times as often by the end
of each, the harm done until then, and what cannot work. Nothing is changed.
Without --canary and --plan it is the plan of the version's manifest (rollout:), or
the standard one.

` + planHelp + `

` + refHelp,
		Example: `  specctl plan customer-service:2.1.0
  specctl plan customer-service:2.1.0 --canary=careful
  specctl plan customer-service:2.1.0 --plan plan.yaml -o json`,
		Args: exactly(1, "one REF, such as customer-service:2.1.0"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	flags := addCanaryFlags(cmd)
	for _, name := range []string{"impossible", "no-rehearsal"} {
		if err := cmd.Flags().MarkHidden(name); err != nil {
			panic(err) // it was added just now
		}
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		spec, version, c, plan, err := a.planned(cmd, args, flags)
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.LookAhead, &operatorv1.LookAheadRequest{Spec: spec, Version: version, Plan: plan}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(got)
		}
		a.printOutlook(got)
		return nil
	}
	return cmd
}

// planned resolves the one reference and reads the plan.
func (a *app) planned(cmd *cobra.Command, args []string, flags *canaryFlags) (spec, version string, c *conn, plan *operatorv1.RolloutPlan, err error) {
	r, err := parseReference(args[0])
	if err != nil {
		return "", "", nil, nil, usageError(cmd, "%v", err)
	}
	if plan, err = flags.plan(); err != nil {
		return "", "", nil, nil, usageError(cmd, "%v", err)
	}
	if c, err = a.connect(); err != nil {
		return "", "", nil, nil, err
	}
	ref, err := a.resolve(cmd.Context(), c, r)
	if err != nil {
		return "", "", nil, nil, err
	}
	return ref.Spec, ref.Version, c, plan, nil
}

func (a *app) printOutlook(got *operatorv1.LookAheadResponse) {
	known := "measured"
	if !got.GetBaseKnown() {
		known = "assumed"
	}
	a.out.line("%s plan (of %s) against %s: %s executions an hour, %s of them fail now (%s)", got.GetPlan().GetPreset(), got.GetOrigin(), got.GetStable(), number(got.GetExecutionsPerHour()), share(got.GetBase()), known)
	t := newTable("STEP", ">CANARY", "UNTIL", ">PROVES", ">NEEDS", ">TAKES", ">SEES 2X", ">5X", ">10X")
	for _, st := range got.GetSteps() {
		takes, proves := "?", "-"
		if st.GetDuration() != nil {
			takes = rollout.Long(st.GetDuration().AsDuration())
		}
		if st.GetDemand() > 0 {
			proves = "<" + share(st.GetDemand())
		}
		row := []string{st.GetName(), percent(st.GetWeight()), st.GetUntil(), proves, fmt.Sprint(st.GetCanary()), takes}
		for _, p := range st.GetPower() {
			row = append(row, share(p))
		}
		t.row(row...)
	}
	a.out.print(t, "")
	total := rollout.Long(got.GetTotal().AsDuration())
	if got.GetEndless() {
		total = "not known"
	}
	a.out.field("takes", "%s, if nothing is wrong", total)
	var harm []string
	for i, h := range got.GetHarm() {
		harm = append(harm, fmt.Sprintf("%s at %gx", number(h), got.GetRatios()[i]))
	}
	a.out.field("harm", "%s (mean of executions that fail beyond today's rate, until it is stopped)", strings.Join(harm, ", "))
	a.out.field("false alarm", "%s (alpha %s)", share(got.GetFalseAlarm()), share(got.GetPlan().GetAlpha()))
	for _, j := range got.GetPlan().GetJudges() {
		a.out.field("judge "+j.GetName(), "%s", j.GetPrometheus()+j.GetWebhook())
	}
	for _, w := range got.GetWarnings() {
		a.out.field("warning", "%s", w)
	}
	for _, w := range got.GetImpossible() {
		a.out.styled(red, "impossible", "%s", w)
	}
}

// number writes a count that need not be whole.
func number(f float64) string {
	if f >= 1000 && f < 1e9 {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprintf("%.3g", f)
}

// share writes a part of 1 as a percentage.
func share(f float64) string {
	if f >= 0.1 {
		return fmt.Sprintf("%.0f%%", 100*f)
	}
	return fmt.Sprintf("%.2g%%", 100*f)
}

// deployCanary begins a rollout.
func (a *app) deployCanary(cmd *cobra.Command, args []string, flags *changeFlags, canary *canaryFlags, format string) error {
	if len(args) != 1 {
		return usageError(cmd, "a canary is one version: name one REF")
	}
	if flags.dryRun {
		return usageError(cmd, "specctl plan %s shows what the plan comes to", args[0])
	}
	spec, version, c, plan, err := a.planned(cmd, args, canary)
	if err != nil {
		return err
	}
	got, err := ask(cmd.Context(), c, client.StartRollout, &operatorv1.StartRolloutRequest{
		Spec: spec, Version: version, Plan: plan, Reason: flags.reason, Automation: flags.automation, Override: flags.overridden(), Now: flags.now, Impossible: canary.impossible, NoRehearsal: canary.noRehearsal,
	}, rehearsalWait)
	if err != nil {
		return err
	}
	return a.conclude(cmd.Context(), c, []*operatorv1.Change{got.GetChange()}, flags.follow(), format)
}

// canaryCommands are those that change a rollout.
var canaryCommands = []struct{ name, short, long string }{
	{"pause", "Stop a rollout's clock; judging goes on", "A canary that turns out bad is rolled back all the same."},
	{"resume", "Let a rollout go on that was paused or held", "A step whose clock had run out gets its time anew."},
	{"promote", "Go to the next step without waiting for its evidence", "After the last step that is the bake, then all the traffic."},
	{"abort", "Roll the canary back", "Exactly what specctl rollback does, with the evidence in the record."},
	{"retry", "Begin again at the first step, with new evidence", "For a measurement that was broken, and has been repaired."},
	{"approve", "Open the gates that wait for a person", "What the links of these gates do. Other gates stay closed; promote passes by all."},
	{"ack", "Take responsibility for a canary that has failed", "For plans with rollback manual or auto-unless-acked-in: the rollout is paused, and\nevidence no longer stops it by itself."},
}

func (a *app) canaryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "canary",
		Short: "Follow and steer the rollout of a version",
		Long: `Follow and steer the rollout of a version that was deployed with --canary. A rollback
(specctl rollback, or an alert) ends it in any state. Before its first step the way
back is rehearsed at every proxy; what that took is shown with it.`,
		Example: `  specctl canary status customer-service
  specctl canary pause customer-service --reason "lunch"
  specctl canary promote customer-service`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError(cmd, "say what: status, pause, resume, promote, abort, retry, approve, ack or secret")
		},
	}
	cmd.AddCommand(a.canaryStatusCommand())
	cmd.AddCommand(a.canarySecretCommand())
	for _, k := range canaryCommands {
		cmd.AddCommand(a.canaryChangeCommand(k.name, k.short, k.long))
	}
	return cmd
}

func (a *app) canaryStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status SPEC",
		Short: "Show a rollout: its step, set and actual share, evidence",
		Long: `Show a spec's newest rollout: its step and clock, the set weight and the share that
the canary really gets, the verdict and what it rests on, what judges outside answered
last, and what happened so far.`,
		Example: `  specctl canary status customer-service
  specctl canary status customer-service --watch
  specctl canary status customer-service -o json | jq -r .rollout.verdict.result`,
		Args: exactly(1, "one spec"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	watch := cmd.Flags().BoolP("watch", "w", false, "print again whenever something changes, until Ctrl-C (json: one object a line)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		read := func(ctx context.Context) (*operatorv1.GetRolloutResponse, error) {
			return ask(ctx, c, client.GetRollout, &operatorv1.GetRolloutRequest{Spec: args[0]}, 0)
		}
		return poll(cmd.Context(), a, c, *watch, format, read, func(got *operatorv1.GetRolloutResponse) {
			a.printRollout(got.GetRollout())
			a.printRehearsed(got.GetRollout().GetRehearsal())
			a.printAnswers(got.GetRollout())
			a.printRolloutHistory(got.GetRollout())
		})
	}
	return cmd
}

func (a *app) canaryChangeCommand(name, short, long string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     name + " SPEC",
		Short:   short,
		Long:    short + ".\n" + long,
		Example: fmt.Sprintf("  specctl canary %s customer-service --reason \"…\"", name),
		Args:    exactly(1, "one spec"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	reason := cmd.Flags().String("reason", "", "why, for the record")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.ChangeRollout, &operatorv1.ChangeRolloutRequest{Spec: args[0], Command: name, Reason: *reason}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(got)
		}
		a.printRollout(got.GetRollout())
		if pm := got.GetChange().GetPostmortem(); pm != "" {
			a.out.field("next", "specctl postmortem show %s", pm)
		}
		return nil
	}
	return cmd
}

func (a *app) canarySecretCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "secret",
		Short: "Print what receivers of webhooks check signatures with",
		Long: `Print the secret with which gates' and judges' webhooks are signed, as receivers
that follow the Standard Webhooks specification write it. It is the same for all
webhooks of a control plane, and for all its replicas.`,
		Example: "  specctl canary secret",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			got, err := ask(cmd.Context(), c, client.GetWebhookSecret, &operatorv1.GetWebhookSecretRequest{}, 0)
			if err != nil {
				return err
			}
			a.out.line("%s", got.GetSecret())
			return nil
		},
	}
}

func ended(r *operatorv1.Rollout) bool {
	switch r.GetPhase() {
	case "promoted", "aborted", "superseded", "refused":
		return true
	}
	return false
}

// rolloutOf is the spec's newest rollout, nil if there is none or the control plane does not say.
func rolloutOf(ctx context.Context, c *conn, spec string) *operatorv1.Rollout {
	got, err := ask(ctx, c, client.GetRollout, &operatorv1.GetRolloutRequest{Spec: spec}, 0)
	if err != nil {
		return nil
	}
	return got.GetRollout()
}

func (a *app) printRollout(r *operatorv1.Rollout) {
	step := fmt.Sprintf("step %d of %d", r.GetStep(), len(r.GetPlan().GetSteps()))
	if r.GetStep() == 0 {
		step = "before its first step"
	}
	if int(r.GetStep()) > len(r.GetPlan().GetSteps()) {
		step = "after its steps"
	}
	a.out.line("canary %s:%s against %s: %s, %s", r.GetSpec(), r.GetCanary(), r.GetStable(), r.GetPhase(), step)
	a.out.field("why", "%s", r.GetWhy())
	a.out.field("plan", "%s, chosen by %s", r.GetPlan().GetPreset(), r.GetOrigin())
	a.printRehearsal(r.GetRehearsal())
	for _, g := range r.GetGates() {
		a.printGate(r.GetSpec(), g)
	}
	actual := "no new execution has been counted yet"
	if r.GetShare() >= 0 {
		actual = share(r.GetShare()) + " of new executions in fact"
	}
	a.out.field("share", "%s set, %s", percent(r.GetWeight()), actual)
	if r.GetElapsed() != nil {
		clock := rollout.Long(r.GetElapsed().AsDuration())
		if r.GetBound() != nil {
			clock += " of at most " + rollout.Long(r.GetBound().AsDuration())
		}
		a.out.field("clock", "%s", clock)
	}
	v := r.GetVerdict()
	style := plain
	if v.GetResult() == "fail" || v.GetBroken() {
		style = red
	}
	a.out.styled(style, "verdict", "%s: %s", v.GetResult(), v.GetReason())
	for _, m := range v.GetMetrics() {
		a.out.field(m.GetName(), "canary %d of %d failed, stable %d of %d; a bet of 1 against it is worth %s (fails at %s); proven below %s",
			m.GetCanaryFailed(), m.GetCanaryEnded(), m.GetStableFailed(), m.GetStableEnded(), number(m.GetStake()), number(1/m.GetAlpha()), share(m.GetBound()))
	}
	for _, j := range v.GetJudges() {
		style := plain
		if j.GetResult() == "fail" {
			style = red
		}
		a.out.styled(style, "judge "+j.GetName(), "%s: %s (%s)", j.GetResult(), j.GetReason(), j.GetAsks())
	}
	if r.GetEta() != nil && !ended(r) {
		a.out.field("enough", "in about %s, at today's traffic", rollout.Long(r.GetEta().AsDuration()))
	}
	if r.GetAckBy() != nil {
		a.out.field("ack by", "%s, or it is rolled back: specctl canary ack %s", a.moment(r.GetAckBy()), r.GetSpec())
	}
}

func (a *app) printRehearsal(r *operatorv1.Rehearsal) {
	if r == nil {
		return
	}
	style := plain
	if r.GetUndo() == nil && r.GetEndedAt() != nil {
		style = red
	}
	a.out.styled(style, "rehearsal", "%s", r.GetSummary())
}

// printRehearsed lists what each proxy took.
func (a *app) printRehearsed(r *operatorv1.Rehearsal) {
	if len(r.GetProxies()) == 0 {
		return
	}
	t := newTable("REHEARSED AT", ">THERE", ">BACK, IT SAYS", ">BACK, SEEN", "NOTE")
	for _, p := range r.GetProxies() {
		t.row(p.GetNode(), brief(p.GetThere()), brief(p.GetAcked()), brief(p.GetSeen()), p.GetNote())
	}
	a.out.line("")
	a.out.print(t, "  ")
	if r.GetMore() > 0 {
		a.out.line("  and %d more proxies, which were faster or are at other replicas", r.GetMore())
	}
}

// printAnswers prints the newest answers of judges outside; their words are another's.
func (a *app) printAnswers(r *operatorv1.Rollout) {
	t := newTable("ANSWERED", "JUDGE", "ASKED IN", "SAYS", "WHY")
	none := true
	for _, j := range r.GetVerdict().GetJudges() {
		for _, answer := range j.GetAnswers() {
			t.row(a.clock(answer.GetAt()), j.GetName(), rollout.StepName(int(answer.GetStep())-1, len(r.GetPlan().GetSteps())), answer.GetResult(), answer.GetReason())
			none = false
		}
	}
	if none {
		return
	}
	a.out.line("")
	a.out.print(t, "  ")
}

func brief(d *durationpb.Duration) string {
	if d == nil {
		return "-"
	}
	return rollout.Brief(d.AsDuration())
}

func (a *app) printGate(spec string, g *operatorv1.GateStatus) {
	text := "waits"
	if g.GetOpen() {
		text = "open, by " + g.GetBy()
	}
	if g.GetWhy() != "" {
		text += ": " + g.GetWhy()
	}
	if g.GetAsked() > 0 && !g.GetOpen() {
		text += fmt.Sprintf(" (%s)", plural(int(g.GetAsked()), "try", "tries"))
	}
	a.out.field("gate "+g.GetGate().GetName(), "%s", text)
	if g.GetApproveUrl() != "" {
		a.out.field("approve", "specctl canary approve %s, or %s", spec, g.GetApproveUrl())
		a.out.field("roll back", "specctl canary abort %s, or %s", spec, g.GetRollbackUrl())
	}
}

func (a *app) printRolloutHistory(r *operatorv1.Rollout) {
	t := newTable("WHEN", "WHAT", "PHASE", ">CANARY", "BY", "WHY")
	for _, h := range r.GetHistory() {
		t.row(a.clock(h.GetAt()), h.GetEvent(), h.GetPhase(), percent(h.GetWeight()), h.GetBy(), h.GetWhy())
	}
	a.out.line("")
	a.out.print(t, "  ")
}
