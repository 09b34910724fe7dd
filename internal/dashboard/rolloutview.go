package dashboard

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// rolloutView is a canary that is under way: where it stands, and on what evidence.
type rolloutView struct {
	Canary, Stable, Phase, Why string
	Steps                      []stepView
	Where                      string
	Set, Got                   string
	Clock                      string
	Verdict, Reason            string
	Bad                        bool
	Metrics                    []metricView
	Judges                     []judgeView
	// Answered are the judges' newest answers.
	Answered []answerView
	// Gates that it stands at, in words. The links that open them are not for a page that only reads.
	Gates []string
	// Rehearsal of the way back, in words and by proxy; Unrehearsed: it proves nothing.
	Rehearsal   string
	Unrehearsed bool
	Rehearsed   []rehearsedView
	Eta         string
	AckBy       moment
	Commands    []string
}

type rehearsedView struct{ Node, There, Acked, Seen, Note string }

type stepView struct {
	Weight  string
	Until   string
	Current bool
	Passed  bool
}

type judgeView struct {
	Name, Says, Why, Asks string
	At                    moment
	Bad                   bool
}

type answerView struct {
	Judge, In, Says, Why string
	At                   moment
	Bad                  bool
}

type metricView struct {
	Name                         string
	CanaryFailed, CanaryEnded    uint64
	StableFailed, StableEnded    uint64
	Stake, FailsAt, Proven, Says string
	Bad                          bool
}

// over says that a rollout has come to its end.
func over(r *operatorv1.Rollout) bool {
	switch r.GetPhase() {
	case "promoted", "aborted", "superseded", "refused":
		return true
	}
	return false
}

func rolloutOf(r *operatorv1.Rollout, now time.Time) *rolloutView {
	plan, verdict := r.GetPlan(), r.GetVerdict()
	v := &rolloutView{
		Canary: r.GetCanary(), Stable: r.GetStable(), Phase: r.GetPhase(), Why: r.GetWhy(), Set: points(r.GetWeight()), Got: "nothing counted yet",
		Verdict: verdict.GetResult(), Reason: verdict.GetReason(), Bad: verdict.GetResult() == "fail" || verdict.GetBroken(), Eta: spanOf(r.GetEta()),
		AckBy: stamped(r.GetAckBy(), now), Where: fmt.Sprintf("step %d of %d", r.GetStep(), len(plan.GetSteps())),
	}
	switch n := int(r.GetStep()); {
	case n == 0:
		v.Where = "before its first step"
	case n > len(plan.GetSteps()):
		v.Where = "after its steps"
	}
	if r.GetShare() >= 0 {
		v.Got = share(r.GetShare())
	}
	if r.GetElapsed() != nil {
		if v.Clock = spanOf(r.GetElapsed()); r.GetBound() != nil {
			v.Clock += " of at most " + spanOf(r.GetBound())
		}
	}
	for i, st := range plan.GetSteps() {
		v.Steps = append(v.Steps, stepView{Weight: points(st.GetWeight()), Until: st.GetUntil(), Current: i+1 == int(r.GetStep()), Passed: i+1 < int(r.GetStep())})
	}
	for _, m := range verdict.GetMetrics() {
		row := metricView{
			Name: m.GetName(), CanaryFailed: m.GetCanaryFailed(), CanaryEnded: m.GetCanaryEnded(), StableFailed: m.GetStableFailed(), StableEnded: m.GetStableEnded(),
			Stake: fmt.Sprintf("%.3g", m.GetStake()), Proven: "below " + share(m.GetBound()), Says: m.GetResult(), Bad: m.GetResult() == "fail",
		}
		if m.GetAlpha() > 0 {
			row.FailsAt = fmt.Sprintf("%.3g", 1/m.GetAlpha())
		}
		v.Metrics = append(v.Metrics, row)
	}
	v.Rehearsal, v.Unrehearsed = r.GetRehearsal().GetSummary(), r.GetRehearsal().GetEndedAt() != nil && r.GetRehearsal().GetUndo() == nil
	for _, p := range r.GetRehearsal().GetProxies() {
		v.Rehearsed = append(v.Rehearsed, rehearsedView{p.GetNode(), brief(p.GetThere()), brief(p.GetAcked()), brief(p.GetSeen()), p.GetNote()})
	}
	for _, j := range verdict.GetJudges() {
		v.Judges = append(v.Judges, judgeView{Name: j.GetName(), Says: j.GetResult(), Why: j.GetReason(), Asks: j.GetAsks(), At: stamped(j.GetAt(), now), Bad: j.GetResult() == "fail"})
		for _, a := range j.GetAnswers() {
			in := fmt.Sprintf("step %d", a.GetStep())
			if int(a.GetStep()) > len(plan.GetSteps()) {
				in = "the bake"
			}
			v.Answered = append(v.Answered, answerView{Judge: j.GetName(), In: in, Says: a.GetResult(), Why: a.GetReason(), At: stamped(a.GetAt(), now), Bad: a.GetResult() == "fail"})
		}
	}
	for _, g := range r.GetGates() {
		v.Gates = append(v.Gates, gateOf(g))
	}
	v.Commands = []string{"specctl canary status " + r.GetSpec(), "specctl canary pause " + r.GetSpec(), "specctl canary abort " + r.GetSpec()}
	if slices.ContainsFunc(r.GetGates(), func(g *operatorv1.GateStatus) bool { return g.GetGate().GetManual() && !g.GetOpen() }) {
		v.Commands = append(v.Commands, "specctl canary approve "+r.GetSpec())
	}
	if r.GetAckBy() != nil {
		v.Commands = append(v.Commands, "specctl canary ack "+r.GetSpec())
	}
	return v
}

// brief writes a time of milliseconds.
func brief(d *durationpb.Duration) string {
	if d == nil {
		return "–"
	}
	return d.AsDuration().Round(100 * time.Microsecond).String()
}

func gateOf(g *operatorv1.GateStatus) string {
	text := g.GetGate().GetName() + ": "
	switch {
	case g.GetOpen():
		text += "open, by " + g.GetBy()
	case g.GetGate().GetManual():
		text += "waits for a person"
	default:
		text += "closed"
	}
	if g.GetWhy() != "" {
		text += "; " + g.GetWhy()
	}
	return text
}
