package cli

import (
	"encoding/csv"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

func (a *app) effectsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "effects SPEC",
		Short: "List what executions did to the world, with what would undo it",
		Long: `List the acts of a version's executions that went beyond reading, worst class
first: what to compensate after a rollback. An act is known if its tool is
declared in the manifest and was called through the sidecar, if the agent asked
before it acted, or if it reported the act.`,
		Example: `  specctl effects customer-service --on 2.1.0
  specctl effects customer-service --on 2.1.0 -o csv > undo.csv`,
		Args: exactly(1, "one spec"),
	}
	output := outputFlag(cmd, asTable, asCSV, asJSON)
	on := cmd.Flags().String("on", "", "only this version"+versionHelp)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		if err := a.resolveVersions(cmd, c, args[0], on); err != nil {
			return err
		}
		list, err := ask(cmd.Context(), c, client.ListEffects, &operatorv1.ListEffectsRequest{Spec: args[0], Version: *on}, 0)
		if err != nil {
			return err
		}
		switch format {
		case asJSON:
			return a.out.json(list)
		case asCSV:
			err = a.effectsCSV(list.GetEffects())
		default:
			a.effectsTable(list)
		}
		if n := list.GetOmitted(); n > 0 {
			fmt.Fprintf(a.env.Stderr, "specctl: %d more acts or executions are counted but no longer kept\n", n)
		}
		return err
	}
	return cmd
}

var effectColumns = []string{
	"class", "tool", "key", "compensation", "at", "source", "version", "execution", "execution_key", "instance", "outcome", "reason", "disposition", "running",
}

func (a *app) effectsCSV(effects []*operatorv1.Effect) error {
	w := csv.NewWriter(a.env.Stdout)
	if err := w.Write(effectColumns); err != nil {
		return err
	}
	for _, e := range effects {
		record := []string{
			e.GetClass(), e.GetTool(), e.GetKey(), e.GetCompensation(), stamp(e.GetAt()), e.GetSource(), e.GetVersion(), e.GetExecution(), e.GetExecutionKey(),
			e.GetInstance(), e.GetOutcome(), e.GetReason(), e.GetDisposition(), strconv.FormatBool(e.GetRunning()),
		}
		if a.env.Terminal {
			for i := range record {
				record[i] = clean(record[i])
			}
		}
		if err := w.Write(record); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

func (a *app) effectsTable(list *operatorv1.ListEffectsResponse) {
	if len(list.GetEffects()) == 0 {
		a.out.line("nothing is known to have been done beyond reading")
		return
	}
	t := newTable("AT", "VERSION", "CLASS", "TOOL", "KEY", "UNDO BY", "STATE", "EXECUTION")
	for _, e := range list.GetEffects() {
		state := e.GetOutcome()
		if e.GetRunning() {
			state = "running"
		}
		if state == "" {
			state = "ended"
		}
		execution := e.GetExecution()
		if key := e.GetExecutionKey(); key != "" {
			execution += " key=" + key
		}
		t.row(a.clock(e.GetAt()), e.GetVersion(), e.GetClass(), e.GetTool(), e.GetKey(), e.GetCompensation(), state, execution)
	}
	a.out.print(t, "")
	for _, c := range list.GetCounts() {
		a.out.field(c.GetVersion(), "%s: %d by %d executions", c.GetClass(), c.GetActs(), c.GetExecutions())
	}
}
