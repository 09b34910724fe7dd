package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

func (a *app) lineageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lineage SPEC",
		Short: "Tell where a spec's versions came from and what became of them",
		Long: `Tell where a spec's versions came from and what became of them: what each was
derived from ("parents" in its spec.yaml), which post-mortem it answers, when it
first had traffic, who took it away and why. Newest first.`,
		Example: "  specctl lineage customer-service",
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
		got, err := ask(cmd.Context(), c, client.GetLineage, &operatorv1.GetLineageRequest{Spec: args[0]}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(got)
		}
		for _, v := range slices.Backward(got.GetVersions()) {
			a.printLineage(v)
		}
		return nil
	}
	return cmd
}

func (a *app) printLineage(v *operatorv1.LineageEntry) {
	from := ""
	if len(v.GetParents()) > 0 {
		from = " from " + strings.Join(v.GetParents(), ", ")
	}
	a.out.heading("%s%s", v.GetVersion(), from)
	standing := v.GetStanding()
	if v.GetStandingReason() != "" {
		standing += ": " + v.GetStandingReason()
	}
	if v.GetPostmortem() != "" {
		standing += " (" + v.GetPostmortem() + ")"
	}
	a.out.field("standing", "%s", standing)
	a.out.field("answers", "%s", v.GetFixes())
	a.out.field("published", "%s by %s", a.moment(v.GetPublishedAt()), v.GetPublishedBy())
	t := newTable(">GENERATION", "AT", "TRAFFIC", "BY")
	for _, e := range v.GetEvents() {
		by := e.GetKind() + " by " + e.GetActor()
		if e.GetAbandoned() {
			by += ", abandoned (" + e.GetPostmortem() + ")"
		}
		t.row(fmt.Sprint(e.GetGeneration()), a.clock(e.GetAt()), percent(e.GetBefore())+" -> "+percent(e.GetAfter()), by)
	}
	a.out.print(t, "  ")
}
