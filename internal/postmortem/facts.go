package postmortem

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Fact is what an event says. Its apply changes a record that nobody else holds.
type Fact interface {
	kind() string
	apply(r *Record, e Event) error
}

// Opened begins a record: what was known at the commit of the rollback.
type Opened struct {
	Specs     []string   `json:"specs"`
	Reason    string     `json:"reason,omitempty"`
	Rollbacks []Rollback `json:"rollbacks"`
	// Approval is set if the policy of one of the specs demands that a second person approves the answers.
	Approval bool `json:"approval,omitempty"`
	// Alerts about the specs that had come in shortly before.
	Alerts []Alert `json:"alerts,omitempty"`
}

// Proven says how far the rollback of one spec has taken effect.
type Proven struct {
	Spec   string `json:"spec"`
	Effect Effect `json:"effect"`
}

// Drained says what became of the executions of one abandoned version.
type Drained struct {
	Spec    string  `json:"spec"`
	Version string  `json:"version"`
	Settled Settled `json:"settled"`
}

// Refusal says that a sidecar did not carry an intervention out.
type Refusal struct {
	Intervention string `json:"intervention"`
	Why          string `json:"why"`
}

// Gathered is one part of the evidence, in place of what was gathered of it before.
type Gathered struct {
	Spec     string   `json:"spec"`
	Evidence Evidence `json:"evidence"`
}

// Answered is the answer to one question, in place of an earlier one.
type Answered struct {
	Question Question `json:"question"`
	Text     string   `json:"text"`
}

// Assigned gives the record an owner.
type Assigned struct {
	Owner string    `json:"owner"`
	Due   time.Time `json:"due,omitzero"`
	Note  string    `json:"note,omitempty"`
}

// Acted adds an action item, or changes the one with its id.
type Acted struct {
	Action Action `json:"action"`
}

// Alerted is an alert that came in while the record's window was open, or just before.
type Alerted struct {
	Alert Alert `json:"alert"`
}

// Approved says that a second person agrees with the answers as they stood.
type Approved struct {
	Note string `json:"note,omitempty"`
}

// Closed answers the record for good, until somebody reopens it.
type Closed struct {
	Cause Cause  `json:"cause"`
	Note  string `json:"note"`
	// Final is what was counted at the closing: see Settled.Failed and Abandoned.Touched.
	Final []Final `json:"final,omitempty"`
}

// Final is what was known of one abandoned version when its record was closed.
type Final struct {
	Spec           string    `json:"spec"`
	Version        string    `json:"version"`
	Failed         int       `json:"failed"`
	Touched        []Touched `json:"touched,omitempty"`
	TouchedOmitted uint64    `json:"touchedOmitted,omitempty"`
}

// Reopened takes a closing back.
type Reopened struct {
	Reason string `json:"reason"`
}

// Named says that a version names the record as the one it fixes.
type Named struct {
	Spec    string `json:"spec"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
}

// Erased says that personal data was erased: the digests stay, what they stand for is gone.
type Erased struct {
	Digests []string `json:"digests"`
	Reason  string   `json:"reason"`
}

// facts makes an empty fact of each kind.
var facts = map[string]func() Fact{
	Opened{}.kind():       func() Fact { return &Opened{} },
	Proven{}.kind():       func() Fact { return &Proven{} },
	Drained{}.kind():      func() Fact { return &Drained{} },
	Intervention{}.kind(): func() Fact { return &Intervention{} },
	Refusal{}.kind():      func() Fact { return &Refusal{} },
	Override{}.kind():     func() Fact { return &Override{} },
	Undone{}.kind():       func() Fact { return &Undone{} },
	Unfrozen{}.kind():     func() Fact { return &Unfrozen{} },
	Gathered{}.kind():     func() Fact { return &Gathered{} },
	Answered{}.kind():     func() Fact { return &Answered{} },
	Assigned{}.kind():     func() Fact { return &Assigned{} },
	Acted{}.kind():        func() Fact { return &Acted{} },
	Alerted{}.kind():      func() Fact { return &Alerted{} },
	Approved{}.kind():     func() Fact { return &Approved{} },
	Closed{}.kind():       func() Fact { return &Closed{} },
	Reopened{}.kind():     func() Fact { return &Reopened{} },
	Named{}.kind():        func() Fact { return &Named{} },
	Erased{}.kind():       func() Fact { return &Erased{} },
}

func (Opened) kind() string       { return "opened" }
func (Proven) kind() string       { return "proven" }
func (Drained) kind() string      { return "drained" }
func (Intervention) kind() string { return "intervention" }
func (Refusal) kind() string      { return "refusal" }
func (Override) kind() string     { return "override" }
func (Undone) kind() string       { return "undone" }
func (Unfrozen) kind() string     { return "unfrozen" }
func (Gathered) kind() string     { return "gathered" }
func (Answered) kind() string     { return "answered" }
func (Assigned) kind() string     { return "assigned" }
func (Acted) kind() string        { return "action" }
func (Alerted) kind() string      { return "alert" }
func (Approved) kind() string     { return "approved" }
func (Closed) kind() string       { return "closed" }
func (Reopened) kind() string     { return "reopened" }
func (Named) kind() string        { return "named" }
func (Erased) kind() string       { return "erased" }

// NewEvent is the event of a fact; its number is set when it is appended.
func NewEvent(record string, at time.Time, actor string, fact Fact) (Event, error) {
	raw, err := json.Marshal(fact)
	if err != nil {
		return Event{}, fmt.Errorf("%s of %s cannot be written as JSON: %w", fact.kind(), record, err)
	}
	return Event{Record: record, At: at, Actor: actor, Kind: fact.kind(), Fact: raw}, nil
}

// Says is the fact of the event, as a pointer.
func (e Event) Says() (Fact, error) {
	empty, ok := facts[e.Kind]
	if !ok {
		return nil, fmt.Errorf("event %d of %s is of a kind that this release does not know: %s", e.Seq, e.Record, e.Kind)
	}
	fact := empty()
	if err := json.Unmarshal(e.Fact, fact); err != nil {
		return nil, fmt.Errorf("event %d (%s) of %s cannot be read: %w", e.Seq, e.Kind, e.Record, err)
	}
	return fact, nil
}

// After is the record as the event leaves it. The record before is not changed.
func (r Record) After(e Event) (Record, error) {
	fact, err := e.Says()
	if err != nil {
		return r, err
	}
	if r.ID == "" != (e.Kind == Opened{}.kind()) {
		return r, fmt.Errorf("event %d of %s is %s: a record is opened once, before everything else", e.Seq, e.Record, e.Kind)
	}
	next := r.clone()
	if err := fact.apply(&next, e); err != nil {
		return r, fmt.Errorf("event %d (%s) of %s: %w", e.Seq, e.Kind, e.Record, err)
	}
	return next, nil
}

// Replay is the record that the entries make: all of one record, in their order.
func Replay(entries []Entry) (Record, error) {
	var r Record
	for _, entry := range entries {
		e, err := entry.Decode()
		if err != nil {
			return r, err
		}
		if r, err = r.After(e); err != nil {
			return r, err
		}
	}
	return r, nil
}

// clone shares nothing that an event changes.
func (r Record) clone() Record {
	r.Rollbacks = slices.Clone(r.Rollbacks)
	for i := range r.Rollbacks {
		r.Rollbacks[i].Abandoned = slices.Clone(r.Rollbacks[i].Abandoned)
	}
	r.Overrides, r.Interventions, r.Unfrozen = slices.Clone(r.Overrides), slices.Clone(r.Interventions), slices.Clone(r.Unfrozen)
	r.Answers, r.Actions, r.Alerts = slices.Clone(r.Answers), slices.Clone(r.Actions), slices.Clone(r.Alerts)
	r.Approvals, r.Reopenings, r.NamedBy = slices.Clone(r.Approvals), slices.Clone(r.Reopenings), slices.Clone(r.NamedBy)
	r.Erasures = slices.Clone(r.Erasures)
	return r
}

// of gives the entry of one spec.
func (r *Record) of(spec string) (*Rollback, error) {
	for i := range r.Rollbacks {
		if r.Rollbacks[i].Spec == spec {
			return &r.Rollbacks[i], nil
		}
	}
	return nil, fmt.Errorf("the record does not concern %s", spec)
}

func (r *Record) abandoned(spec, version string) (*Abandoned, error) {
	b, err := r.of(spec)
	if err != nil {
		return nil, err
	}
	for i := range b.Abandoned {
		if b.Abandoned[i].Version == version {
			return &b.Abandoned[i], nil
		}
	}
	return nil, fmt.Errorf("the record does not abandon %s:%s", spec, version)
}

func (f Opened) apply(r *Record, e Event) error {
	*r = Record{ID: e.Record, OpenedAt: e.At, Actor: e.Actor, Specs: f.Specs, Reason: f.Reason, Rollbacks: f.Rollbacks, Approval: f.Approval, Alerts: f.Alerts}
	return nil
}

func (f Proven) apply(r *Record, _ Event) error {
	b, err := r.of(f.Spec)
	if err == nil {
		b.Effect = &f.Effect
	}
	return err
}

func (f Drained) apply(r *Record, _ Event) error {
	a, err := r.abandoned(f.Spec, f.Version)
	if err == nil {
		a.Settled = &f.Settled
	}
	return err
}

func (f Intervention) apply(r *Record, _ Event) error {
	r.Interventions = append(r.Interventions, f)
	return nil
}

func (f Refusal) apply(r *Record, _ Event) error {
	for i := range r.Interventions {
		if r.Interventions[i].ID == f.Intervention {
			r.Interventions[i].Refusal = f.Why
		}
	}
	return nil
}

func (f Override) apply(r *Record, _ Event) error {
	r.Overrides = append(r.Overrides, f)
	return nil
}

func (f Undone) apply(r *Record, _ Event) error {
	r.Undone = &f
	return nil
}

func (f Unfrozen) apply(r *Record, _ Event) error {
	r.Unfrozen = append(r.Unfrozen, f)
	return nil
}

func (f Gathered) apply(r *Record, e Event) error {
	b, err := r.of(f.Spec)
	if err == nil {
		f.Evidence.At = e.At
		b.Evidence = &f.Evidence
	}
	return err
}

func (f Answered) apply(r *Record, e Event) error {
	answer := Answer{Question: f.Question, Text: f.Text, By: e.Actor, At: e.At}
	// Whoever approved did not approve of this.
	r.Approvals = nil
	if i := slices.IndexFunc(r.Answers, func(a Answer) bool { return a.Question == f.Question }); i >= 0 {
		r.Answers[i] = answer
		return nil
	}
	r.Answers = append(r.Answers, answer)
	slices.SortStableFunc(r.Answers, func(a, b Answer) int {
		return slices.Index(Questions(), a.Question) - slices.Index(Questions(), b.Question)
	})
	return nil
}

func (f Assigned) apply(r *Record, e Event) error {
	r.Owner = &Owner{Name: f.Owner, Due: f.Due, Note: f.Note, By: e.Actor, At: e.At}
	return nil
}

func (f Acted) apply(r *Record, _ Event) error {
	if i := slices.IndexFunc(r.Actions, func(a Action) bool { return a.ID == f.Action.ID }); i >= 0 {
		r.Actions[i] = f.Action
		return nil
	}
	r.Actions = append(r.Actions, f.Action)
	return nil
}

func (f Alerted) apply(r *Record, _ Event) error {
	r.Alerts = append(r.Alerts, f.Alert)
	return nil
}

func (f Approved) apply(r *Record, e Event) error {
	r.Approvals = append(r.Approvals, Approval{By: e.Actor, At: e.At, Note: f.Note})
	return nil
}

func (f Closed) apply(r *Record, e Event) error {
	r.Closing = &Closing{At: e.At, Actor: e.Actor, Cause: f.Cause, Note: f.Note}
	for _, last := range f.Final {
		a, err := r.abandoned(last.Spec, last.Version)
		if err != nil {
			return err
		}
		a.Touched, a.TouchedOmitted = last.Touched, last.TouchedOmitted
		if a.Settled != nil {
			settled := *a.Settled
			settled.Failed = last.Failed
			a.Settled = &settled
		}
	}
	return nil
}

func (f Reopened) apply(r *Record, e Event) error {
	if r.Closing == nil {
		return fmt.Errorf("it is open")
	}
	r.Reopenings = append(r.Reopenings, Reopening{At: e.At, Actor: e.Actor, Reason: f.Reason, Was: *r.Closing})
	r.Closing, r.Approvals = nil, nil
	return nil
}

func (f Named) apply(r *Record, e Event) error {
	fix := Fix{Spec: f.Spec, Version: f.Version, Digest: f.Digest, By: e.Actor, At: e.At}
	if !slices.ContainsFunc(r.NamedBy, func(x Fix) bool { return x.Digest == f.Digest }) {
		r.NamedBy = append(r.NamedBy, fix)
	}
	return nil
}

func (f Erased) apply(r *Record, e Event) error {
	r.Erasures = append(r.Erasures, Erasure{At: e.At, Actor: e.Actor, Digests: f.Digests, Reason: f.Reason})
	return nil
}
