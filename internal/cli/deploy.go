package cli

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/versions"
)

// changeFlags are what deploy and weights have in common.
type changeFlags struct {
	reason     string
	dryRun     bool
	now        bool
	automation bool
	override   string
	atOnce     bool
	follow     func() follow
}

func (a *app) addChangeFlags(cmd *cobra.Command) *changeFlags {
	f := &changeFlags{}
	flags := cmd.Flags()
	flags.StringVar(&f.reason, "reason", "", "why, for the record")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would happen, change nothing")
	flags.BoolVar(&f.now, "now", false, "go ahead although a version has no ready instance")
	flags.BoolVar(&f.automation, "automation", false, "for CI and scripts: be refused while the spec is frozen (SPECPROXY_AUTOMATION)")
	flags.StringVar(&f.override, "override", "", "deploy in spite of this open post-mortem, such as PM-1")
	f.follow = a.followFlags(cmd)
	return f
}

func (f *changeFlags) overridden() *operatorv1.Override {
	if f.override == "" {
		return nil
	}
	return &operatorv1.Override{Postmortem: f.override, Reason: f.reason}
}

func (a *app) deployCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deploy REF...",
		Short: "Give versions all of their specs' traffic, in one transaction",
		Long: `Give each named version all of its spec's traffic, in one transaction.
Deploying an earlier version is a rollback and is treated as one.

A version whose manifest has a plan (rollout:) gets its traffic step by step, by
evidence, unless --at-once is given; so does any version with --canary or --plan,
which go before the manifest's plan. See specctl plan for what a plan comes to, and
specctl canary for how it goes on.

Before a canary gets traffic its way back is rehearsed at every proxy, which takes a
moment; if it cannot be proven the deploy is refused. --no-rehearsal with --reason is
for emergencies, and on record.

` + refHelp,
		Example: `  specctl deploy customer-service:2.1.0
  specctl deploy customer-service:2.1.0 billing:1.4.0 --dry-run
  specctl deploy customer-service:2.1.0 --canary
  specctl deploy customer-service:2.1.0 --canary=careful
  specctl deploy customer-service:2.1.0 --at-once
  specctl deploy customer-service:2.1.0 --override PM-1 --reason "false alarm"`,
		Args: atLeast(1, "one REF or more, such as customer-service:2.1.0"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	flags := a.addChangeFlags(cmd)
	canary := addCanaryFlags(cmd)
	cmd.Flags().BoolVar(&flags.atOnce, "at-once", false, "all the traffic now, although the manifest has a plan")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		if canary.asked() && flags.atOnce {
			return usageError(cmd, "--at-once is the opposite of --canary and --plan: give one of them")
		}
		if canary.asked() {
			return a.deployCanary(cmd, args, flags, canary, format)
		}
		request := &operatorv1.DeployRequest{
			Reason: flags.reason, DryRun: flags.dryRun, Now: flags.now, Automation: flags.automation, Override: flags.overridden(),
			AtOnce: flags.atOnce, Impossible: canary.impossible, NoRehearsal: canary.noRehearsal,
		}
		references := make([]reference, len(args))
		for i, arg := range args {
			if references[i], err = parseReference(arg); err != nil {
				return usageError(cmd, "%v", err)
			}
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		for _, r := range references {
			ref, err := a.resolve(cmd.Context(), c, r)
			if err != nil {
				return err
			}
			request.Refs = append(request.Refs, &operatorv1.Ref{Spec: ref.Spec, Version: ref.Version})
		}
		deployed, err := ask(cmd.Context(), c, client.Deploy, request, rehearsalWait)
		if err != nil {
			return err
		}
		return a.conclude(cmd.Context(), c, deployed.GetChanges(), flags.follow(), format)
	}
	return cmd
}

func (a *app) weightsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "weights SPEC VERSION=PERCENT...",
		Short: "Split one spec's traffic over versions",
		Long: `Split one spec's traffic over versions, in percent with up to two decimals.
The percentages sum to 100; versions that are not named get none.`,
		Example: `  specctl weights customer-service 2.0.3=90 2.1.0=10
  specctl weights customer-service 2.0.3=99.75 2.1.0=0.25`,
		Args: atLeast(2, "a spec and its weights, such as customer-service 2.0.3=90 2.1.0=10"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	flags := a.addChangeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		named, err := a.resolveWeights(cmd.Context(), c, args[0], args[1:])
		if err != nil {
			return err
		}
		weights, err := parseWeights(named)
		if err != nil {
			return usageError(cmd, "%s: %v", args[0], err)
		}
		set, err := ask(cmd.Context(), c, client.SetWeights, &operatorv1.SetWeightsRequest{
			Spec: args[0], Weights: weights,
			Reason: flags.reason, DryRun: flags.dryRun, Now: flags.now, Automation: flags.automation, Override: flags.overridden(),
		}, 0)
		if err != nil {
			return err
		}
		return a.conclude(cmd.Context(), c, []*operatorv1.Change{set.GetChange()}, flags.follow(), format)
	}
	return cmd
}

// resolveWeights puts versions in place of the names that stand for one.
func (a *app) resolveWeights(ctx context.Context, c *conn, spec string, args []string) ([]string, error) {
	named := slices.Clone(args)
	for i, arg := range args {
		what, percent, ok := strings.Cut(arg, "=")
		r, err := parseWhat(spec, what)
		if !ok || what == "" || err != nil || r.exact() {
			continue // for parseWeights to judge
		}
		ref, err := a.resolve(ctx, c, r)
		if err != nil {
			return nil, err
		}
		named[i] = ref.Version + "=" + percent
	}
	return named, nil
}

var percentage = regexp.MustCompile(`^(\d{1,3})(?:\.(\d{1,2}))?%?$`)

// parseWeights reads VERSION=PERCENT arguments exactly: percentages are decimal strings, never floats.
func parseWeights(args []string) ([]*operatorv1.Weight, error) {
	const all = 10_000
	var weights []*operatorv1.Weight
	seen := map[string]bool{}
	var sum uint32
	for _, arg := range args {
		version, text, ok := strings.Cut(arg, "=")
		digits := percentage.FindStringSubmatch(text)
		if !ok || version == "" || digits == nil {
			return nil, fmt.Errorf("%q is no weight: write VERSION=PERCENT with up to two decimals, such as 2.1.0=12.5", arg)
		}
		if err := versions.CheckVersion(version); err != nil {
			return nil, err
		}
		if seen[version] {
			return nil, fmt.Errorf("version %s is named twice", version)
		}
		seen[version] = true
		// At most five digits: cannot fail, cannot overflow.
		basisPoints, err := strconv.ParseUint(digits[1]+(digits[2] + "00")[:2], 10, 32)
		if err != nil {
			return nil, err
		}
		sum += uint32(basisPoints)
		weights = append(weights, &operatorv1.Weight{Version: version, BasisPoints: uint32(basisPoints)})
	}
	if sum != all {
		return nil, fmt.Errorf("the weights %s sum to %s, not to 100%%", split(weights), percent(sum))
	}
	return weights, nil
}

func (a *app) unfreezeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unfreeze SPEC",
		Short: "Let automation change a spec again after a rollback",
		Long: `Let automation change a spec again. A rollback freezes its spec for automation
(--automation, or SPECPROXY_AUTOMATION=1 for every command) until a person
unfreezes it or a declared time passes.`,
		Example: "  specctl unfreeze customer-service",
		Args:    exactly(1, "one spec"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if _, err := ask(cmd.Context(), c, client.Unfreeze, &operatorv1.UnfreezeRequest{Spec: args[0]}, 0); err != nil {
				return err
			}
			a.out.line("%s: automation may change it again", clean(args[0]))
			return nil
		},
	}
}
