package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

func (a *app) executionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "execution",
		Short: "Decide over one running execution in place of its rule",
		Long: `Decide over one running execution in place of its rule. What is decided goes to
the sidecar that owns it, which checks it against what the execution has done by
then, and is written down with who and why: for ever, and in the post-mortem
that is open over its version.`,
		Example: `  specctl executions customer-service --on 2.1.0
  specctl execution cancel ID --reason "customer hung up"`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError(cmd, "say what: cancel, complete or handover")
		},
	}
	cmd.AddCommand(
		a.settleCommand("cancel", "End it with the signal to retry",
			`End one execution with the signal to retry. One with a known irreversible
effect is refused, with what it did, unless --despite-effects says that this is
meant: nothing undoes the effect.`),
		a.settleCommand("complete", "Let it run until it ends, without a deadline",
			`Let one execution run until it ends, in spite of its rule: without a deadline,
and no longer held.`),
		a.settleCommand("handover", "Begin it again under the target, unseen by the client",
			`Begin one execution again under the version that takes over. What it did may be
done twice, so one that acted is refused unless --despite-effects says that this
is meant; an irreversible act is never repeated.`),
	)
	return cmd
}

func (a *app) settleCommand(disposition, short, long string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     disposition + " ID",
		Short:   short,
		Long:    long,
		Example: fmt.Sprintf("  specctl execution %s ID --reason \"…\"", disposition),
		Args:    exactly(1, "one execution id"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	reason := cmd.Flags().String("reason", "", "why; required, it is written into the record")
	despite := cmd.Flags().Bool("despite-effects", false, "in spite of what the execution did")
	timeout := cmd.Flags().Duration("timeout", 10*time.Second, "how long to wait for its sidecar")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		if strings.TrimSpace(*reason) == "" {
			return usageError(cmd, "--reason is required: it is written into the record")
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.SettleExecution, &operatorv1.SettleExecutionRequest{
			Id: args[0], Disposition: disposition, Reason: *reason, DespiteEffects: *despite, Wait: durationpb.New(*timeout),
		}, *timeout)
		if err != nil {
			return err
		}
		if format == asJSON {
			if err := a.out.json(got); err != nil {
				return err
			}
		}
		return a.concludeIntervention(got.GetIntervention(), format)
	}
	return cmd
}

// concludeIntervention says what became of it, by the exit code too.
func (a *app) concludeIntervention(i *operatorv1.Intervention, format string) error {
	if format != asJSON {
		a.out.line("%s: %s", i.GetId(), a.interventionLine(i))
		if i.GetDespiteEffects() && i.GetState() != "refused" {
			a.out.line("IN SPITE OF ITS EFFECTS (%s), which nothing has undone: specctl effects %s --on %s", i.GetEffects(), i.GetSpec(), i.GetVersion())
		}
	}
	switch i.GetState() {
	case "refused":
		return fmt.Errorf("%s %s: its sidecar refused: %s\n  next: specctl executions %s --on %s", i.GetDisposition(), i.GetExecution(), i.GetRefusal(), i.GetSpec(), i.GetVersion())
	case "pending":
		a.out.field("next", "specctl drain status %s   (it goes on by itself)", i.GetSpec())
		return errUnproven
	}
	return nil
}

func (a *app) interventionLine(i *operatorv1.Intervention) string {
	line := fmt.Sprintf("%s %s of %s:%s, %s, by %s %s: %s", i.GetDisposition(), i.GetExecution(), i.GetSpec(), i.GetVersion(), i.GetState(), i.GetActor(), a.clock(i.GetAt()), i.GetReason())
	if i.GetDespiteEffects() {
		line += " (in spite of its effects)"
	}
	if i.GetRefusal() != "" {
		line += "; refused: " + i.GetRefusal()
	}
	if i.GetPostmortem() != "" {
		line += " (" + i.GetPostmortem() + ")"
	}
	return line
}
