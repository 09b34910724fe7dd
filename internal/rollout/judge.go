package rollout

import (
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// Judge is a metric that somebody else measures, and that is asked about the canary as a whole: a query of Prometheus, or a webhook.
type Judge struct {
	Name string `json:"name" yaml:"name"`
	// Prometheus is a query that gives one number. {{spec}}, {{canary}} and {{stable}} stand for what is rolled out.
	Prometheus string `json:"prometheus,omitempty" yaml:"prometheus,omitempty"`
	// FailAbove and FailBelow are the bounds of that number; one of them at least.
	FailAbove *float64 `json:"failAbove,omitempty" yaml:"failAbove,omitempty"`
	FailBelow *float64 `json:"failBelow,omitempty" yaml:"failBelow,omitempty"`
	// Webhook is a URL that answers pass, fail or insufficient, in place of a query.
	Webhook string `json:"webhook,omitempty" yaml:"webhook,omitempty"`
	// Every is how long from an answer to the next question. Default: 30s. Timeout is of one question. Default: 10s.
	Every   Duration `json:"every,omitempty" yaml:"every,omitempty"`
	Timeout Duration `json:"timeout,omitempty" yaml:"timeout,omitempty"`
	// Fails is how many answers in a row must be a failure. Default: 3.
	Fails int `json:"fails,omitempty" yaml:"fails,omitempty"`
}

const (
	maxJudges = 4
	// maxFails bounds Judge.Fails.
	maxFails     = 100
	defaultFails = 3
	// leastEvery is the shortest time between two questions.
	leastEvery = Duration(time.Second)
	// staleAfter is how many times Every an answer is good for, the time to give one apart.
	staleAfter = 3
)

// AskTimeout is how long one question may take.
func (j Judge) AskTimeout() time.Duration { return time.Duration(or(j.Timeout, defaultTimeout)) }

// AskEvery is how long from an answer to the next question.
func (j Judge) AskEvery() time.Duration { return time.Duration(or(j.Every, defaultEvery)) }

// InARow is how many failures in a row stop the canary.
func (j Judge) InARow() int { return or(j.Fails, defaultFails) }

// JudgeState is what a judge has answered, in this attempt.
type JudgeState struct {
	// Result of the newest answer, with why and when it came; the zero value: none has.
	Result evidence.Result `json:"result,omitempty"`
	Why    string          `json:"why,omitempty"`
	At     time.Time       `json:"at,omitzero"`
	// Failing is how many answers in a row were a failure; what is not known neither adds to them nor ends them.
	Failing int `json:"failing,omitempty"`
	// Asked is how often it was asked, Next when it is again.
	Asked int       `json:"asked,omitempty"`
	Next  time.Time `json:"next,omitzero"`
}

// placeholder is what may stand in a query.
var placeholder = regexp.MustCompile(`\{\{\s*(\w*)\s*\}\}`)

// Query is the judge's query about this rollout.
func (r *Run) Query(j Judge) string {
	names := map[string]string{"spec": r.Spec, "canary": r.Canary, "stable": r.Stable}
	return placeholder.ReplaceAllStringFunc(j.Prometheus, func(p string) string { return names[placeholder.FindStringSubmatch(p)[1]] })
}

// Question is what the judge is asked, in words that may be shown: the query, or the host of the webhook, whose path may be a secret.
func (r *Run) Question(j Judge) string {
	if j.Webhook == "" {
		return r.Query(j)
	}
	if u, err := url.Parse(j.Webhook); err == nil {
		return "webhook at " + u.Host
	}
	return "webhook"
}

// Measured is what a number means to the judge. Not a number means nothing.
func (j Judge) Measured(n float64) (evidence.Result, string) {
	switch {
	case math.IsNaN(n):
		return evidence.Insufficient, "the query gives no number (NaN)"
	case j.FailAbove != nil && n > *j.FailAbove:
		return evidence.Fail, fmt.Sprintf("%.4g is above %.4g", n, *j.FailAbove)
	case j.FailBelow != nil && n < *j.FailBelow:
		return evidence.Fail, fmt.Sprintf("%.4g is below %.4g", n, *j.FailBelow)
	}
	return evidence.Pass, fmt.Sprintf("%.4g is %s", n, j.bounds())
}

func (j Judge) bounds() string {
	var out []string
	if j.FailAbove != nil {
		out = append(out, fmt.Sprintf("not above %.4g", *j.FailAbove))
	}
	if j.FailBelow != nil {
		out = append(out, fmt.Sprintf("not below %.4g", *j.FailBelow))
	}
	return strings.Join(out, ", ")
}

func (p Plan) checkJudges(ps *problems) {
	if len(p.Judges) > maxJudges {
		ps.add("judges", "%d of them, at most %d", len(p.Judges), maxJudges)
	}
	names := map[string]bool{Outcome: true}
	for _, m := range p.Metrics {
		names[m.Name] = true
	}
	for i, j := range p.Judges {
		at := fmt.Sprintf("judges[%d]", i)
		if j.Name == "" || names[j.Name] {
			ps.add(at+".name", "judges need names of their own, which no metric has: %q", j.Name)
		}
		names[j.Name] = true
		if (j.Prometheus == "") == (j.Webhook == "") {
			ps.add(at, "judge %s is either a query of prometheus or a webhook", j.Name)
		}
		bounded := j.FailAbove != nil || j.FailBelow != nil
		switch {
		case j.Prometheus != "" && !bounded:
			ps.add(at, "judge %s: say failAbove or failBelow, else no number is a failure", j.Name)
		case j.Webhook != "" && bounded:
			ps.add(at, "judge %s: failAbove and failBelow are for queries; a webhook answers pass or fail", j.Name)
		}
		for _, bound := range []*float64{j.FailAbove, j.FailBelow} {
			if bound != nil && (math.IsNaN(*bound) || math.IsInf(*bound, 0)) {
				ps.add(at, "judge %s: bounds are finite numbers", j.Name)
			}
		}
		for _, found := range placeholder.FindAllStringSubmatch(j.Prometheus, -1) {
			if !slices.Contains([]string{"spec", "canary", "stable"}, found[1]) {
				ps.add(at+".prometheus", "%s stands for nothing: there are {{spec}}, {{canary}} and {{stable}}", found[0])
			}
		}
		if j.Webhook != "" {
			checkURL(at+".webhook", j.Webhook, ps)
		}
		if j.Every != 0 && j.Every < leastEvery || j.Timeout < 0 {
			ps.add(at, "judge %s: every is %s at least, and timeout not negative", j.Name, leastEvery)
		}
		if j.Fails < 0 || j.Fails > maxFails {
			ps.add(at+".fails", "judge %s: between 1 and %d failures in a row", j.Name, maxFails)
		}
	}
}

// QueriesPrometheus says that a judge needs a Prometheus.
func (p Plan) QueriesPrometheus() bool {
	return slices.ContainsFunc(p.Judges, func(j Judge) bool { return j.Prometheus != "" })
}

// judgeState of one judge; the zero value if it was never asked.
func (r *Run) judgeState(i int) JudgeState {
	if i < len(r.Judges) {
		return r.Judges[i]
	}
	return JudgeState{}
}

// Asks says whether a judge is to be asked now: while the canary has traffic and nothing is decided.
func (r *Run) Asks(judge int, now time.Time) bool {
	return !r.Phase.Ended() && r.Phase != Failed && r.Step >= 0 && judge < len(r.Plan.Judges) && !now.Before(r.judgeState(judge).Next)
}

// Heard returns the rollout with a judge's answer.
func (r Run) Heard(judge int, result evidence.Result, why string, now time.Time) Run {
	states := make([]JudgeState, len(r.Plan.Judges))
	copy(states, r.Judges)
	s := &states[judge]
	s.Result, s.Why, s.At, s.Next = result, why, now, now.Add(r.Plan.Judges[judge].AskEvery())
	s.Asked++
	switch result {
	case evidence.Fail:
		s.Failing++
	case evidence.Pass:
		s.Failing = 0
	case evidence.Insufficient:
	}
	r.Judges = states
	return r
}

// JudgeVerdict is what a judge's answers amount to now.
type JudgeVerdict struct {
	Judge  Judge
	State  JudgeState
	Result evidence.Result
	Reason string
}

// JudgeVerdicts are those of all judges of the plan. An answer is good for the step in force if it came in it, and not too long ago.
func (r *Run) JudgeVerdicts(now time.Time) []JudgeVerdict {
	out := make([]JudgeVerdict, len(r.Plan.Judges))
	for i, j := range r.Plan.Judges {
		s := r.judgeState(i)
		v := JudgeVerdict{Judge: j, State: s, Result: evidence.Insufficient}
		switch {
		case s.Failing >= j.InARow():
			v.Result, v.Reason = evidence.Fail, s.Why
			if s.Failing > 1 {
				v.Reason += fmt.Sprintf(" (%d failures in a row)", s.Failing)
			}
		case s.Asked == 0:
			v.Reason = "it has not answered yet"
		case s.Result == evidence.Insufficient:
			v.Reason = or(s.Why, "it cannot say")
		case s.Failing > 0:
			v.Reason = fmt.Sprintf("%s (%d of %d failures in a row)", s.Why, s.Failing, j.InARow())
		case s.At.Before(r.EnteredAt):
			v.Reason = "it has not answered since this step began"
		case now.Sub(s.At) > staleAfter*j.AskEvery()+j.AskTimeout():
			v.Reason = "it has not answered since " + s.At.UTC().Format("15:04:05Z")
		default:
			v.Result, v.Reason = evidence.Pass, s.Why
		}
		out[i] = v
	}
	return out
}

// Judge is the verdict on the canary, by what the step in force asks for: of the executions, and of the judges. One that fails fails it; a pass needs
// all of them.
func (r *Run) Judge(now time.Time) evidence.Verdict {
	v := r.Evidence.Judge(r.Plan.Rules(), r.Demand())
	for _, j := range r.JudgeVerdicts(now) {
		if j.Result == evidence.Fail && v.Result != evidence.Fail || j.Result == evidence.Insufficient && v.Result == evidence.Pass {
			v.Result, v.Reason = j.Result, fmt.Sprintf("judge %s: %s", j.Judge.Name, j.Reason)
		}
	}
	return v
}

func (j Judge) words() string {
	asked := fmt.Sprintf("asked every %s, %d failures in a row stop the canary; no answer lets it go no further", Duration(j.AskEvery()), j.InARow())
	if j.InARow() == 1 {
		asked = fmt.Sprintf("asked every %s, one failure stops the canary; no answer lets it go no further", Duration(j.AskEvery()))
	}
	if j.Webhook != "" {
		return j.Webhook + " is " + asked
	}
	return fmt.Sprintf("Prometheus is %s: %s must be %s", asked, j.Prometheus, j.bounds())
}
