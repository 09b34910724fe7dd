package cli

import (
	"context"
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

func (a *app) versionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "versions SPEC",
		Short: "List the versions of a spec, their standing and why",
		Long: `List the versions of a spec, newest first, their standing and why; a page at a
time, optionally only those that begin with some numbers or have one standing.`,
		Example: `  specctl versions customer-service
  specctl versions customer-service --prefix 2.0 --standing good
  specctl versions customer-service -o json | jq -r '.versions[].digest'`,
		Args: exactly(1, "one spec"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	page := addPageFlags(cmd, "only versions with these first numbers, such as 2.0")
	standing := cmd.Flags().String("standing", "", "only this one: published, candidate, good, aborted, quarantined or retired")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		list, err := ask(cmd.Context(), c, client.ListVersions, &operatorv1.ListVersionsRequest{
			Spec: args[0], PageSize: page.limit, PageToken: page.after, Prefix: page.prefix, Standing: *standing,
		}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(list)
		}
		t := newTable("VERSION", ">WEIGHT", "READY", "DIGEST", "PUBLISHED", "STANDING")
		for _, v := range list.GetVersions() {
			why := v.GetStanding()
			if v.GetStandingReason() != "" {
				why += ": " + v.GetStandingReason()
			}
			if v.GetPostmortem() != "" {
				why += " (" + v.GetPostmortem() + ")"
			}
			t.row(v.GetVersion(), percent(v.GetWeight()), ready(v.GetPool()), shortDigest(v.GetDigest()), a.age(v.GetPublishedAt()), why)
		}
		a.out.print(t, "")
		var filters []string
		if *standing != "" {
			filters = append(filters, "--standing "+*standing)
		}
		page.more(a.out, "specctl versions "+args[0], list.GetNextPageToken(), filters...)
		return nil
	}
	return cmd
}

// shortDigest keeps enough of a digest to tell versions apart by eye; -o json has all of it.
func shortDigest(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return hex[:min(len(hex), 12)]
}

func (a *app) executionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "executions SPEC",
		Short: "List running executions, or those to redo",
		Long: `List the running executions of a spec, or with --failed those to redo: that
failed by their business outcome, whatever their status, or that a rollback
cancelled; or with --decided those that a rollback, promotion or shutdown decided
over, each with the rule that did.`,
		Example: `  specctl executions customer-service
  specctl executions customer-service --on 2.1.0 --watch
  specctl executions customer-service --on 2.1.0 --failed -o csv > failed.csv`,
		Args: exactly(1, "one spec"),
	}
	output := outputFlag(cmd, asTable, asCSV, asJSON)
	on := cmd.Flags().String("on", "", "only this version"+versionHelp)
	failed := cmd.Flags().Bool("failed", false, "failed and cancelled executions instead of running ones")
	decided := cmd.Flags().Bool("decided", false, "executions that a rollback, promotion or shutdown decided over, running or ended, each with why")
	watch := cmd.Flags().BoolP("watch", "w", false, "print again whenever something changes, until Ctrl-C (json: one object a line)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		none, what := "nothing is running", "failed executions"
		switch {
		case *failed && *decided:
			return usageError(cmd, "--failed and --decided exclude each other")
		case *failed:
			none = "no failed execution is known"
		case *decided:
			none, what = "no execution is known that an order decided over", "executions"
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		if *watch && format == asCSV {
			return usageError(cmd, "--watch prints a table or json, not csv")
		}
		if err := a.resolveVersions(cmd, c, args[0], on); err != nil {
			return err
		}
		read := func(ctx context.Context) (*operatorv1.ListExecutionsResponse, error) {
			return ask(ctx, c, client.ListExecutions, &operatorv1.ListExecutionsRequest{Spec: args[0], Version: *on, Failed: *failed, Decided: *decided}, 0)
		}
		if *watch {
			return poll(cmd.Context(), a, c, true, format, read, func(list *operatorv1.ListExecutionsResponse) {
				a.executionsTable(list.GetExecutions(), none)
			})
		}
		list, err := read(cmd.Context())
		if err != nil {
			return err
		}
		switch format {
		case asJSON:
			return a.out.json(list)
		case asCSV:
			err = a.executionsCSV(list.GetExecutions())
		default:
			a.executionsTable(list.GetExecutions(), none)
		}
		if n := list.GetOmitted(); n > 0 {
			fmt.Fprintf(a.env.Stderr, "specctl: %d more %s are counted but no longer kept\n", n, what)
		}
		return err
	}
	return cmd
}

var executionColumns = []string{
	"id", "key", "version", "instance", "method", "path", "started_at", "ended_at", "effects", "outcome", "reason",
	"disposition", "why", "route_generation", "status",
}

func (a *app) executionsCSV(executions []*operatorv1.Execution) error {
	w := csv.NewWriter(a.env.Stdout)
	if err := w.Write(executionColumns); err != nil {
		return err
	}
	for _, x := range executions {
		record := []string{
			x.GetId(), x.GetKey(), x.GetVersion(), x.GetInstance(), x.GetMethod(), x.GetPath(), stamp(x.GetStartedAt()), stamp(x.GetEndedAt()),
			x.GetEffects(), x.GetOutcome(), x.GetReason(), x.GetDisposition(), x.GetWhy(),
			strconv.FormatUint(x.GetRouteGeneration(), 10), strconv.Itoa(int(x.GetStatus())),
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

// stamp is a moment for programs, "" if there is none.
func stamp(ts *timestamppb.Timestamp) string {
	if !ts.IsValid() {
		return ""
	}
	return ts.AsTime().UTC().Format(time.RFC3339Nano)
}

func (a *app) executionsTable(executions []*operatorv1.Execution, none string) {
	if len(executions) == 0 {
		a.out.line("%s", none)
		return
	}
	t := newTable("STARTED", "VERSION", "REQUEST", "EFFECTS", "STATE", "ID")
	for _, x := range executions {
		t.row(a.clock(x.GetStartedAt()), x.GetVersion(), x.GetMethod()+" "+x.GetPath(), x.GetEffects(), executionState(x), executionName(x))
	}
	a.out.print(t, "")
	a.printWhys(executions)
}

// ruleOf is the part of an execution's why that names the rule: "rule 2" or "default".
func ruleOf(x *operatorv1.Execution) string {
	label, _, _ := strings.Cut(x.GetWhy(), ":")
	rule, _, _ := strings.Cut(label, " (")
	return rule
}

// printWhys says once what each rule that decided meant, as -o csv does for every execution.
func (a *app) printWhys(executions []*operatorv1.Execution) {
	var whys []string
	for _, x := range executions {
		if x.GetWhy() != "" && !slices.Contains(whys, x.GetWhy()) {
			whys = append(whys, x.GetWhy())
		}
	}
	slices.Sort(whys)
	for _, why := range whys {
		a.out.field("why", "%s", why)
	}
}

func executionState(x *operatorv1.Execution) string {
	var parts []string
	if x.GetDisposition() != "" {
		parts = append(parts, x.GetDisposition())
	}
	switch {
	case x.GetOutcome() != "":
		parts = append(parts, x.GetOutcome())
	case !x.GetEndedAt().IsValid():
		parts = append(parts, "running")
	}
	if x.GetStatus() != 0 {
		parts = append(parts, strconv.Itoa(int(x.GetStatus())))
	}
	return strings.Join(parts, " ")
}

// executionName is the id, the client's own key beside it, the reason of a failure, and which rule of its contract decided over it.
func executionName(x *operatorv1.Execution) string {
	name := x.GetId()
	if x.GetKey() != "" && x.GetKey() != x.GetId() {
		name += " key=" + x.GetKey()
	}
	if x.GetReason() != "" {
		name += ": " + x.GetReason()
	}
	if rule := ruleOf(x); rule != "" {
		name += "; by " + rule
	}
	return name
}

func (a *app) proxiesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proxies [NODE]",
		Short: "List the proxies, what each acknowledged and refused; or all that one has",
		Example: `  specctl proxies
  specctl proxies edge-1
  specctl proxies -o json | jq -r '.proxies[] | select(.connected | not) | .node'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError(cmd, "%s wants one proxy or none, got %s", cmd.CommandPath(), plural(len(args), "argument", "arguments"))
			}
			return nil
		},
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
		list, err := ask(cmd.Context(), c, client.ListProxies, &operatorv1.ListProxiesRequest{}, 0)
		if err != nil {
			return err
		}
		if len(args) == 1 {
			return a.showProxy(list, args[0], format)
		}
		if format == asJSON {
			return a.out.json(list)
		}
		a.printProxies(list.GetProxies())
		a.printReplicas(list.GetReplicas())
		return nil
	}
	cmd.AddCommand(a.forgetProxyCommand())
	return cmd
}

// shownSpecs is how many of a proxy's specs the table names; -o json has all.
const shownSpecs = 4

func (a *app) printProxies(proxies []*operatorv1.Proxy) {
	if len(proxies) == 0 {
		a.out.line("no proxy has ever connected")
		a.out.field("next", "xds bootstrap --node edge-1 --listen 127.0.0.1:10000 > envoy.yaml && envoy -c envoy.yaml")
		return
	}
	t := newTable("NODE", "VERSION", "STATE", "SEEN", "ACKNOWLEDGED")
	for _, p := range proxies {
		state, s := "connected", plain
		if !p.GetConnected() {
			state, s = "away", red
		} else if p.GetReplica() != "" {
			state = "at " + p.GetReplica()
		}
		var acked []string
		for _, spec := range p.GetSpecs() {
			if len(acked) == shownSpecs {
				acked = append(acked, fmt.Sprintf("and %d more", len(p.GetSpecs())-shownSpecs))
				break
			}
			if spec.GetAckedGeneration() == 0 { // it routes the spec; which generation is not known, as of a proxy that is away
				acked = append(acked, spec.GetSpec()+"@?")
				continue
			}
			acked = append(acked, fmt.Sprintf("%s@%d", spec.GetSpec(), spec.GetAckedGeneration()))
		}
		if p.GetRefusal() != "" {
			acked = append(acked, "REFUSED: "+p.GetRefusal())
		}
		t.row(p.GetNode(), p.GetVersion(), state, a.age(p.GetLastSeen()), strings.Join(acked, " "))
		t.mark(2, s)
	}
	a.out.print(t, "")
	if i := slices.IndexFunc(proxies, func(p *operatorv1.Proxy) bool { return !p.GetConnected() }); i >= 0 {
		a.out.field("away", "nobody knows what it does; if it has ended for good: specctl proxies forget %s --reason \"…\"", proxies[i].GetNode())
	}
}
