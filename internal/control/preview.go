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
	now := time.Now()
	for _, order := range change.Orders {
		_, more := c.decided(order, now, func(x fleet.Running, rule string, d drain.Decision) {
			rows = append(rows, Previewed{Version: order.Version, Running: x, Rule: rule, Decision: d})
		})
		unseen += more
	}
	slices.SortFunc(rows, func(a, b Previewed) int {
		x, y := a.Running.Execution, b.Running.Execution
		return cmp.Or(x.GetStartedAt().AsTime().Compare(y.GetStartedAt().AsTime()), strings.Compare(x.GetId(), y.GetId()))
	})
	return change, rows, unseen, nil
}

// decided says what an order does to each execution that is reported as running, and how many more run. Preview, dry run and the record of a
// rollback all ask here, so they say the same.
func (c *Controller) decided(order drain.Drain, now time.Time, each func(x fleet.Running, rule string, d drain.Decision)) (contract drain.Contract, unseen uint64) {
	view := c.store.View()
	record, _ := view.Version(order.Spec, order.Version)
	contract = record.Manifest.InFlight
	decide := drain.Under(contract, underOrder(order))
	running, labels := c.fleet.Running(order.Spec, order.Version), map[int]string{}
	for _, x := range running {
		d := decide(fleet.ViewOf(x.Execution), now)
		label, known := labels[d.Rule]
		if !known {
			label = drain.RuleLabel(contract, d.Rule)
			labels[d.Rule] = label
		}
		each(x, label, d)
	}
	n := uint64(len(running))
	return contract, max(c.fleet.Pool(view, order.Spec, order.Version).InFlight, n) - n
}
