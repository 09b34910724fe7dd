package rollout

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestComplete(t *testing.T) {
	for _, c := range []struct {
		name string
		plan Plan
		says []string
	}{
		{name: "nothing said", plan: Plan{}},
		{name: "careful", plan: Plan{Preset: "careful"}},
		{name: "unknown preset", plan: Plan{Preset: "bold"}, says: []string{`"bold" does not exist`, "careful, standard, fast"}},
		{name: "all wrong", plan: Plan{
			Steps: []Step{{Weight: 500, Until: "soon"}, {Weight: 400, Until: UntilManual}, {Weight: 600, Until: UntilDuration}}, Alpha: 0.7, PMax: 1, OnInsufficient: "abort",
			Rollback: ReactUnlessAcked, Bake: Bake{Control: 9000},
		}, says: []string{`steps[0].until: "soon"`, "steps[1].weight: weights must rise", "steps[2].within: a step until a duration needs within", "alpha: must be", "pMax: must be", "there is only hold", "needs ackWithin", "more than half"}},
		{name: "metrics", plan: Plan{Metrics: []Metric{{Name: "outcome", Reason: "x"}, {Name: "policy", Alpha: 0.1, Reason: "policy"}, {Name: "none"}, {Name: "four", Reason: "x"}}, Outcomes: []string{"status"}},
			says: []string{"4 beside", `names of their own: "outcome"`, "metric none must say", "outcomes: [status]", "nothing is left for the outcome"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := c.plan.Complete()
			if len(c.says) == 0 {
				if err != nil || len(p.Steps) == 0 || p.Alpha == 0 || p.Rollback == "" {
					t.Errorf("%v: %+v", err, p)
				}
				return
			}
			for _, s := range c.says {
				if err == nil || !strings.Contains(err.Error(), s) {
					t.Errorf("error %v does not say %q", err, s)
				}
			}
		})
	}
}

// A ramp asks for more proof the more is at stake, and for what the budget allows.
func TestDemands(t *testing.T) {
	for _, preset := range []string{"careful", "standard", "fast"} {
		p, err := Plan{Preset: preset}.Complete()
		if err != nil {
			t.Fatal(err)
		}
		d := p.Demands(0.02)
		if d[len(d)-1] != p.PMax || !slices.IsSortedFunc(d, func(a, b float64) int { return int(1e9 * (b - a)) }) {
			t.Errorf("%s demands %v", preset, d)
		}
		p.MaxHarmed = 2
		if strict := p.Demands(0.02); strict[0] > d[0] || len(strict) > 2 && strict[len(strict)-2] >= 0.1 {
			t.Errorf("%s with a budget of 2 demands %v", preset, strict)
		}
	}
}

func TestLook(t *testing.T) {
	p, err := Plan{}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	o := p.Look(Traffic{PerHour: 600, Base: 0.02, BaseKnown: true})
	if len(o.Impossible) != 0 || len(o.Steps) != 5 || o.Endless || o.Total < time.Hour || o.Total > 12*time.Hour {
		t.Errorf("600 an hour: %v, %s, %+v", o.Impossible, o.Total, o.Steps)
	}
	if o.FalseAlarm > p.Alpha || o.Steps[4].Power[2] < 0.9 || o.Steps[4].Power[0] > o.Steps[4].Power[2] || o.Steps[0].Power[2] > o.Steps[3].Power[2] {
		t.Errorf("false alarms %v, power %+v", o.FalseAlarm, o.Steps)
	}
	for _, c := range []struct {
		name string
		t    Traffic
		says string
	}{
		{"4 an hour", Traffic{PerHour: 4, Base: 0.02, BaseKnown: true}, "at 4 executions an hour step"},
		{"none", Traffic{}, "no traffic now"},
		{"the stable version is as bad", Traffic{PerHour: 600, Base: 0.06, BaseKnown: true}, "the stable version itself fails at 6 %"},
	} {
		if o := p.Look(c.t); !strings.Contains(strings.Join(o.Impossible, "\n"), c.says) {
			t.Errorf("%s: %q does not say %q", c.name, o.Impossible, c.says)
		}
	}
	if o := p.Look(Traffic{PerHour: 600}); len(o.Warnings) == 0 {
		t.Error("nothing is known of the stable version, and nothing says so")
	}
}
