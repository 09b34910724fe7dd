package control

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/fleet"
)

// Previewed is what a rollback now would do to one running execution.
type Previewed struct {
	Version  string
	Running  fleet.Running
	Rule     string
	Decision drain.Decision
}

// Preview is a rollback as a dry run, with what it would do to each running execution, longest running first. unseen counts those that run and
// have not been reported one by one.
func (c *Controller) Preview(ctx context.Context, actor Actor, target RollbackTarget) (change Change, rows []Previewed, unseen uint64, err error) {
	changes, err := c.Rollback(ctx, actor, []RollbackTarget{target}, How{DryRun: true, Now: true})
	if err != nil {
		return Change{}, nil, 0, err
	}
	change = changes[0]
	view, now := c.store.View(), time.Now()
	for _, version := range change.Route.Abandoned {
		record, _ := view.Version(change.Route.Spec, version)
		contract, pool := record.Manifest.InFlight, c.fleet.Pool(view, change.Route.Spec, version)
		order := drain.Order{Generation: change.Route.Generation, Target: change.Route.Target, At: now, DefaultWithin: contract.DefaultDeadline(pool.Durations)}
		running := c.fleet.Running(change.Route.Spec, version)
		for _, x := range running {
			d := drain.DecideUnder(contract, fleet.ViewOf(x.Execution), order, now)
			rows = append(rows, Previewed{Version: version, Running: x, Rule: drain.RuleLabel(contract, d.Rule), Decision: d})
		}
		if n := uint64(len(running)); pool.InFlight > n {
			unseen += pool.InFlight - n
		}
	}
	slices.SortFunc(rows, func(a, b Previewed) int {
		x, y := a.Running.Execution, b.Running.Execution
		return cmp.Or(x.GetStartedAt().AsTime().Compare(y.GetStartedAt().AsTime()), strings.Compare(x.GetId(), y.GetId()))
	})
	return change, rows, unseen, nil
}
