// Package evidence measures how often the judge of canaries is wrong, and how soon it is right: seeded simulations of traffic, judged by the
// production package and, in the same runs, by rules that others use.
//
// Invariants: every figure comes from internal/rollout/evidence itself; the same seed gives the same samples, but for the times; a rule sees
// outcomes in the order in which they arrive, and nothing else.
package evidence

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// Options of a run.
type Options struct {
	// Runs of each cell; 0: 4,000.
	Runs     int
	Progress io.Writer
}

// Samples of a run.
type Samples struct {
	Runs  int    `json:"runs"`
	Seed  uint64 `json:"seed"`
	Cells []Cell `json:"cells"`
	Costs Costs  `json:"costs"`
}

// Cell is one rule in one world.
type Cell struct {
	World string `json:"world"`
	Rule  string `json:"rule"`
	// Null: the canary is as good as the stable version, so that every stop is a false alarm.
	Null bool `json:"null"`
	// Executions of a run that nothing stops.
	Executions int `json:"executions"`
	Stopped    int `json:"stopped"`
	// Medians over all runs, of executions until the stop, of those on the canary, and of canary executions that failed; -1: the median run was
	// not stopped.
	Until  float64 `json:"until"`
	Canary float64 `json:"canary"`
	Harmed float64 `json:"harmed"`
}

// Costs of the judge.
type Costs struct {
	// NsPerFailure and NsPerSuccess are for one outcome, NsPerOutcome at one failure in 50.
	NsPerFailure float64 `json:"nsPerFailure"`
	NsPerSuccess float64 `json:"nsPerSuccess"`
	NsPerOutcome float64 `json:"nsPerOutcome"`
	// StateBytes of the largest state that was stored at the end of a run, and FullBytes of one in which everything is as large as it may be.
	StateBytes int `json:"stateBytes"`
	FullBytes  int `json:"fullBytes"`
}

// seed of all runs.
const seed = 8

// Run simulates everything. It takes a minute or two.
func Run(ctx context.Context, o Options) (Samples, error) {
	if o.Runs == 0 {
		o.Runs = 4000
	}
	s := Samples{Runs: o.Runs, Seed: seed}
	all := worlds()
	cells, largest := make([][]Cell, len(all)), make([]int, len(all))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for i, w := range all {
		g.Go(func() (err error) {
			cells[i], largest[i], err = simulate(ctx, w, o.Runs)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			fmt.Fprintf(o.Progress, "evidence: %s\n", w.name)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return s, err
	}
	s.Cells, s.Costs.StateBytes = slices.Concat(cells...), slices.Max(largest)
	return s, s.Costs.measure()
}

// tally of one rule in one world.
type tally struct {
	cell          Cell
	until, canary []float64
	harmed        []float64
}

func simulate(ctx context.Context, w world, runs int) (cells []Cell, largest int, err error) {
	var tallies []tally
	for i := range runs {
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		outcomes := w.run(newSource(seed, w.name, i))
		var judges []judge
		for _, r := range rules {
			if w.only == "" || w.only == r.name {
				judges = append(judges, r.begin())
			}
		}
		if tallies == nil {
			for _, j := range judges {
				tallies = append(tallies, tally{cell: Cell{World: w.name, Rule: j.name(), Null: w.ratio == 1, Executions: w.executions}})
			}
		}
		for k, j := range judges {
			tallies[k].add(j, outcomes)
			if e, ok := j.(*production); ok {
				data, err := json.Marshal(e.state)
				if err != nil {
					return nil, 0, err
				}
				largest = max(largest, len(data))
			}
		}
	}
	for _, t := range tallies {
		t.cell.Until, t.cell.Canary, t.cell.Harmed = median(t.until), median(t.canary), median(t.harmed)
		cells = append(cells, t.cell)
	}
	return cells, largest, nil
}

// add lets a judge see outcomes until it stops the canary.
func (t *tally) add(j judge, outcomes []outcome) {
	var canary, harmed float64
	for n, o := range outcomes {
		if o.arm == evidence.Canary {
			canary++
			if o.failed {
				harmed++
			}
		}
		if j.see(o) {
			t.cell.Stopped++
			t.until, t.canary, t.harmed = append(t.until, float64(n+1)), append(t.canary, canary), append(t.harmed, harmed)
			return
		}
	}
	t.until, t.canary, t.harmed = append(t.until, math.Inf(1)), append(t.canary, math.Inf(1)), append(t.harmed, math.Inf(1))
}

func (c *Costs) measure() error {
	rule := evidence.Metric{Name: "failure", Alpha: 0.05}
	ids := make([]string, 4096)
	for i := range ids {
		ids[i] = fmt.Sprintf("execution-%020d", i)
	}
	const rounds = 300
	var failure, success time.Duration
	for range rounds {
		s, err := evidence.NewState(1)
		if err != nil {
			return err
		}
		begin := time.Now()
		for i, id := range ids {
			if _, err := s.Fail(0, evidence.Failure{Unit: id, Execution: id, Arm: evidence.Arm(i % 2), Weight: 500, At: begin}, rule); err != nil { //nolint:gosec // 0 or 1
				return err
			}
		}
		failure += time.Since(begin)
		begin = time.Now()
		for i := range ids {
			arm := evidence.Arm(i % 2) //nolint:gosec // 0 or 1
			if err := s.Assign(arm, 500, 1); err != nil {
				return err
			}
			s.End(0, arm, 1, 0)
		}
		success += time.Since(begin)
	}
	per := float64(rounds * len(ids))
	c.NsPerFailure, c.NsPerSuccess = float64(failure.Nanoseconds())/per, float64(success.Nanoseconds())/per
	c.NsPerOutcome = c.NsPerSuccess + c.NsPerFailure/50
	return c.fill(rule)
}

// fill stores a state with as many metrics, weights and events as it may have, of long ids and large counts.
func (c *Costs) fill(rule evidence.Metric) error {
	s, err := evidence.NewState(evidence.MaxMetrics)
	if err != nil {
		return err
	}
	at := time.Date(2026, 11, 2, 2, 18, 0, 123_000_000, time.UTC)
	for w := range uint16(evidence.MaxWeights) {
		for metric := range evidence.MaxMetrics {
			for _, arm := range []evidence.Arm{evidence.Stable, evidence.Canary} {
				for i := range 1000 {
					id := fmt.Sprintf("%064d", (int(w)*1000+i)*2+int(arm))
					if _, err := s.Fail(metric, evidence.Failure{Unit: id, Execution: id, Arm: arm, Weight: 1000 + w, At: at}, rule); err != nil {
						return err
					}
				}
				if err := s.Assign(arm, 1000+w, 100_000_000); err != nil {
					return err
				}
				s.End(metric, arm, 100_000_000, 1_000_000)
				s.Metrics[metric].Counts.Failed[arm] = 1_000_000
			}
		}
	}
	data, err := json.Marshal(s)
	c.FullBytes = len(data)
	return err
}
