package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// follow says how long a command stays with what it changed.
type follow struct {
	// timeout for the effect; after it the command ends with ExitUnproven.
	timeout time.Duration
	// cure is how long a rollback's cure is watched after that.
	cure time.Duration
}

const (
	defaultTimeout = 10 * time.Second
	defaultCure    = 30 * time.Second
)

func (a *app) followFlags(cmd *cobra.Command) func() follow {
	f := follow{}
	cmd.Flags().DurationVar(&f.timeout, "timeout", defaultTimeout, "how long to wait for the effect; the change itself never waits")
	cmd.Flags().DurationVar(&f.cure, "watch-for", defaultCure, "how long to watch a rollback's cure (without a terminal: 0 unless given)")
	return func() follow {
		if !a.env.Terminal && !cmd.Flags().Changed("watch-for") {
			f.cure = 0
		}
		return f
	}
}

// conclude prints what was committed (or would be), waits until it is effective, and watches the cure of a rollback.
func (a *app) conclude(ctx context.Context, c *conn, changes []*operatorv1.Change, f follow, format string) error {
	if format == asTable {
		for _, change := range changes {
			a.printChange(change)
		}
	}
	var committed []*operatorv1.Change
	for _, change := range changes {
		if !change.GetDryRun() && !change.GetAlreadyDone() {
			committed = append(committed, change)
		}
	}
	if format == asJSON {
		return a.concludeJSON(ctx, c, changes, committed, f)
	}
	var cure *cure
	if f.cure > 0 {
		cure = a.prepareCure(ctx, c, committed)
	}
	began := time.Now()
	unproven := false
	var refused error
	for _, change := range committed {
		effect, err := awaitEffect(ctx, c, change, began.Add(f.timeout))
		a.printEffect(change, effect, err, time.Since(began))
		unproven = unproven || !effect.GetEffective()
		refused = errors.Join(refused, refusedBy(change, effect))
	}
	if cure != nil && ctx.Err() == nil {
		cure.watch(ctx, f.cure)
	}
	if refused != nil {
		return refused
	}
	if unproven {
		return errUnproven
	}
	return nil
}

// concludeJSON prints one object when all is known: {"changes": [...], "effects": [...]}, an effect for each committed change.
func (a *app) concludeJSON(ctx context.Context, c *conn, changes, committed []*operatorv1.Change, f follow) error {
	result := struct {
		Changes []json.RawMessage `json:"changes"`
		Effects []json.RawMessage `json:"effects"`
	}{Changes: []json.RawMessage{}, Effects: []json.RawMessage{}}
	add := func(list *[]json.RawMessage, m proto.Message) error {
		raw, err := messageJSON(m)
		*list = append(*list, raw)
		return err
	}
	for _, change := range changes {
		if err := add(&result.Changes, change); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(f.timeout)
	unproven := false
	var refused error
	for _, change := range committed {
		// Committed is committed: an effect that cannot be asked for is an effect not proven.
		effect, err := awaitEffect(ctx, c, change, deadline)
		if err != nil {
			effect = &operatorv1.GetEffectResponse{Spec: change.GetSpec(), Generation: change.GetGeneration(), CommittedAt: change.GetCommittedAt(),
				Laggards: []string{"unknown: " + err.Error()}}
		}
		unproven = unproven || !effect.GetEffective()
		refused = errors.Join(refused, refusedBy(change, effect))
		if err := add(&result.Effects, effect); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return err
	}
	if err := a.out.rawJSON(raw); err != nil {
		return err
	}
	if refused != nil {
		return refused
	}
	if unproven {
		return errUnproven
	}
	return nil
}

// printChange prints all that is known when the control plane has answered, ending with the commit.
func (a *app) printChange(change *operatorv1.Change) {
	switch {
	case change.GetAlreadyDone() && change.GetPlanned() != "":
		a.out.heading("%s: its rollout is under way, no traffic was moved now", change.GetSpec())
	case change.GetAlreadyDone():
		a.out.heading("%s: had been done before, nothing changed", change.GetSpec())
	case change.GetDryRun():
		a.out.heading("%s: %s (dry run, nothing changed)", change.GetSpec(), change.GetKind())
	default:
		a.out.heading("%s: %s", change.GetSpec(), change.GetKind())
	}
	if before, after := split(change.GetBefore()), split(change.GetAfter()); before == after {
		a.out.field("traffic", "%s", after)
	} else {
		a.out.field("traffic", "%s -> %s", before, after)
	}
	if change.GetKind() == "target" || len(change.GetHeaderTargets()) > 0 {
		a.out.field("headers", "%s", headerTargets(change.GetHeaderTargets()))
	}
	if change.GetKind() == "shadow" || change.GetShadow() != nil {
		a.out.field("shadow", "%s", a.shadowLine(change.GetShadow()))
	}
	if len(change.GetAbandoned()) > 0 {
		a.out.field("abandoned", "%s", strings.Join(change.GetAbandoned(), ", "))
	}
	if change.GetTarget() != "" {
		target := change.GetTarget()
		if change.GetTargetReason() != "" {
			target += ": " + change.GetTargetReason()
		}
		a.out.field("target", "%s", target)
	}
	if change.GetPlanned() != "" {
		a.out.styled(bold, "canary", "%s\nit goes on by itself: specctl canary status %s   (all the traffic now: repeat the deploy with --at-once)", change.GetPlanned(), change.GetSpec())
	}
	a.printCapacity(change.GetCapacity())
	a.printPlans(change.GetPlans())
	for _, warning := range change.GetWarnings() {
		a.out.styled(red, "warning", "%s", warning)
	}
	if change.GetDryRun() {
		return
	}
	a.out.field("committed", "%s generation %d by %s", precise(change.GetCommittedAt()), change.GetGeneration(), change.GetActor())
	if change.GetPostmortem() != "" {
		a.out.field("record", "%s: specctl postmortem show %s", change.GetPostmortem(), change.GetPostmortem())
	}
	if change.GetAlreadyDone() && change.GetTarget() != "" && len(change.GetWarnings()) == 0 {
		a.out.field("further", "specctl rollback %s --from %s", change.GetSpec(), change.GetTarget())
	}
}

func (a *app) printCapacity(capacity *operatorv1.Capacity) {
	if capacity == nil {
		return
	}
	if capacity.GetReady() == 0 {
		a.out.styled(red, "capacity", "no ready instance; %.1f new executions/s now", capacity.GetRate())
		return
	}
	text := fmt.Sprintf("%s ready; %.1f new executions/s now, %.1f for each",
		plural(int(capacity.GetReady()), "instance", "instances"), capacity.GetRate(), capacity.GetPerInstance())
	if capacity.GetSeenPerInstance() > 0 {
		text += fmt.Sprintf(" (%.1f seen lately)", capacity.GetSeenPerInstance())
	}
	a.out.field("capacity", "%s", text)
}

// printPlans prints what happens to the running executions, by rule.
func (a *app) printPlans(plans []*operatorv1.Plan) {
	t := newTable("ON", ">RUNNING", "BECOMES", "BY")
	for _, plan := range plans {
		becomes := plan.GetDisposition()
		if plan.GetWithin().AsDuration() > 0 {
			becomes += " within " + duration(plan.GetWithin())
		}
		if plan.GetThen() != "" {
			becomes += ", then " + plan.GetThen()
		}
		t.row(plan.GetVersion(), fmt.Sprint(plan.GetExecutions()), becomes, plan.GetRule())
	}
	a.out.print(t, "  ")
}
