package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// watchWait is how long the server holds one answer of a watch back when nothing changes: rates move although nothing is committed.
const watchWait = 5 * time.Second

func (a *app) getCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get SPEC",
		Short: "Show one spec: versions, exit, drains, history",
		Long: `Show one spec: its versions and their success, what changed last, where a
rollback would go ("exit: none" if nowhere), what drains, and its history.`,
		Example: `  specctl get customer-service
  specctl get customer-service --watch
  specctl get customer-service -o json | jq -r .spec.exit`,
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
		got, err := ask(cmd.Context(), c, client.GetSpec, &operatorv1.GetSpecRequest{Spec: args[0]}, 0)
		if err != nil {
			return err
		}
		if *watch {
			return a.watch(cmd.Context(), c, got, format)
		}
		if format == asJSON {
			return a.out.json(got)
		}
		a.printGet(got, rolloutOf(cmd.Context(), c, args[0]))
		return nil
	}
	return cmd
}

// watch prints the spec at every change of its revision until ctx ends, which is the normal end. On a terminal the rates are kept fresh too.
func (a *app) watch(ctx context.Context, c *conn, got *operatorv1.GetSpecResponse, format string) error {
	spec := got.GetSpec().GetName()
	for shown := uint64(0); ; {
		if changed := got.GetRevision() != shown || shown == 0; changed || a.env.Terminal {
			if err := a.printWatched(got, rolloutOf(ctx, c, spec), format, changed); err != nil {
				return err
			}
		}
		shown = got.GetRevision()
		next, err := ask(ctx, c, client.GetSpec,
			&operatorv1.GetSpecRequest{Spec: spec, AfterRevision: shown, Wait: durationpb.New(watchWait)}, watchWait)
		switch _, away := errors.AsType[*unreachableError](err); {
		case ctx.Err() != nil:
			return nil
		case away:
			// A watch outlives a restart of the control plane.
			fmt.Fprintf(a.env.Stderr, "specctl: %s, trying again\n", unanswering(len(c.servers)))
			if !pause(ctx, time.Second) {
				return nil
			}
		case err != nil:
			return err
		default:
			got = next
		}
	}
}

func (a *app) printWatched(got *operatorv1.GetSpecResponse, r *operatorv1.Rollout, format string, changed bool) error {
	switch {
	case format == asJSON && changed:
		return a.out.jsonLine(got)
	case format == asJSON:
		return nil
	case a.env.Terminal:
		// Home, clear to the end: less flicker than clearing first.
		fmt.Fprint(a.env.Stdout, "\x1b[H\x1b[J")
	}
	a.printGet(got, r)
	if !a.env.Terminal {
		a.out.line("")
	}
	return nil
}

// pause waits, and says whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (a *app) printGet(got *operatorv1.GetSpecResponse, r *operatorv1.Rollout) {
	spec := got.GetSpec()
	a.printSpec(spec)
	for _, host := range spec.GetHosts() {
		a.out.field("host", "%s", host)
	}
	if spec.GetShadow() != nil {
		a.out.field("shadow", "%s\nspecctl shadow status %s", a.shadowLine(spec.GetShadow()), spec.GetName())
	}
	if len(spec.GetHeaderTargets()) > 0 {
		a.out.line("")
		a.printHeaderTargets(spec.GetHeaderTargets())
	}
	if r != nil && !ended(r) {
		a.out.line("")
		a.printRollout(r)
	}
	if len(spec.GetDrains()) > 0 {
		a.out.line("")
		a.printDrains(spec.GetDrains())
	}
	if len(got.GetHistory()) > 0 {
		a.out.line("")
		a.printHistory(got.GetHistory())
	}
}

func (a *app) printDrains(drains []*operatorv1.Drain) {
	t := newTable("DRAIN", "TO", "STATE", ">RUNNING", ">COMPLETED", ">HANDED", ">CANCELLED", ">HELD")
	for _, d := range drains {
		t.row(d.GetVersion(), d.GetTarget(), d.GetState(), fmt.Sprint(d.GetInFlight()), fmt.Sprint(d.GetCompleted()),
			fmt.Sprint(d.GetHandedOver()), fmt.Sprint(d.GetCancelled()), fmt.Sprint(d.GetHeld()))
		if d.GetHeld() > 0 {
			t.mark(7, red)
		}
	}
	a.out.print(t, "  ")
}

func (a *app) printHistory(history []*operatorv1.Change) {
	t := newTable(">GEN", "WHEN", "BY", "WHAT")
	for _, change := range history {
		what := change.GetKind() + " " + split(change.GetAfter())
		if change.GetKind() == "target" {
			what = "target " + headerTargets(change.GetHeaderTargets())
		}
		if change.GetKind() == "shadow" {
			what = "shadow: " + a.shadowLine(change.GetShadow())
		}
		if change.GetPostmortem() != "" {
			what += " (" + change.GetPostmortem() + ")"
		}
		t.row(fmt.Sprint(change.GetGeneration()), a.moment(change.GetCommittedAt()), change.GetActor(), what)
	}
	a.out.print(t, "  ")
}
