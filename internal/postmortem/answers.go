package postmortem

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Question is one of those that must be answered before a record closes.
type Question string

const (
	// Explanation: what happened, and how did the cause lead to it?
	Explanation Question = "explanation"
	// WhyCanary: why did the canary not catch it?
	WhyCanary Question = "canary"
	// WhyConformance: why did the version's tests pass?
	WhyConformance Question = "conformance"
	// FixedIn: which version fixes it, or why does none need to?
	FixedIn Question = "fixed-in"
	// NoAction: why nothing needs to be done. Asked only if there is no action item.
	NoAction Question = "no-action"
)

// Questions lists all of them, in the order in which they are asked.
func Questions() []Question {
	return []Question{Explanation, WhyCanary, WhyConformance, FixedIn, NoAction}
}

// Words is the question as a person is asked it.
func (q Question) Words() string {
	switch q {
	case Explanation:
		return "What happened, and how did the cause lead to it?"
	case WhyCanary:
		return "Why did the canary not catch it?"
	case WhyConformance:
		return "Why did conformance pass?"
	case FixedIn:
		return "What fixes it, and in which version?"
	case NoAction:
		return "Why does nothing need to be done?"
	}
	return string(q)
}

// ParseQuestion refuses anything that is not asked, and names what is.
func ParseQuestion(s string) (Question, error) {
	if q := Question(s); slices.Contains(Questions(), q) {
		return q, nil
	}
	names := make([]string, 0, len(Questions()))
	for _, q := range Questions() {
		names = append(names, string(q))
	}
	return "", fmt.Errorf("question %q is not one of %s", s, strings.Join(names, ", "))
}

// Answer is what somebody said to a question; the newest stands.
type Answer struct {
	Question Question  `json:"question"`
	Text     string    `json:"text"`
	By       string    `json:"by"`
	At       time.Time `json:"at"`
}

// Owner is who looks after the record.
type Owner struct {
	Name string    `json:"name"`
	Due  time.Time `json:"due,omitzero"`
	Note string    `json:"note,omitempty"`
	By   string    `json:"by"`
	At   time.Time `json:"at"`
}

// Action is something that somebody must do by a day.
type Action struct {
	// ID is "A1", then "A2", within its record.
	ID    string    `json:"id"`
	What  string    `json:"what"`
	Owner string    `json:"owner"`
	Due   time.Time `json:"due"`
	// Done is when it was said to be done; zero while it is not.
	Done   time.Time `json:"done,omitzero"`
	DoneBy string    `json:"doneBy,omitempty"`
}

// Alert is one that came in through the API.
type Alert struct {
	At time.Time `json:"at"`
	// Source that sent it, its own name for it, and what it said.
	Source  string `json:"source"`
	Name    string `json:"name"`
	Summary string `json:"summary,omitempty"`
	Spec    string `json:"spec"`
	Version string `json:"version,omitempty"`
}

// Approval is a second person's agreement.
type Approval struct {
	By   string    `json:"by"`
	At   time.Time `json:"at"`
	Note string    `json:"note,omitempty"`
}

// Reopening took a closing back.
type Reopening struct {
	At     time.Time `json:"at"`
	Actor  string    `json:"actor"`
	Reason string    `json:"reason"`
	Was    Closing   `json:"was"`
}

// Fix is a version whose manifest names the record.
type Fix struct {
	Spec    string    `json:"spec"`
	Version string    `json:"version"`
	Digest  string    `json:"digest"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
}

// Erasure is one erasing of personal data.
type Erasure struct {
	At      time.Time `json:"at"`
	Actor   string    `json:"actor"`
	Digests []string  `json:"digests"`
	Reason  string    `json:"reason"`
}

// Answer to a question; false if nobody has answered it.
func (r Record) Answer(q Question) (Answer, bool) {
	i := slices.IndexFunc(r.Answers, func(a Answer) bool { return a.Question == q })
	if i < 0 {
		return Answer{}, false
	}
	return r.Answers[i], true
}

// Unanswered lists what is still asked before the record can be closed, in order. A version that names the record answers which one fixes
// it; an action item answers that something is to be done; where the fault lies outside the version (cause), none needs to fix it.
func (r Record) Unanswered(cause Cause) []Question {
	var open []Question
	for _, q := range Questions() {
		_, answered := r.Answer(q)
		switch {
		case answered:
		case q == NoAction && len(r.Actions) > 0:
		case q == FixedIn && (len(r.NamedBy) > 0 || cause.Clears()):
		default:
			open = append(open, q)
		}
	}
	return open
}

// NextAction is the id of the next action item.
func (r Record) NextAction() string { return fmt.Sprintf("A%d", len(r.Actions)+1) }
