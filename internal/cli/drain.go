package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

func (a *app) drainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Preview and follow what becomes of running executions",
		Long: `Preview and follow what becomes of running executions when their version is
abandoned or replaced, or their instance is shut down.`,
		Example: `  specctl drain preview customer-service
  specctl drain status
  specctl drain status customer-service --watch`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError(cmd, "say what: preview or status")
		},
	}
	cmd.AddCommand(a.drainPreviewCommand(), a.drainStatusCommand())
	return cmd
}

func (a *app) drainPreviewCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "preview SPEC",
		Short: "Show what a rollback now would do to each running execution",
		Long: `Show what a rollback now would do to each running execution, and by which rule
of its contract. Nothing is changed.`,
		Example: `  specctl drain preview customer-service
  specctl drain preview customer-service --to 2.0.3 -o json`,
		Args: exactly(1, "one spec"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	to := cmd.Flags().String("to", "", "version to go to"+versionHelp+" (default: last good)")
	from := cmd.Flags().String("from", "", "version to abandon"+versionHelp+" (default: the newest with traffic)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		if err := a.resolveVersions(cmd, c, args[0], to, from); err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.PreviewDrain, &operatorv1.PreviewDrainRequest{Spec: args[0], To: *to, From: *from}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(got)
		}
		a.printPreview(got)
		return nil
	}
	return cmd
}

func (a *app) printPreview(got *operatorv1.PreviewDrainResponse) {
	change := got.GetChange()
	if change.GetAlreadyDone() {
		a.out.line("%s was rolled back to %s already (%s): specctl drain status %s", change.GetSpec(), change.GetTarget(), change.GetPostmortem(), change.GetSpec())
		return
	}
	a.out.line("rollback of %s would abandon %s for %s (%s)", change.GetSpec(), strings.Join(change.GetAbandoned(), ", "), change.GetTarget(), change.GetTargetReason())
	if len(got.GetExecutions()) == 0 && got.GetUnseen() == 0 {
		a.out.line("nothing is running there")
		return
	}
	a.out.line("%s", foreseen(got))
	t := newTable("STARTED", "VERSION", "REQUEST", "EFFECTS", "WOULD", "ID AND WHY")
	for _, p := range got.GetExecutions() {
		x := p.GetExecution()
		would := wouldBe(p)
		t.row(a.clock(x.GetStartedAt()), x.GetVersion(), x.GetMethod()+" "+x.GetPath(), x.GetEffects(), would, x.GetId()+": "+p.GetWhy())
		if p.GetDisposition() == "cancel" {
			t.mark(4, red)
		}
	}
	a.out.print(t, "")
	if n := got.GetUnseen(); n > 0 {
		a.out.line("and %d more that began a moment ago, or run on instances that are silent", n)
	}
}

func wouldBe(p *operatorv1.PreviewedExecution) string {
	if p.GetThen() == "" {
		return p.GetDisposition()
	}
	return p.GetDisposition() + ", then " + p.GetThen()
}

// foreseen is the preview in a line: "4 running: 1 handover, 2 complete, then hold, …", most first.
func foreseen(got *operatorv1.PreviewDrainResponse) string {
	counts := map[string]int{}
	for _, p := range got.GetExecutions() {
		counts[wouldBe(p)]++
	}
	kinds := slices.SortedFunc(maps.Keys(counts), func(x, y string) int { return cmp.Or(cmp.Compare(counts[y], counts[x]), cmp.Compare(x, y)) })
	parts := make([]string, 0, len(kinds))
	for _, kind := range kinds {
		parts = append(parts, fmt.Sprintf("%d %s", counts[kind], kind))
	}
	return fmt.Sprintf("%d running: %s", len(got.GetExecutions()), strings.Join(parts, "; "))
}

func (a *app) drainStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [SPEC]",
		Short: "Show how far drains have come, and when they end",
		Long: `Show how far drains have come: counts by disposition, the oldest execution, when
they are expected to end, and what operators decided. Without a spec those that
go on, of all specs. The estimate is from the pool's own durations: half of the
chances are that nothing runs any more by then.`,
		Example: `  specctl drain status
  specctl drain status customer-service
  specctl drain status customer-service --watch`,
		Args: cobra.MaximumNArgs(1),
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
		req := &operatorv1.ListDrainsRequest{Spec: strings.Join(args, "")}
		read := func(ctx context.Context) (*operatorv1.ListDrainsResponse, error) {
			return ask(ctx, c, client.ListDrains, req, 0)
		}
		return poll(cmd.Context(), a, c, *watch, format, read, a.printDrainStatus)
	}
	return cmd
}

func (a *app) printDrainStatus(got *operatorv1.ListDrainsResponse) {
	if len(got.GetDrains()) == 0 {
		a.out.line("nothing drains")
		return
	}
	for i, d := range got.GetDrains() {
		if i > 0 {
			a.out.line("")
		}
		a.printDrain(d)
	}
}

func (a *app) printDrain(d *operatorv1.Drain) {
	ref := d.GetSpec() + ":" + d.GetVersion()
	running := d.GetInFlight()
	if d.GetKind() == "promote" {
		running = d.GetSettling()
	}
	where := ref + " -> " + d.GetTarget()
	if d.GetInstance() != "" {
		where = "instance " + d.GetInstance() + " of " + where
	}
	a.out.line("%s: %s %s, %d running, ordered %s", where, d.GetKind(), d.GetState(), running, a.moment(d.GetOrderedAt()))
	if d.GetFinalTarget() != "" {
		a.out.field("now to", "%s, since %s was abandoned too", d.GetFinalTarget(), d.GetTarget())
	}
	a.out.field("settled", "%d completed, %d handed over (%d arrived), %d cancelled, %d held", d.GetCompleted(), d.GetHandedOver(), d.GetArrived(), d.GetCancelled(), d.GetHeld())
	if n := d.GetLost(); n > 0 {
		a.out.field("lost", "%d still ran when the process ended, as it had last told", n)
	}
	if x := d.GetOldest(); x != nil {
		line := fmt.Sprintf("%s %s, began %s: %s", x.GetMethod(), x.GetPath(), a.moment(x.GetStartedAt()), executionName(x))
		if x.GetSettleBy().IsValid() {
			line += "; until " + a.moment(x.GetSettleBy())
			if x.GetHolds() {
				line += ", then held"
			}
		}
		a.out.field("oldest", "%s", line)
	}
	switch {
	case d.GetEta() != nil:
		line := "in about " + span(d.GetEta().AsDuration())
		if d.GetP50() != nil {
			line += fmt.Sprintf(" (executions here take %s, 99 %% at most %s)", span(d.GetP50().AsDuration()), span(d.GetP99().AsDuration()))
		}
		if n := d.GetHolding(); n > 0 {
			line += fmt.Sprintf("; %d of them then held for a person, if not done before", n)
		}
		a.out.field("ends", "%s", line)
	case d.GetEtaUnknown() != "":
		a.out.field("ends", "not known: %s", d.GetEtaUnknown())
	}
	for _, l := range d.GetLaggards() {
		a.out.field("waiting", "%s", l)
	}
	earlier := 0
	for _, i := range d.GetInterventions() {
		if i.GetAt().AsTime().Before(d.GetOrderedAt().AsTime()) {
			earlier++ // than this order
			continue
		}
		a.out.field(i.GetId(), "%s", a.interventionLine(i))
	}
	if earlier > 0 {
		a.out.field("earlier", "%s by operators before this order (-o json has them)", plural(earlier, "decision", "decisions"))
	}
	if d.GetState() == "held" {
		a.out.field("next", "specctl executions %s --on %s   (then: specctl execution cancel|complete ID --reason \"…\")", d.GetSpec(), d.GetVersion())
	}
}
