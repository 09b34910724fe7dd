package cli

import (
	"context"

	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

type rollbackFlags struct {
	to, from, reason, undo string
	dryRun, now            bool
}

func (a *app) rollbackCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback SPEC",
		Short: "Abandon the newest version in favour of the last good one",
		Long: `Abandon the newest version that holds traffic in favour of the last good one,
and settle its running executions by its in-flight contract.

Returns when the rollback has taken effect, then watches the cure. Repeating it
changes nothing, whoever repeats it: it names what it abandons.`,
		Example: `  specctl rollback customer-service --dry-run
  specctl rollback customer-service
  specctl rollback customer-service --to 2.0.3 --reason "refuses refunds"
  specctl rollback --undo PM-1`,
	}
	var f rollbackFlags
	output := outputFlag(cmd, asTable, asJSON)
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "version to go to"+versionHelp+" (default: last good)")
	flags.StringVar(&f.from, "from", "", "version to abandon"+versionHelp+" (default: the newest that holds weight)")
	flags.StringVar(&f.reason, "reason", "", "why, for the record")
	flags.StringVar(&f.undo, "undo", "", "put back what this rollback replaced, within an hour of it, such as PM-1")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would happen, change nothing")
	flags.BoolVar(&f.now, "now", false, "go ahead although the target has no ready instance")
	following := a.followFlags(cmd)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case f.undo == "" && len(args) != 1:
			return usageError(cmd, "%s wants one spec, got %s", cmd.CommandPath(), plural(len(args), "argument", "arguments"))
		case f.undo != "" && (len(args) > 0 || f.to != "" || f.from != "" || f.dryRun || f.now):
			return usageError(cmd, "--undo %s says it all: it takes no spec, --to, --from, --dry-run or --now", f.undo)
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		var changes []*operatorv1.Change
		if f.undo != "" {
			changes, err = undo(cmd.Context(), c, f)
		} else {
			if err := a.resolveVersions(cmd, c, args[0], &f.to, &f.from); err != nil {
				return err
			}
			changes, err = rollback(cmd.Context(), c, args[0], f)
		}
		if err != nil {
			return err
		}
		return a.conclude(cmd.Context(), c, changes, following(), format)
	}
	return cmd
}

// rollback asks for it with the generation that was current when the person typed, so that whoever comes second finds it done. What to
// abandon is the control plane's to decide unless the person said: between looking and asking the world may have moved.
func rollback(ctx context.Context, c *conn, spec string, f rollbackFlags) ([]*operatorv1.Change, error) {
	seen, err := ask(ctx, c, client.GetSpec, &operatorv1.GetSpecRequest{Spec: spec}, 0)
	if err != nil {
		return nil, err
	}
	done, err := ask(ctx, c, client.Rollback, &operatorv1.RollbackRequest{
		Targets: []*operatorv1.RollbackTarget{{Spec: spec, To: f.to, From: f.from, Generation: seen.GetSpec().GetGeneration()}},
		Reason:  f.reason, DryRun: f.dryRun, Now: f.now,
	}, 0)
	if err != nil {
		return nil, err
	}
	return done.GetChanges(), nil
}

func undo(ctx context.Context, c *conn, f rollbackFlags) ([]*operatorv1.Change, error) {
	undone, err := ask(ctx, c, client.Undo, &operatorv1.UndoRequest{Postmortem: f.undo, Reason: f.reason}, 0)
	if err != nil {
		return nil, err
	}
	return undone.GetChanges(), nil
}
