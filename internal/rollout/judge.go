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
	// Every is how long from an answer to the next question; a step that begins asks at once. Default: 30s. Timeout is of one question. Default: 10s.
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
	// maxQuery bounds a query in bytes: it is stored with the rollout, and asked for ever.
	maxQuery = 4 << 10
	// keptAnswers is how many of a judge's newest answers are kept.
	keptAnswers = 5
)

// AskTimeout is how long one question may take.
func (j Judge) AskTimeout() time.Duration { return time.Duration(or(j.Timeout, defaultTimeout)) }

// AskEvery is how long from an answer to the next question.
func (j Judge) AskEvery() time.Duration { return time.Duration(or(j.Every, defaultEvery)) }

// InARow is how many failures in a row stop the canary.
func (j Judge) InARow() int { return or(j.Fails, defaultFails) }

// JudgeAnswer is one answer: in which step and when it was asked for, when it came, and what it was.
type JudgeAnswer struct {
	// Step that was in force when the question was put; the answer is about no other.
	Step    int             `json:"step"`
	AskedAt time.Time       `json:"askedAt"`
	At      time.Time       `json:"at"`
	Result  evidence.Result `json:"result"`
	// Value is the number that a query gave; nil: it gave none, or a webhook was asked.
	Value *float64 `json:"value,omitempty"`
	// Why, in the judge's words or ours; or why there was no answer.
	Why string `json:"why"`
}

// JudgeState is what a judge has answered, in this attempt.
type JudgeState struct {
	// Answers are the newest, in the order in which they were asked for.
	Answers []JudgeAnswer `json:"answers,omitempty"`
	// Failing is how many answers in a row were a failure; what is not known neither adds to them nor ends them.
	Failing int `json:"failing,omitempty"`
	// Asked is how often it was asked, Next when it is again.
	Asked int       `json:"asked,omitempty"`
	Next  time.Time `json:"next,omitzero"`
}

// Last is the answer that was asked for last; ok is false if there is none.
func (s JudgeState) Last() (a JudgeAnswer, ok bool) {
	if n := len(s.Answers); n > 0 {
		return s.Answers[n-1], true
	}
	return JudgeAnswer{}, false
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

// Measured is what a number means to the judge. One that is not finite means nothing: a ratio to nothing is no measurement.
func (j Judge) Measured(n float64) (evidence.Result, string) {
	switch {
	case math.IsNaN(n) || math.IsInf(n, 0):
		return evidence.Insufficient, fmt.Sprintf("the query gives no number (%v)", n)
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
		if len(j.Prometheus) > maxQuery {
			ps.add(at+".prometheus", "judge %s: the query has %d bytes, at most %d: make it a recording rule", j.Name, len(j.Prometheus), maxQuery)
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

// Asks says whether a judge is to be asked now: while the canary has traffic and nothing is decided, and at once when a step begins.
func (r *Run) Asks(judge int, now time.Time) bool {
	if r.Phase.Ended() || r.Phase == Failed || r.Step < 0 || judge >= len(r.Plan.Judges) {
		return false
	}
	s := r.judgeState(judge)
	last, _ := s.Last()
	return !now.Before(s.Next) || last.Step != r.Step
}

// Heard returns the rollout with a judge's answer. One that was asked for in an earlier step is kept, and counts for nothing: it is about another share
// of the traffic, and the step in force has asked anew.
func (r Run) Heard(judge int, a JudgeAnswer) Run {
	states := make([]JudgeState, len(r.Plan.Judges))
	copy(states, r.Judges)
	r.Judges = states
	s := &states[judge]
	s.Asked++
	at := len(s.Answers)
	for at > 0 && s.Answers[at-1].Step > a.Step {
		at--
	}
	s.Answers = slices.Insert(slices.Clone(s.Answers), at, a)
	s.Answers = s.Answers[max(0, len(s.Answers)-keptAnswers):]
	if a.Step != r.Step {
		return r
	}
	s.Next = a.At.Add(r.Plan.Judges[judge].AskEvery())
	switch a.Result {
	case evidence.Fail:
		s.Failing++
	case evidence.Pass:
		s.Failing = 0
	case evidence.Insufficient:
	}
	return r
}

// JudgeVerdict is what a judge's answers amount to now.
type JudgeVerdict struct {
	Judge  Judge
	State  JudgeState
	Result evidence.Result
	Reason string
}

// JudgeVerdicts are those of all judges of the plan. An answer is good for the step in force if it was asked for in it, and came not too long ago.
func (r *Run) JudgeVerdicts(now time.Time) []JudgeVerdict {
	out := make([]JudgeVerdict, len(r.Plan.Judges))
	for i, j := range r.Plan.Judges {
		s := r.judgeState(i)
		last, answered := s.Last()
		v := JudgeVerdict{Judge: j, State: s, Result: evidence.Insufficient}
		switch {
		case s.Failing >= j.InARow():
			v.Result, v.Reason = evidence.Fail, s.failure()
			if s.Failing > 1 {
				v.Reason += fmt.Sprintf(" (%d failures in a row)", s.Failing)
			}
		case !answered:
			v.Reason = "it has not answered yet"
		case last.Result == evidence.Insufficient:
			v.Reason = or(last.Why, "it cannot say")
		case s.Failing > 0:
			v.Reason = fmt.Sprintf("%s (%d of %d failures in a row)", last.Why, s.Failing, j.InARow())
		case last.Step != r.Step:
			v.Reason = "it has not been asked and answered since this step began"
		case now.Sub(last.At) > staleAfter*j.AskEvery()+j.AskTimeout():
			v.Reason = "it has not answered since " + last.At.UTC().Format("15:04:05Z")
		default:
			v.Result, v.Reason = evidence.Pass, last.Why
		}
		out[i] = v
	}
	return out
}

// failure is what the newest failure was; nothing that came after it ended it.
func (s JudgeState) failure() string {
	for _, a := range slices.Backward(s.Answers) {
		if a.Result == evidence.Fail {
			return a.Why
		}
	}
	return "it failed"
}

// silence says which judge has not passed, and why; empty if all have. Before the canary has traffic nothing is asked.
func (r *Run) silence(now time.Time) string {
	if r.Step < 0 {
		return ""
	}
	for _, j := range r.JudgeVerdicts(now) {
		if j.Result != evidence.Pass {
			return fmt.Sprintf("judge %s: %s", j.Judge.Name, j.Reason)
		}
	}
	return ""
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
