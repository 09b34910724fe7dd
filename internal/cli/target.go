package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

func (a *app) targetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "target REF --header NAME=VALUE...",
		Short: "Lead who carries a header to a version: testers, tenants, A/B",
		Long: `Lead new executions that carry a header to a version, whatever the weights; nobody
else is moved. The value is compared byte for byte. Any one of several headers is
enough; of several that lead to different versions the first in the list counts.

They count among the version's outcomes and not in a canary's evidence, since nobody
drew them. A rollback of the version takes its headers away in the same transaction;
a version that only headers lead to is rolled back with specctl rollback SPEC --from.

` + refHelp,
		Example: `  specctl target customer-service:2.1.0 --header x-tenant=acme --reason "acme tries it"
  specctl target customer-service:2.1.0 --header x-tester=true --for 24h
  specctl target list customer-service
  specctl target remove customer-service --header x-tenant=acme`,
		Args: exactly(1, "one REF, such as customer-service:2.1.0"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	headers := headerFlag(cmd)
	flags := cmd.Flags()
	lasts := flags.Duration("for", 0, "when it ends by itself, such as 24h (default: never)")
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
		named, err := headers()
		if err == nil && len(named) == 0 {
			err = errors.New("say which header leads to the version: --header NAME=VALUE")
		}
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
		set, err := ask(cmd.Context(), c, client.SetHeaderTargets, &operatorv1.SetHeaderTargetsRequest{
			Spec: ref.Spec, Version: ref.Version, Headers: named, Lasts: durationpb.New(*lasts), Reason: *reason, DryRun: *dryRun, Automation: *automation, Now: *now,
		}, 0)
		if err != nil {
			return err
		}
		return a.conclude(cmd.Context(), c, []*operatorv1.Change{set.GetChange()}, follow(), format)
	}
	cmd.AddCommand(a.targetListCommand(), a.targetRemoveCommand())
	return cmd
}

func (a *app) targetListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list SPEC",
		Short:   "List the headers that lead to versions of a spec",
		Long:    "List the headers that lead to versions of a spec, in the order in which they count.",
		Example: "  specctl target list customer-service\n  specctl target list customer-service -o json | jq '.headerTargets'",
		Args:    exactly(1, "one spec"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.GetSpec, &operatorv1.GetSpecRequest{Spec: args[0]}, 0)
		if err != nil {
			return err
		}
		targets := got.GetSpec().GetHeaderTargets()
		switch {
		case format == asJSON:
			return a.headerTargetsJSON(targets)
		case len(targets) == 0:
			a.out.line("%s: no header leads to a version", clean(args[0]))
		default:
			a.printHeaderTargets(targets)
		}
		return nil
	}
	return cmd
}

// headerTargetsJSON prints {"headerTargets": [...]}.
func (a *app) headerTargetsJSON(targets []*operatorv1.HeaderTarget) error {
	result := struct {
		HeaderTargets []json.RawMessage `json:"headerTargets"`
	}{HeaderTargets: []json.RawMessage{}}
	for _, t := range targets {
		raw, err := messageJSON(t)
		if err != nil {
			return err
		}
		result.HeaderTargets = append(result.HeaderTargets, raw)
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return err
	}
	return a.out.rawJSON(raw)
}

func (a *app) targetRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove SPEC --header NAME=VALUE... | --all",
		Short: "End that headers lead to versions",
		Long: `End that headers lead to versions: who carries them goes by weight again. What runs
goes on: this is no rollback. specctl rollback SPEC --from VERSION is one.`,
		Example: "  specctl target remove customer-service --header x-tenant=acme\n  specctl target remove customer-service --all",
		Args:    exactly(1, "one spec"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	headers := headerFlag(cmd)
	all := cmd.Flags().Bool("all", false, "all of the spec's")
	reason := cmd.Flags().String("reason", "", "why, for the record")
	dryRun := cmd.Flags().Bool("dry-run", false, "say what would happen, change nothing")
	follow := a.followFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		named, err := headers()
		if err == nil && *all == (len(named) > 0) {
			err = errors.New("say which: --header NAME=VALUE, or --all")
		}
		if err != nil {
			return usageError(cmd, "%v", err)
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		removed, err := ask(cmd.Context(), c, client.RemoveHeaderTargets, &operatorv1.RemoveHeaderTargetsRequest{Spec: args[0], Headers: named, All: *all, Reason: *reason, DryRun: *dryRun}, 0)
		if err != nil {
			return err
		}
		return a.conclude(cmd.Context(), c, []*operatorv1.Change{removed.GetChange()}, follow(), format)
	}
	return cmd
}

// headerFlag adds --header; what it returns reads it.
func headerFlag(cmd *cobra.Command) func() ([]*operatorv1.Header, error) {
	list := cmd.Flags().StringArray("header", nil, "a header and its value, NAME=VALUE; may be repeated")
	return func() ([]*operatorv1.Header, error) {
		var out []*operatorv1.Header
		for _, text := range *list {
			name, value, ok := strings.Cut(text, "=")
			if !ok {
				return nil, fmt.Errorf("--header %q: write NAME=VALUE, such as x-tenant=acme", text)
			}
			out = append(out, &operatorv1.Header{Name: name, Value: value})
		}
		return out, nil
	}
}

func (a *app) printHeaderTargets(targets []*operatorv1.HeaderTarget) {
	t := newTable("HEADER", "LEADS TO", "UNTIL", "BY", "WHY")
	for _, x := range targets {
		until := "removed"
		if x.GetUntil().IsValid() {
			until = a.moment(x.GetUntil())
		}
		t.row(headerName(x), x.GetVersion(), until, x.GetActor(), x.GetReason())
	}
	a.out.print(t, "  ")
}

func headerName(t *operatorv1.HeaderTarget) string { return t.GetHeader() + ": " + t.GetValue() }

// headerTargets writes them in a line.
func headerTargets(targets []*operatorv1.HeaderTarget) string {
	if len(targets) == 0 {
		return "no header leads to a version"
	}
	parts := make([]string, 0, len(targets))
	for _, t := range targets {
		parts = append(parts, headerName(t)+" -> "+t.GetVersion())
	}
	return strings.Join(parts, ", ")
}
