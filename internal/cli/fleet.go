package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// fleetCommand is what specctl does without a command.
func (a *app) fleetCommand(root *cobra.Command) {
	output := outputFlag(root, asTable, asJSON)
	page := addPageFlags(root, "only specs whose name begins so, by name")
	root.RunE = func(cmd *cobra.Command, _ []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		fleet, err := ask(cmd.Context(), c, client.GetFleet,
			&operatorv1.GetFleetRequest{PageSize: page.limit, PageToken: page.after, Prefix: page.prefix}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(fleet)
		}
		a.printFleet(fleet, page)
		page.more(a.out, "specctl", fleet.GetNextPageToken())
		return nil
	}
}

func (a *app) printFleet(fleet *operatorv1.GetFleetResponse, page *pageFlags) {
	if len(fleet.GetSpecs()) == 0 && page.prefix != "" {
		a.out.line("no spec's name begins with %s", clean(page.prefix))
		a.out.field("next", "specctl")
		return
	}
	if len(fleet.GetSpecs()) == 0 {
		a.out.line("no spec is published yet")
		a.out.field("next", "specctl publish DIR")
		return
	}
	proxies := fmt.Sprintf("proxies %d of %d connected", fleet.GetProxiesConnected(), fleet.GetProxiesKnown())
	if fleet.GetProxiesConnected() == 0 && fleet.GetProxiesKnown() > 0 {
		proxies = a.out.paint(red, proxies+" (specctl proxies)")
	}
	a.out.line("%s, %s; %s; %s open",
		plural(int(fleet.GetSpecsTotal()), "spec", "specs"), a.troubleCount(int(fleet.GetSpecsInTrouble())), proxies,
		plural(int(fleet.GetPostmortemsOpen()), "post-mortem", "post-mortems"))
	for _, spec := range fleet.GetSpecs() {
		a.out.line("")
		a.printSpec(spec)
	}
}

func (a *app) troubleCount(n int) string {
	if n == 0 {
		return a.out.paint(green, "none in trouble")
	}
	return a.out.paint(red, fmt.Sprintf("%d in trouble", n))
}

// printSpec prints one spec as the fleet shows it: trouble, live versions, the last change, the way out, the next command.
func (a *app) printSpec(spec *operatorv1.Spec) {
	a.out.heading("%s", spec.GetName())
	for _, trouble := range spec.GetTrouble() {
		a.out.styled(red, "trouble", "%s", trouble)
	}
	t := newTable("VERSION", ">WEIGHT", "SUCCESS (30s)", ">RATE", "READY", ">IN FLIGHT", "STANDING")
	quiet := 0
	for _, v := range spec.GetVersions() {
		if !live(v) {
			quiet++
			continue
		}
		a.versionRow(t, v)
	}
	a.out.print(t, "  ")
	if quiet > 0 {
		count := plural(quiet, "version", "versions")
		if spec.GetMoreVersions() {
			count = fmt.Sprintf("more than %d versions", quiet)
		}
		a.out.field("also", "%s without weight or instance: specctl versions %s", count, spec.GetName())
	}
	a.printChanged(spec)
	a.out.field("next", "%s", spec.GetNext())
}

// live says that a version holds weight or that something of it runs.
func live(v *operatorv1.Version) bool {
	return v.GetWeight() > 0 || v.GetPool().GetInstances() > 0 || v.GetPool().GetInFlight() > 0
}

func (a *app) versionRow(t *table, v *operatorv1.Version) {
	pool := v.GetPool()
	standing := v.GetStanding()
	if v.GetPostmortem() != "" {
		standing += " (" + v.GetPostmortem() + ")"
	}
	rate := none
	if pool.GetRate() > 0 {
		rate = fmt.Sprintf("%.1f/s", pool.GetRate())
	}
	t.row(v.GetVersion(), percent(v.GetWeight()), success(pool.GetRecentSucceeded(), pool.GetRecentFailed()), rate,
		ready(pool), fmt.Sprint(pool.GetInFlight()), standing)
	if v.GetWeight() > 0 && pool.GetReady() == 0 {
		t.mark(4, red)
	}
}

// printChanged prints what changed last, when and by whom, where a rollback would go, and a freeze.
func (a *app) printChanged(spec *operatorv1.Spec) {
	switch {
	case spec.GetLastChange() == "":
	case spec.GetGeneration() == 0: // never deployed: nothing has changed at any time
		a.out.field("changed", "%s", spec.GetLastChange())
	default:
		by := ""
		if spec.GetChangedBy() != "" {
			by = " by " + spec.GetChangedBy()
		}
		a.out.field("changed", "%s%s: %s, generation %d", a.moment(spec.GetChangedAt()), by, spec.GetLastChange(), spec.GetGeneration())
	}
	a.out.field("exit", "%s", exit(spec))
	if f := spec.GetFreeze(); f != nil {
		until := "until a person unfreezes it"
		if f.GetUntil().IsValid() {
			until = "until " + a.moment(f.GetUntil())
		}
		a.out.field("frozen", "for automation since %s, %s (%s): specctl unfreeze %s", a.moment(f.GetSince()), until, f.GetPostmortem(), spec.GetName())
	}
}

// exit is where a rollback would go and why, or "none" and why not.
func exit(spec *operatorv1.Spec) string {
	to := spec.GetExit()
	if to == "" {
		to = "none"
	}
	if spec.GetExitReason() == "" {
		return to
	}
	return to + ": " + spec.GetExitReason()
}
