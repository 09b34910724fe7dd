package dashboard

import (
	"fmt"
	"time"

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
	Eta                        string
	AckBy                      moment
	Commands                   []string
}

type stepView struct {
	Weight  string
	Until   string
	Current bool
	Passed  bool
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
	case "promoted", "aborted", "superseded":
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
	if int(r.GetStep()) > len(plan.GetSteps()) {
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
	v.Commands = []string{"specctl canary status " + r.GetSpec(), "specctl canary pause " + r.GetSpec(), "specctl canary abort " + r.GetSpec()}
	if r.GetAckBy() != nil {
		v.Commands = append(v.Commands, "specctl canary ack "+r.GetSpec())
	}
	return v
}
