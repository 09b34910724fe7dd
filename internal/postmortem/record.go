// Package postmortem holds the record that every rollback opens: its events and their chain, its evidence, its questions, its Markdown.
//
// Invariants: a record is what its events say, in their order, and nothing else; it begins in the rollback's own transaction; events are only
// ever added, each chained to all before it by hash; what they say was observed, with a zero or an absent value where nothing was; personal
// data is named in them by a salted digest only, so that it can be erased and the chain stays whole. The package is pure: no clock, no I/O, no goroutines.
package postmortem

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/rollout"
	"github.com/specproxy/specproxy/internal/rollout/evidence"
	"github.com/specproxy/specproxy/internal/routing"
)

// Record is one post-mortem: one rollback of one or more specs.
type Record struct {
	ID string `json:"id"`
	// Specs that were rolled back, sorted.
	Specs    []string  `json:"specs"`
	OpenedAt time.Time `json:"openedAt"`
	Actor    string    `json:"actor"`
	Reason   string    `json:"reason,omitempty"`
	// Rollbacks has one entry a spec, in the order of Specs.
	Rollbacks []Rollback `json:"rollbacks"`

	Overrides []Override `json:"overrides,omitempty"`
	// Interventions are what operators decided over single executions while the record was open.
	Interventions []Intervention `json:"interventions,omitempty"`
	Undone        *Undone        `json:"undone,omitempty"`
	// Unfrozen says who let automation in again before the freeze's time was over, one entry a spec at most.
	Unfrozen []Unfrozen `json:"unfrozen,omitempty"`

	// Owner looks after the record; nil while nobody does.
	Owner   *Owner   `json:"owner,omitempty"`
	Answers []Answer `json:"answers,omitempty"`
	Actions []Action `json:"actions,omitempty"`
	// Alerts that came in shortly before the rollback or while its window was open.
	Alerts []Alert `json:"alerts,omitempty"`
	// Approval says that a second person must approve the answers; Approvals are those that stand.
	Approval  bool       `json:"approval,omitempty"`
	Approvals []Approval `json:"approvals,omitempty"`
	// NamedBy are the versions that say that they fix it.
	NamedBy  []Fix     `json:"namedBy,omitempty"`
	Erasures []Erasure `json:"erasures,omitempty"`

	Closing    *Closing    `json:"closing,omitempty"`
	Reopenings []Reopening `json:"reopenings,omitempty"`
}

// Rollback is what happened to one spec.
type Rollback struct {
	Spec       string `json:"spec"`
	Generation uint64 `json:"generation"`
	// Command that caused it: rollback, deploy, weights.
	Command     string          `json:"command"`
	CommittedAt time.Time       `json:"committedAt"`
	Abandoned   []Abandoned     `json:"abandoned"`
	Target      string          `json:"target"`
	TargetWhy   string          `json:"targetWhy"`
	Digest      string          `json:"targetDigest"`
	Before      []routing.Split `json:"before"`
	After       []routing.Split `json:"after"`
	// HeaderTargets that led to what is abandoned, and ended with it.
	HeaderTargets []routing.HeaderTarget `json:"headerTargets,omitempty"`
	// Timeline is the history of weights that led here, oldest first, the rollback's own generation last.
	Timeline []Step `json:"timeline"`
	// Outcomes by version as the sidecars had reported them at the commit.
	Outcomes []Outcome `json:"outcomes"`
	// Plans says what the abandoned versions' contracts meant for the executions known to run at the commit.
	Plans  []Plan  `json:"plans"`
	Effect *Effect `json:"effect,omitempty"`
	// Evidence that was gathered at the commit and since; nil before anything was.
	Evidence *Evidence `json:"evidence,omitempty"`
	// Canary is the rollout that the rollback ended, and what it was judged by then; nil if none was under way.
	Canary *Canary `json:"canary,omitempty"`
}

// Canary is a rollout at the moment of its rollback.
type Canary struct {
	Run     rollout.Run      `json:"run"`
	Verdict evidence.Verdict `json:"verdict"`
	// By the rollout itself, and not by a person or another command.
	Itself bool `json:"itself,omitempty"`
}

// Abandoned is one version that the rollback took all weight from.
type Abandoned struct {
	Version string `json:"version"`
	Digest  string `json:"digest"`
	// Settled is what became of its executions; nil while its drain goes on.
	Settled *Settled `json:"settled,omitempty"`
	// Touched is what its executions are known to have done to the world, worst class first; TouchedOmitted how much more of it there was.
	Touched        []Touched `json:"touched,omitempty"`
	TouchedOmitted uint64    `json:"touchedOmitted,omitempty"`
}

// Touched counts acts of one class, and the executions that did them.
type Touched struct {
	Class      drain.Effects `json:"class"`
	Acts       int           `json:"acts"`
	Executions int           `json:"executions"`
}

// Settled is the end of one drain.
type Settled struct {
	At     time.Time    `json:"at"`
	State  drain.State  `json:"state"`
	Counts drain.Counts `json:"counts"`
	// Arrived is how many hand-overs the target's instances report as arrived: as many as were handed over, if none was lost on the way.
	Arrived uint64 `json:"arrived"`
	// Failed is how many executions are to be done again: failed under the version, or cancelled by the order. It is counted whenever an open
	// record is read, and fixed when the record is closed.
	Failed int `json:"failed"`
}

// Step is one generation in the timeline.
type Step struct {
	Generation uint64          `json:"generation"`
	At         time.Time       `json:"at"`
	By         string          `json:"by"`
	Kind       routing.Kind    `json:"kind"`
	Splits     []routing.Split `json:"splits"`
}

// Outcome is what one version's pool had achieved since its sidecars started.
type Outcome struct {
	Version string `json:"version"`
	// Started is every execution that began; 0 also where it was not counted.
	Started   uint64 `json:"started"`
	Succeeded uint64 `json:"succeeded"`
	Failed    uint64 `json:"failed"`
	Unknown   uint64 `json:"unknown"`
	InFlight  uint64 `json:"inFlight"`
	// Segments count the same executions by the attributes that the version's manifest declares.
	Segments []drain.Segment `json:"segments,omitempty"`
}

// Plan is one rule's share of the running executions of one abandoned version.
type Plan struct {
	Version     string            `json:"version"`
	Rule        string            `json:"rule"`
	Disposition drain.Disposition `json:"disposition"`
	// Within is how long the contract, or the order where the contract says nothing, let them go on; Then what follows. Zero: no deadline.
	Within     time.Duration     `json:"within,omitempty"`
	Then       drain.Disposition `json:"then,omitempty"`
	Executions int               `json:"executions"`
}

// words are the disposition with its deadline.
func (p Plan) words() string {
	words := string(p.Disposition)
	if p.Within > 0 {
		words += " within " + drain.Duration(p.Within).String()
	}
	if p.Then != "" {
		words += ", then " + string(p.Then)
	}
	return words
}

// Effect is the proof that the rollback took effect.
type Effect struct {
	// At is when it was proven effective.
	At time.Time `json:"at"`
	// By: route, fence, or both.
	By              string    `json:"by"`
	Proxies         int       `json:"proxies"`
	ProxiesAcked    int       `json:"proxiesAcked"`
	Fences          int       `json:"fences"`
	FencesAcked     int       `json:"fencesAcked"`
	Laggards        []string  `json:"laggards,omitempty"`
	LastAdmissionAt time.Time `json:"lastAdmissionAt,omitzero"`
	LastAdmissionID string    `json:"lastAdmissionId,omitempty"`
}

// Override is a deploy in spite of the open record.
type Override struct {
	At      time.Time `json:"at"`
	Actor   string    `json:"actor"`
	Version string    `json:"version"`
	Reason  string    `json:"reason"`
}

// Intervention is what an operator decided over one execution, in place of its rule.
type Intervention struct {
	ID          string            `json:"id"`
	At          time.Time         `json:"at"`
	Actor       string            `json:"actor"`
	Version     string            `json:"version"`
	Execution   string            `json:"execution"`
	Disposition drain.Disposition `json:"disposition"`
	Effects     drain.Effects     `json:"effects"`
	// DespiteEffects: in spite of a known irreversible effect, or of one that is done twice.
	DespiteEffects bool   `json:"despiteEffects,omitempty"`
	Reason         string `json:"reason"`
	// Refusal is why the sidecar did not carry it out; empty if it did, or has not answered.
	Refusal string `json:"refusal,omitempty"`
}

// Undone says that the rollback was taken back.
type Undone struct {
	At     time.Time `json:"at"`
	Actor  string    `json:"actor"`
	Reason string    `json:"reason,omitempty"`
}

// Unfrozen says that a person ended one spec's freeze.
type Unfrozen struct {
	At    time.Time `json:"at"`
	Actor string    `json:"actor"`
	Spec  string    `json:"spec"`
}

// Closing is the answer.
type Closing struct {
	At    time.Time `json:"at"`
	Actor string    `json:"actor"`
	Cause Cause     `json:"cause"`
	Note  string    `json:"note"`
}

// Open says that the record still waits for its answer.
func (r Record) Open() bool { return r.Closing == nil }

// Rollback of one spec.
func (r Record) Rollback(spec string) (Rollback, bool) {
	i := slices.IndexFunc(r.Rollbacks, func(b Rollback) bool { return b.Spec == spec })
	if i < 0 {
		return Rollback{}, false
	}
	return r.Rollbacks[i], true
}

// Abandons says whether this record's rollback abandoned the version.
func (r Record) Abandons(spec, version string) bool {
	b, ok := r.Rollback(spec)
	return ok && slices.ContainsFunc(b.Abandoned, func(a Abandoned) bool { return a.Version == version })
}

// WithRollback returns a copy in which change was applied to a copy of the spec's entry.
func (r Record) WithRollback(spec string, change func(*Rollback)) Record {
	r.Rollbacks = slices.Clone(r.Rollbacks)
	for i := range r.Rollbacks {
		if r.Rollbacks[i].Spec == spec {
			r.Rollbacks[i].Abandoned = slices.Clone(r.Rollbacks[i].Abandoned)
			change(&r.Rollbacks[i])
		}
	}
	return r
}

// Cause is what a closed record found.
type Cause string

const (
	SpecError              Cause = "spec-error"
	CorrectMiscommunicated Cause = "correct-but-miscommunicated"
	Implementation         Cause = "implementation"
	Environment            Cause = "environment"
	FalseAlarm             Cause = "false-alarm"
)

// Causes lists every cause.
func Causes() []Cause {
	return []Cause{SpecError, CorrectMiscommunicated, Implementation, Environment, FalseAlarm}
}

// ParseCause refuses anything that is not a cause, and names them all.
func ParseCause(s string) (Cause, error) {
	if c := Cause(s); slices.Contains(Causes(), c) {
		return c, nil
	}
	names := make([]string, 0, len(Causes()))
	for _, c := range Causes() {
		names = append(names, string(c))
	}
	return "", fmt.Errorf("cause %q is not one of %s", s, strings.Join(names, ", "))
}

// Clears says that the fault lies outside the version, which becomes a candidate again.
func (c Cause) Clears() bool { return c == FalseAlarm || c == Environment }
