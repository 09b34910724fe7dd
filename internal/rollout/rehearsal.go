package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// Rehearsal is the proof of the way back that a canary gives before it takes traffic: synthetic executions are sent to it and taken back at every
// proxy, by a route of their own that real ones cannot take. It is kept with the rollout; once it has ended nobody changes it.
type Rehearsal struct {
	StartedAt time.Time `json:"startedAt"`
	EndedAt   time.Time `json:"endedAt,omitzero"`
	// Round in force; nil: none, and proxies have no trace of the rehearsal.
	Round *Round `json:"round,omitempty"`
	// Undo is what the slowest proxy took to send everything back; 0: that is not proven.
	Undo time.Duration `json:"undo,omitempty"`
	// Proxies are the slowest, slowest first; More counts the others.
	Proxies []Rehearsed `json:"proxies,omitempty"`
	More    int         `json:"more,omitempty"`
	// Failures are what it failed by: proxies and pools, in words.
	Failures []string `json:"failures,omitempty"`
	// Again: it is the second, after gates that were open only when the first was outdated. They are not asked again.
	Again bool `json:"again,omitempty"`
	// Skipped is why there was none, as a person said, and By is who.
	Skipped string `json:"skipped,omitempty"`
	By      string `json:"by,omitempty"`
}

// Round is one weight of the rehearsal: nothing, everything, nothing.
type Round struct {
	// Number from 1.
	Number int       `json:"number"`
	Since  time.Time `json:"since"`
	// Pin is carried by the synthetic executions of all rounds, and known to nobody else.
	Pin string `json:"pin"`
}

// Rehearsed is one proxy's part. Its times run from the command, as those of a rollback do.
type Rehearsed struct {
	Node string `json:"node"`
	// There is how long it took to send everything to the canary. Acked and Seen are how long it took to send everything back, by its own word and by
	// what synthetic executions met.
	There time.Duration `json:"there"`
	Acked time.Duration `json:"acked"`
	Seen  time.Duration `json:"seen,omitempty"`
	// Note says why there were no synthetic executions.
	Note string `json:"note,omitempty"`
}

// Back is how long the proxy took to send everything back.
func (p Rehearsed) Back() time.Duration { return max(p.Acked, p.Seen) }

// rounds of a rehearsal. All or nothing: one execution tells which it is, where a share would take hundreds.
var rounds = []uint16{0, evidence.Whole, 0}

// Rounds is how many a rehearsal has.
func Rounds() int { return len(rounds) }

// RoundWithin is how long the proxies have for one round.
const RoundWithin = 10 * time.Second

// proofLasts is how long before the first weight the way back may have been proven.
const proofLasts = 10 * time.Minute

// outdated says that it proves nothing about now. One that a person did not want is never.
func (r *Rehearsal) outdated(now time.Time) bool {
	return r != nil && r.Skipped == "" && now.Sub(r.EndedAt) > proofLasts
}

// maxRehearsed is how many proxies a rehearsal names: it is written with every change of its rollout.
const maxRehearsed = 50

// Weight of the canary for synthetic executions, in basis points.
func (r Round) Weight() uint16 { return rounds[r.Number-1] }

// Mark tells this round from all others of the spec.
func (r Round) Mark() string { return fmt.Sprintf("%d.%s", r.Number, r.Pin) }

// Rehearse makes a rollout that has just begun rehearse its way back before its first step.
func (r Run) Rehearse(now time.Time) (Run, Action) {
	r.Rehearsal = &Rehearsal{StartedAt: now}
	r.Phase, r.Step, r.Gates, r.History = Rehearsing, -1, nil, nil
	r.Why = "the way back is rehearsed at every proxy; the canary has no traffic before that is proven"
	r.note("", r.By, now)
	return r, Action{}
}

// Unrehearsed notes that a person wanted no rehearsal, and why.
func (r Run) Unrehearsed(by, why string, now time.Time) Run {
	r.Rehearsal = &Rehearsal{StartedAt: now, EndedAt: now, Skipped: why, By: by}
	r.Why = fmt.Sprintf("NOT REHEARSED, by %s: %s; %s", by, why, r.Why)
	r.History[len(r.History)-1].Why = r.Why
	return r
}

// InRound returns the rollout with a round in force.
func (r Run) InRound(number int, pin string, now time.Time) Run {
	rehearsal := *r.Rehearsal
	rehearsal.Round = &Round{Number: number, Since: now, Pin: pin}
	if number == 1 {
		rehearsal.StartedAt = now
	}
	r.Rehearsal = &rehearsal
	return r
}

// RoundInForce is what synthetic executions go by; nil unless there is a rehearsal under way.
func (r *Run) RoundInForce() *Round {
	if r.Phase != Rehearsing || r.Rehearsal == nil {
		return nil
	}
	return r.Rehearsal.Round
}

// Sight is what is known of a round at one moment.
type Sight struct {
	// Wrong is what cannot become right by waiting, such as a proxy that refuses, or a pool that is cold.
	Wrong []string
	// Late is what has not happened yet, by proxy.
	Late []string
	// Proxies is how many have done all that the round asks of them.
	Proxies int
}

// Judge says whether the round is over, and why it failed if it did. No proxy at all is nothing proven.
func (r Round) Judge(s Sight, now time.Time) (over bool, failures []string) {
	late := s.Late
	if s.Proxies == 0 && len(late) == 0 {
		late = []string{"no proxy is connected that could send executions: nobody can say how they come back"}
	}
	switch {
	case len(s.Wrong) > 0:
		return true, slices.Sorted(slices.Values(s.Wrong))
	case len(late) == 0:
		return true, nil
	case now.Sub(r.Since) >= RoundWithin:
		return true, slices.Sorted(slices.Values(late))
	}
	return false, nil
}

// Concluded returns the rollout with the rehearsal's result, and the event that it amounts to. More proxies than those named took part; slowest is how
// long the last of all took to send everything back.
func (r Run) Concluded(proxies []Rehearsed, more int, slowest time.Duration, failures []string, now time.Time) (Run, Event, string) {
	result := Rehearsal{StartedAt: r.Rehearsal.StartedAt, EndedAt: now, Failures: failures, Again: r.Rehearsal.Again}
	slices.SortFunc(proxies, func(a, b Rehearsed) int { return cmp.Or(cmp.Compare(b.Back(), a.Back()), cmp.Compare(a.Node, b.Node)) })
	named := min(len(proxies), maxRehearsed)
	result.Proxies, result.More = proxies[:named], len(proxies)-named+more
	event := EventUnproven
	if len(failures) == 0 {
		event, result.Undo = EventRehearsed, slowest
	}
	r.Rehearsal = &result
	return r, event, result.String()
}

// String puts the result in words.
func (r *Rehearsal) String() string {
	switch {
	case r == nil:
		return ""
	case r.Skipped != "":
		return fmt.Sprintf("not rehearsed, by %s: %s", r.By, r.Skipped)
	case len(r.Failures) > 0:
		return "its way back is not proven: " + strings.Join(r.Failures, "; ")
	case r.EndedAt.IsZero():
		return "its way back is being rehearsed"
	}
	n := len(r.Proxies) + r.More
	proxies := fmt.Sprintf("at %d proxies", n)
	if n == 1 {
		proxies = "at 1 proxy"
	}
	return fmt.Sprintf("this deploy can be undone in %s, as rehearsed %s", Brief(r.Undo), proxies)
}

// Brief writes a short time as people read it.
func Brief(d time.Duration) string {
	if d < time.Second {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
