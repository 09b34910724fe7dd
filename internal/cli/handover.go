package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

func (a *app) handoverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "handover SPEC --to NAME",
		Short: "Give what is open of a spec to somebody, and say what that is",
		Long: `Give every open post-mortem of a spec an owner and a due date, and print what is
locked, what is left to do with the command for each, and when to wake somebody.
With --dry-run nothing changes.`,
		Example: `  specctl handover customer-service --to day-team --note "drained; 436 refunds come back by themselves"
  specctl handover customer-service --dry-run`,
		Args: exactly(1, "one spec"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	flags := cmd.Flags()
	to := flags.String("to", "", "who takes over")
	note := flags.String("note", "", "what they should know")
	due := flags.String("due", "3d", "by when: a date, or a time from now")
	dryRun := flags.Bool("dry-run", false, "only say what would be handed over")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		if *to == "" && !*dryRun {
			return usageError(cmd, "say who takes over: --to NAME")
		}
		by, err := a.dueFlag(cmd, *due)
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		over, err := ask(cmd.Context(), c, client.HandOver, &operatorv1.HandOverRequest{Spec: args[0], To: *to, Note: *note, Due: by, DryRun: *dryRun}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(over)
		}
		switch {
		case len(over.GetPostmortems()) == 0:
			a.out.heading("%s: no post-mortem is open", args[0])
		case *dryRun:
			a.out.heading("%s: %s would change hands", args[0], strings.Join(over.GetPostmortems(), ", "))
		default:
			a.out.heading("%s: %s for %s, due %s", args[0], strings.Join(over.GetPostmortems(), ", "), *to, by.AsTime().Format(time.DateOnly))
		}
		for _, part := range []struct {
			name  string
			lines []string
		}{{"locked", over.GetLocked()}, {"left", over.GetLeft()}, {"wake someone", over.GetWake()}} {
			for _, line := range part.lines {
				a.out.field(part.name, "%s", line)
			}
		}
		return nil
	}
	return cmd
}

func (a *app) statsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats [SPEC]",
		Short: "Say how well deploys of a spec, or of all, have gone",
		Long: `Say how many deploys were rolled back, how long that took to be noticed, to be
undone and to be answered, what canaries caught and what production did, and what
these figures warn of. Times are medians.`,
		Example: `  specctl stats
  specctl stats customer-service --since 720h`,
	}
	output := outputFlag(cmd, asTable, asJSON)
	since := cmd.Flags().Duration("since", 90*24*time.Hour, "how far back")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		switch {
		case err != nil:
			return err
		case len(args) > 1:
			return usageError(cmd, "%s wants one spec or none, got %s", cmd.CommandPath(), plural(len(args), "argument", "arguments"))
		case *since <= 0:
			return usageError(cmd, "--since %s: a time span is more than 0", *since)
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.GetStats, &operatorv1.GetStatsRequest{Spec: strings.Join(args, ""), Since: durationpb.New(*since)}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(got)
		}
		for _, s := range got.GetSpecs() {
			a.printStats(s.GetSpec(), s)
		}
		if len(got.GetSpecs()) != 1 {
			a.printStats("all specs", got.GetOverall())
		}
		return nil
	}
	return cmd
}

func (a *app) printStats(name string, s *operatorv1.Stats) {
	a.out.heading("%s", name)
	rate := "no deploy yet"
	if s.GetDeploys() > 0 {
		rate = fmt.Sprintf("%d, %d of them rolled back later (%.0f %%)", s.GetDeploys(), s.GetFailedDeploys(), 100*float64(s.GetFailedDeploys())/float64(s.GetDeploys()))
	}
	a.out.field("deploys", "%s", rate)
	a.out.field("rollbacks", "%d: %d versions as canaries, %d with all the traffic", s.GetRollbacks(), s.GetCanaryCatches(), s.GetProductionCatches())
	for _, t := range []struct {
		name string
		d    *durationpb.Duration
	}{{"time to detect", s.GetTimeToDetect()}, {"time to restore", s.GetTimeToRestore()}, {"time to close", s.GetTimeToClose()}} {
		if t.d != nil {
			a.out.field(t.name, "%s", t.d.AsDuration().Round(time.Millisecond))
		}
	}
	a.out.field("open", "%d; overridden %d times", s.GetOpen(), s.GetOverrides())
	var causes []string
	for cause, n := range s.GetCauses() {
		causes = append(causes, fmt.Sprintf("%s %d", cause, n))
	}
	slices.Sort(causes)
	a.out.field("causes", "%s", strings.Join(causes, ", "))
	for _, w := range s.GetWarnings() {
		a.out.styled(red, "warning", "%s", w)
	}
}

func (a *app) postmortemAlertCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "alert SPEC --source NAME --name \"…\"",
		Short: "Tell of an alert about a spec, for the post-mortem",
		Long: `Tell of an alert about a spec. It is written into the records that were opened in
the last ten minutes, and into one that is opened within the next hour.`,
		Example: `  specctl postmortem alert customer-service --source alertmanager --name RefundQueueGrows --summary "400 wait"`,
		Args:    exactly(1, "one spec"),
	}
	flags := cmd.Flags()
	source := flags.String("source", "", "what sent it")
	name := flags.String("name", "", "its name there")
	summary := flags.String("summary", "", "what it says")
	version := flags.String("version", "", "the version it is about, if it says so")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *source == "" || *name == "" {
			return usageError(cmd, "say what it is: --source NAME --name \"…\"")
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.Alert, &operatorv1.AlertRequest{Source: *source, Name: *name, Summary: *summary, Spec: args[0], Version: *version}, 0)
		if err != nil {
			return err
		}
		if len(got.GetPostmortems()) == 0 {
			a.out.line("kept for a record that is opened within an hour")
			return nil
		}
		a.out.line("written into %s", clean(strings.Join(got.GetPostmortems(), ", ")))
		return nil
	}
	return cmd
}

func (a *app) postmortemEraseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "erase PM-1 --reason \"…\" [DIGEST...]",
		Short: "Erase personal data of a post-mortem: all of it, or what digests name",
		Long: `Erase the keys and the texts of excerpts that a record names by digest, the same
keys in the lists of executions to redo and to undo, and what else was captured of
its versions' failing executions. The digests stay, so the chain stays whole; what
they stood for is gone for good. What is kept is printed, and why. Exports and
backups are where they were put; what etcd's files keep is in docs/postmortem.md.`,
		Example: `  specctl postmortem erase PM-1 --reason "asked for by the customer"`,
		Args:    atLeast(1, "one post-mortem"),
	}
	reason := cmd.Flags().String("reason", "", "why, for the record")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *reason == "" {
			return usageError(cmd, "--reason is missing: it is written into the record")
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.Erase, &operatorv1.EraseRequest{Id: args[0], Digests: args[1:], Reason: *reason}, 0)
		if err != nil {
			return err
		}
		if got.GetErased()+got.GetExcerpts() == 0 {
			a.out.line("%s: nothing is left to erase", clean(args[0]))
		} else {
			a.out.line("%s: %s erased, and %s", clean(args[0]), plural(int(got.GetErased()), "key is", "keys are"), plural(int(got.GetExcerpts()), "text of an excerpt", "texts of excerpts"))
		}
		for _, line := range got.GetKept() {
			a.out.line("kept: %s", clean(line))
		}
		return nil
	}
	return cmd
}
