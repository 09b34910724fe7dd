package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

func (a *app) shadowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shadow REF --percent N",
		Short: "Send copies of requests to a version, and compare how both end",
		Long: `Send copies of a share of a spec's requests to a version that has no traffic. Clients
get the answers of the version that has it; nobody sees the copies'. Their agents
are told x-spec-shadow: true and must leave the world as it is: only versions whose
manifest says shadow: safe get copies.

Copies are in no count, evidence or drain. A rollback of the version, and any change
of the spec's weights, ends its shadow in the same transaction.

` + refHelp,
		Example: `  specctl shadow customer-service:2.1.0 --percent 10 --for 1h --reason "before the canary"
  specctl shadow status customer-service --watch
  specctl shadow stop customer-service`,
		Args: exactly(1, "one REF, such as customer-service:2.1.0"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	flags := cmd.Flags()
	share := flags.String("percent", "", "of the requests, with up to two decimals, such as 10 or 0.5")
	lasts := flags.Duration("for", 0, "when it ends by itself, such as 1h (default: never)")
	reason := flags.String("reason", "", "why, for the record")
	dryRun := flags.Bool("dry-run", false, "say what would happen, change nothing")
	now := flags.Bool("now", false, "go ahead although the version has no ready instance")
	automation := flags.Bool("automation", false, "for CI and scripts: be refused while the spec is frozen (SPECPROXY_AUTOMATION)")
	follow := a.followFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		basisPoints, err := parseShare(*share)
		if err == nil && *lasts < 0 {
			err = fmt.Errorf("--for %s is in the past", *lasts)
		}
		if err != nil {
			return usageError(cmd, "%v", err)
		}
		r, err := parseReference(args[0])
		if err != nil {
			return usageError(cmd, "%v", err)
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		ref, err := a.resolve(cmd.Context(), c, r)
		if err != nil {
			return err
		}
		set, err := ask(cmd.Context(), c, client.SetShadow, &operatorv1.SetShadowRequest{
			Spec: ref.Spec, Version: ref.Version, BasisPoints: basisPoints, Lasts: durationpb.New(*lasts), Reason: *reason, DryRun: *dryRun, Automation: *automation, Now: *now,
		}, 0)
		if err != nil {
			return err
		}
		return a.conclude(cmd.Context(), c, []*operatorv1.Change{set.GetChange()}, follow(), format)
	}
	cmd.AddCommand(a.shadowStatusCommand(), a.shadowStopCommand())
	return cmd
}

// parseShare reads a percentage into basis points.
func parseShare(text string) (uint32, error) {
	digits := percentage.FindStringSubmatch(text)
	if digits == nil {
		return 0, fmt.Errorf("--percent %q: write a percentage with up to two decimals, such as 10 or 0.5", text)
	}
	n, err := strconv.ParseUint(digits[1]+(digits[2] + "00")[:2], 10, 32) // at most five digits
	return uint32(n), err
}

func (a *app) shadowStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status SPEC",
		Short: "Show a spec's newest shadow and its pairs",
		Long: `Show a spec's newest shadow: how the copies ended beside their requests, the newest
pairs of which one failed, and how often chance alone would divide these so.`,
		Example: `  specctl shadow status customer-service
  specctl shadow status customer-service -o json | jq '.discordant[].request'`,
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
		read := func(ctx context.Context) (*operatorv1.GetShadowResponse, error) {
			return ask(ctx, c, client.GetShadow, &operatorv1.GetShadowRequest{Spec: args[0]}, 0)
		}
		return poll(cmd.Context(), a, c, *watch, format, read, func(got *operatorv1.GetShadowResponse) { a.printShadow(args[0], got) })
	}
	return cmd
}

func (a *app) shadowStopCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "stop SPEC",
		Short:   "Send no more copies of requests",
		Long:    "Send no more copies of a spec's requests. Those that run go on; nobody waits for them.",
		Example: "  specctl shadow stop customer-service",
		Args:    exactly(1, "one spec"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	reason := cmd.Flags().String("reason", "", "why, for the record")
	dryRun := cmd.Flags().Bool("dry-run", false, "say what would happen, change nothing")
	follow := a.followFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		stopped, err := ask(cmd.Context(), c, client.StopShadow, &operatorv1.StopShadowRequest{Spec: args[0], Reason: *reason, DryRun: *dryRun}, 0)
		if err != nil {
			return err
		}
		return a.conclude(cmd.Context(), c, []*operatorv1.Change{stopped.GetChange()}, follow(), format)
	}
	return cmd
}

// shadowLine writes a shadow in a line.
func (a *app) shadowLine(s *operatorv1.Shadow) string {
	if s == nil {
		return "no request is copied"
	}
	text := fmt.Sprintf("%s of the requests are copied to %s, by %s", percent(s.GetBasisPoints()), s.GetVersion(), s.GetActor())
	if s.GetUntil().IsValid() {
		text += ", until " + a.moment(s.GetUntil())
	}
	if s.GetReason() != "" {
		text += ": " + s.GetReason()
	}
	return text
}

func (a *app) printShadow(spec string, got *operatorv1.GetShadowResponse) {
	a.out.line("shadow %s:%s beside %s", clean(spec), clean(got.GetShadow().GetVersion()), clean(got.GetStable()))
	a.out.field("copies", "%s", a.shadowLine(got.GetShadow()))
	if got.GetEndedAt().IsValid() {
		a.out.field("ended", "%s, by %s", a.moment(got.GetEndedAt()), got.GetEndedBy())
	}
	t := newTable(">BOTH SUCCEEDED", ">REQUEST FAILED", ">COPY FAILED", ">BOTH FAILED", ">UNKNOWN")
	t.row(fmt.Sprint(got.GetBothSucceeded()), fmt.Sprint(got.GetRequestFailed()), fmt.Sprint(got.GetCopyFailed()), fmt.Sprint(got.GetBothFailed()), fmt.Sprint(got.GetUnknown()))
	a.out.print(t, "  ")
	pairs := got.GetBothSucceeded() + got.GetRequestFailed() + got.GetCopyFailed() + got.GetBothFailed() + got.GetUnknown()
	var alone []string
	if n := got.GetRequests() - pairs; n > 0 {
		alone = append(alone, plural(int(n), "request", "requests"))
	}
	if n := got.GetCopies() - pairs; n > 0 {
		alone = append(alone, plural(int(n), "copy", "copies"))
	}
	if len(alone) > 0 {
		a.out.field("unpaired", "%s: the other half has not ended, or was not told of", strings.Join(alone, " and "))
	}
	if got.Sign != nil {
		a.out.field("by chance", "p = %s that %d and %d divide so or worse where a copy fails as often as its request (sign test, for one look)",
			number(got.GetSign()), got.GetRequestFailed(), got.GetCopyFailed())
	}
	if n := got.GetCounts().GetActed(); n > 0 {
		a.out.styled(red, "acted", "%s reported acts although they had been told to do nothing: shadow: safe is wrong", plural(int(n), "copy", "copies"))
	}
	if len(got.GetDiscordant()) == 0 {
		return
	}
	a.out.line("")
	d := newTable("ENDED", "REQUEST", "EXECUTION", "COPY", "EXECUTION")
	for _, p := range got.GetDiscordant() {
		d.row(a.clock(p.GetAt()), p.GetRequestOutcome(), p.GetRequest(), p.GetCopyOutcome(), p.GetCopy())
	}
	a.out.print(d, "  ")
}
