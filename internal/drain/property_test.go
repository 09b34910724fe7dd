package drain_test

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/drain"
)

// The small worlds of methods, paths and ages that generated rules speak of, and what requests can have: each pattern's own path, longer and
// shorter ones, and some that no pattern names.
var (
	ruleMethods  = []string{"", "GET", "POST"}
	rulePaths    = []string{"", "*", "/*", "/a", "/a*", "/a/*", "/a/b"}
	ruleAges     = []drain.Duration{0, drain.Duration(2 * time.Second), drain.Duration(time.Minute)}
	ruleYouth    = []drain.Duration{0, 0, 0, drain.Duration(3 * time.Second), drain.Duration(time.Minute)}
	ruleGRPC     = []string{"s.S/M", "s.S/*"}
	ruleNames    = []string{"", "", "", "t", "t*", "tx", "*"}
	ruleHeaders  = []map[string]string{nil, nil, nil, {"x-a": "1"}, {"X-A": "*"}, {"x-a": "1*", "x-b": "2"}}
	viewNames    = []string{"", "t", "tx", "txy", "u"}
	viewHeaders  = []map[string]string{nil, {"x-a": "1"}, {"x-a": "12"}, {"x-a": "3"}, {"x-a": "1", "x-b": "2"}, {"x-a": "12", "x-b": "2"}}
	viewMethods  = []string{"GET", "POST", "PUT"}
	viewPaths    = []string{"*", "/", "/a", "/ax", "/a/", "/a/b", "/a/bc", "/z", "/s.S/M", "/s.S/N"}
	viewAges     = []time.Duration{0, 2*time.Second + 1, 3 * time.Second, 4 * time.Second, time.Minute, time.Hour}
	reportings   = []drain.Reporting{"", drain.Unreported, drain.Reported, drain.Guarded}
	seenOrSilent = append([]drain.Effects{""}, drain.Classes()...)
)

func drawAction(t *rapid.T, label string) drain.Action {
	a := drain.Action{OnRollback: rapid.SampledFrom([]drain.Disposition{drain.Complete, drain.Handover, drain.Cancel}).Draw(t, label+".onRollback")}
	if a.OnRollback == drain.Handover {
		a.Else = rapid.SampledFrom([]drain.Disposition{drain.Complete, drain.Cancel}).Draw(t, label+".else")
	}
	if (a.OnRollback == drain.Complete || a.Else == drain.Complete) && rapid.Bool().Draw(t, label+".deadline") {
		a.Within = drain.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, label+".within"))
		a.Then = rapid.SampledFrom([]drain.Disposition{drain.Cancel, drain.Hold}).Draw(t, label+".then")
	}
	if a.OnRollback != drain.Complete && rapid.Bool().Draw(t, label+".retries") {
		a.RetryAfter = drain.Range{Min: time.Second, Max: 5 * time.Second}
	}
	return a
}

func drawClasses(t *rapid.T, label string) drain.AnyOf {
	n := rapid.SampledFrom([]int{0, 1, 1, 1, 2, 3}).Draw(t, label+".classes")
	return rapid.SliceOfNDistinct(rapid.SampledFrom(drain.Classes()), n, n, rapid.ID[drain.Effects]).Draw(t, label+".effects")
}

func drawContract(t *rapid.T) drain.Contract {
	c := drain.Contract{Effects: rapid.SampledFrom(reportings).Draw(t, "effects"), Default: drawAction(t, "default")}
	// One more thing that rules look at, so that all that there can be stays countable.
	more := rapid.SampledFrom([]string{"", "header", "tool", "skill"}).Draw(t, "more")
	for i := range rapid.IntRange(0, 5).Draw(t, "rules") {
		label := fmt.Sprintf("rule%d", i)
		m := drain.Match{
			Effects:     drawClasses(t, label),
			OlderThan:   rapid.SampledFrom(ruleAges).Draw(t, label+".olderThan"),
			YoungerThan: rapid.SampledFrom(ruleYouth).Draw(t, label+".youngerThan"),
		}
		if m.YoungerThan <= m.OlderThan {
			m.YoungerThan = 0 // refused in other words
		}
		switch more {
		case "header":
			m.Header = rapid.SampledFrom(ruleHeaders).Draw(t, label+".header")
		case "tool":
			m.Tool = rapid.SampledFrom(ruleNames).Draw(t, label+".tool")
		case "skill":
			m.Skill = rapid.SampledFrom(ruleNames).Draw(t, label+".skill")
		}
		if rapid.IntRange(0, 4).Draw(t, label+".isGRPC") == 0 {
			m.GRPC = rapid.SampledFrom(ruleGRPC).Draw(t, label+".grpc")
		} else {
			m.Method = rapid.SampledFrom(ruleMethods).Draw(t, label+".method")
			m.Path = rapid.SampledFrom(rulePaths).Draw(t, label+".path")
		}
		c.Rules = append(c.Rules, drain.Rule{When: m, Action: drawAction(t, label)})
	}
	return c
}

func drawView(t *rapid.T) drain.View {
	v := drain.View{
		Method:     rapid.SampledFrom(viewMethods).Draw(t, "method"),
		Path:       rapid.SampledFrom(viewPaths).Draw(t, "path"),
		Started:    noon.Add(-rapid.SampledFrom(viewAges).Draw(t, "age")),
		Effects:    rapid.SampledFrom(seenOrSilent).Draw(t, "seen"),
		Responded:  rapid.Bool().Draw(t, "responded"),
		Replayable: rapid.Bool().Draw(t, "replayable"),
		HandedOver: rapid.Bool().Draw(t, "handedOver"),
		Skill:      rapid.SampledFrom(viewNames).Draw(t, "skill"),
		Headers:    rapid.SampledFrom(viewHeaders).Draw(t, "headers"),
		GRPC:       rapid.Bool().Draw(t, "grpc"),
	}
	if tool := rapid.SampledFrom(viewNames).Draw(t, "tool"); tool != "" {
		v.Tools = []string{"other", tool}
	}
	if rapid.Bool().Draw(t, "hasDeadline") {
		v.Deadline = noon.Add(time.Duration(rapid.Int64Range(int64(-time.Minute), int64(2*time.Hour)).Draw(t, "deadline")))
	}
	return v
}

// What holds of every decision, whatever the contract says.
func TestDecisionsKeepTheirPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, v := drawContract(t), drawView(t)
		d := drain.Decide(c, v, "2.0.3", noon)
		action := c.Default
		if d.Rule >= 0 {
			action = c.Rules[d.Rule].Action
		}
		if v.Effects == drain.EffectsIrreversible && (d.Cuts() || d.Then == drain.Cancel) {
			t.Errorf("a known irreversible effect is cut, now or at the deadline: %+v", d)
		}
		if d.Disposition == drain.Handover && (v.Responded || !v.Replayable || v.HandedOver) {
			t.Errorf("an impossible hand-over: %+v of %+v", d, v)
		}
		if d.Disposition == drain.Handover && d.Effects != drain.EffectsNone && d.Effects != drain.EffectsReadonly && (d.Rule < 0 || !c.Rules[d.Rule].When.Effects.Has(d.Effects)) {
			t.Errorf("an effect is repeated that no rule names: %+v", d)
		}
		if d.Disposition != drain.Complete && !d.Cuts() {
			t.Errorf("disposition %q", d.Disposition)
		}
		if d.Effects == drain.EffectsNone && c.Effects != drain.Guarded || d.Effects == "" {
			t.Errorf("effects %q under %q", d.Effects, c.Effects)
		}
		if hasDeadline := !d.Deadline.IsZero(); hasDeadline != (d.Then != "") || hasDeadline && d.Disposition != drain.Complete {
			t.Errorf("deadline and then go together, with complete: %+v", d)
		}
		if d.Disposition == drain.Complete && !v.Deadline.IsZero() && action.OnRollback == drain.Complete && (d.Deadline.IsZero() || d.Deadline.After(v.Deadline)) {
			t.Errorf("the request's own deadline lost: %+v", d)
		}
		if action.Within != 0 && d.Deadline.After(noon.Add(time.Duration(action.Within))) {
			t.Errorf("later than the contract says: %+v", d)
		}
		if (d.Disposition == drain.Cancel || d.Then == drain.Cancel) && d.RetryAfter != action.RetryAfter {
			t.Errorf("retry %s, the contract says %s", d.RetryAfter, action.RetryAfter)
		}
		if label := strings.Split(drain.RuleLabel(c, d.Rule), ":")[0]; !strings.HasPrefix(d.Why, label) {
			t.Errorf("why %q does not begin with %q", d.Why, label)
		}
	})
}

// A rule is refused as one that can never match exactly if it matches nothing that can be.
func TestUnreachableRulesAreExactlyThose(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := drawContract(t)
		errs := c.Validate()
		refused, unmatched := map[int]bool{}, map[int]bool{}
		for i, rule := range c.Rules {
			if onlyPartly := c.Effects != drain.Guarded && len(rule.When.Effects) > 1 && rule.When.Effects.Has(drain.EffectsNone); onlyPartly {
				continue // refused in other words
			}
			refused[i] = slices.ContainsFunc(errs, func(err error) bool {
				return strings.HasPrefix(err.Error(), fmt.Sprintf("inFlight.rules[%d]: can never match", i))
			})
			if !refused[i] {
				unmatched[i] = true
			}
		}
		nothingRefused := len(unmatched) == len(refused)
		for v := range everyView(c) {
			i := drain.Decide(c, v, "2.0.3", noon).Rule
			if refused[i] {
				t.Fatalf("rules[%d] %s is refused, and matches %+v: %v", i, drain.RuleLabel(c, i), v, errs)
			}
			if delete(unmatched, i); nothingRefused && len(unmatched) == 0 {
				break // nothing more can come of the rest
			}
		}
		for i := range unmatched {
			t.Fatalf("rules[%d] %s matches nothing, and is not refused: %v", i, drain.RuleLabel(c, i), errs)
		}
	})
}

// everyView walks through all that requests can be, as far as the contract's rules tell them apart.
func everyView(c drain.Contract) iter.Seq[drain.View] {
	names := func(of func(drain.Match) string) []string {
		if slices.ContainsFunc(c.Rules, func(r drain.Rule) bool { return of(r.When) != "" }) {
			return viewNames
		}
		return viewNames[:1]
	}
	tools, skills := names(func(m drain.Match) string { return m.Tool }), names(func(m drain.Match) string { return m.Skill })
	headers := viewHeaders
	if len(c.HeaderNames()) == 0 {
		headers = headers[:1]
	}
	return func(yield func(drain.View) bool) {
		for _, method := range viewMethods {
			for _, path := range viewPaths {
				for _, age := range viewAges {
					for _, seen := range seenOrSilent {
						for _, header := range headers {
							for _, tool := range tools {
								for _, skill := range skills {
									v := drain.View{Method: method, Path: path, Started: noon.Add(-age), Effects: seen, Headers: header, Skill: skill}
									v.GRPC = method == "POST" && strings.HasPrefix(path, "/s.")
									if tool != "" {
										v.Tools = []string{tool}
									}
									if !yield(v) {
										return
									}
								}
							}
						}
					}
				}
			}
		}
	}
}
