package main

import (
	"fmt"
	"time"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// result is out/demo.json.
type result struct {
	EffectiveMS   float64 `json:"effective_ms"`
	Proxies       int     `json:"proxies"`
	SuccessBefore float64 `json:"success_before"`
	SuccessBad    float64 `json:"success_bad"`
	SuccessAfter  float64 `json:"success_after"`
	FailedUnder   int     `json:"failed_under_bad"`
	RetriedOK     int     `json:"retried_ok"`
	Lost          int     `json:"lost"`
	PaidTwice     int     `json:"paid_twice"`
	Completed     int     `json:"completed"`
	HandedOver    int     `json:"handed_over"`
	Cancelled     int     `json:"cancelled"`
	PostMortem    string  `json:"postmortem"`
	Seed          uint64  `json:"seed"`
}

// window is the refunds whose first attempt was sent in a span of time.
type window struct {
	// refunds were judged; succeeded of them did at the first attempt.
	refunds, succeeded int
}

func (w window) share() float64 {
	if w.refunds == 0 {
		return 0
	}
	return float64(w.succeeded) / float64(w.refunds)
}

func (w *window) add(succeeded bool) {
	w.refunds++
	if succeeded {
		w.succeeded++
	}
}

// measurement is what the logs show.
type measurement struct {
	// effect is from the start of the rollback command to the sending of the last attempt that an agent of the abandoned version
	// began; zero if it began none sent after the command. Refunds come at fixed intervals, which is how fine this is.
	effect time.Duration
	// before: sent before the command that deployed the abandoned version. bad: sent from its first answer to the start of the
	// rollback command. after: sent after the rollback's effect, to the end.
	before, bad, after window
	// unjudged refunds were sent in the bad window and under way at the rollback; another version settled them before the abandoned
	// one had come to a verdict. They count in no window. One that the abandoned version had parked is judged: it did not succeed.
	unjudged  int
	badLasted time.Duration
	// retriedOK: came back on the retry signal and were then paid, once.
	retriedOK int
	// paidTwice: refunds with two payments or more.
	paidTwice int
	// completed: sent before the rollback command, paid and answered by the abandoned version after the rollback's effect.
	completed int
	// handedOver: attempts that an agent of the abandoned version had begun, by its journal, and that another version answered.
	handedOver int
	// cancelled: attempts the abandoned version answered with the retry signal.
	cancelled int
	// lost names every refund that the true policy allows and that ended unpaid for another reason than a closed account, was paid
	// another amount, or was paid without its client being told; and every attempt that followed no retry signal.
	lost []string
	// other counts refunds by the version whose answer was final, for the report.
	settledBy map[string]int
}

func measure(cases []*refundCase, f refund.Facts) measurement {
	m := measurement{effect: effect(cases, f), settledBy: map[string]int{}}
	effective := f.RolledBackAt.Add(m.effect)
	badFrom := firstAnswerBy(cases, f.Abandoned)
	if !badFrom.IsZero() {
		m.badLasted = f.RolledBackAt.Sub(badFrom)
	}
	for _, c := range cases {
		switch sent := c.first().SentAt; {
		case sent.Before(f.DeployedAt):
			m.before.add(c.succeeded(c.first()))
		case !badFrom.IsZero() && !sent.Before(badFrom) && sent.Before(f.RolledBackAt):
			m.judgeUnderBad(c, f)
		case sent.After(effective):
			m.after.add(c.succeeded(c.first()))
		}
		m.follow(c, f, effective)
		m.lost = append(m.lost, c.losses()...)
		if c.payments() > 1 {
			m.paidTwice++
		}
		m.settledBy[c.last().Version]++
	}
	return m
}

// effect finds the last attempt that the abandoned version began.
func effect(cases []*refundCase, f refund.Facts) time.Duration {
	last := f.RolledBackAt
	for _, c := range cases {
		for i, a := range c.attempts {
			if a.SentAt.After(last) && c.took(i, f.Abandoned, refund.Began) {
				last = a.SentAt
			}
		}
	}
	return last.Sub(f.RolledBackAt)
}

func firstAnswerBy(cases []*refundCase, version string) time.Time {
	var first time.Time
	for _, c := range cases {
		for _, a := range c.attempts {
			if a.Version == version && (first.IsZero() || a.AnsweredAt.Before(first)) {
				first = a.AnsweredAt
			}
		}
	}
	return first
}

func (m *measurement) judgeUnderBad(c *refundCase, f refund.Facts) {
	a := c.first()
	parked := c.took(0, f.Abandoned, refund.Parked)
	elsewhere := a.Version != "" && a.Version != f.Abandoned && a.AnsweredAt.After(f.RolledBackAt)
	if elsewhere && !parked {
		m.unjudged++
		return
	}
	m.bad.add(c.succeeded(a) && !parked)
}

// follow counts what the rollback did to each attempt.
func (m *measurement) follow(c *refundCase, f refund.Facts, effective time.Time) {
	cameBack := false
	for i, a := range c.attempts {
		byAbandoned := a.Version == f.Abandoned
		switch {
		case a.Signal:
			cameBack = cameBack || i+1 < len(c.attempts)
			if byAbandoned {
				m.cancelled++
			}
		case byAbandoned && a.SentAt.Before(f.RolledBackAt) && a.AnsweredAt.After(effective) && c.succeeded(a):
			m.completed++
		case !byAbandoned && a.Version != "" && c.took(i, f.Abandoned, refund.Began):
			m.handedOver++
		}
	}
	if cameBack && c.succeeded(c.last()) {
		m.retriedOK++
	}
}

// losses names what was lost of one refund, in words.
func (c *refundCase) losses() []string {
	var lost []string
	last := c.last()
	switch {
	case c.payments() == 0 && !c.refusedForClosedAccount():
		lost = append(lost, fmt.Sprintf("%s was never paid: its last answer was %s", c.id, describe(last)))
	case c.payments() > 0 && (last.Status != 200 || last.Settled() != refund.Paid):
		lost = append(lost, fmt.Sprintf("%s was paid, but its client was told %s", c.id, describe(last)))
	case !c.paidWhatWasAsked():
		lost = append(lost, fmt.Sprintf("%s was paid another amount than the client asked for", c.id))
	}
	for i, a := range c.attempts[1:] {
		before := c.attempts[i]
		allowed := before.AnsweredAt.Add(time.Duration(before.RetryAfterMS) * time.Millisecond)
		switch {
		case !before.Signal || before.Status != 503 || before.Rollback == "":
			lost = append(lost, fmt.Sprintf("%s was sent again without the retry signal: the answer before was %s", c.id, describe(before)))
		case a.SentAt.Before(allowed):
			lost = append(lost, fmt.Sprintf("%s was sent again %v before its retry signal allowed", c.id, allowed.Sub(a.SentAt)))
		}
	}
	return lost
}

func describe(a refund.Attempt) string {
	if a.Status == 0 {
		return "none: " + a.Error
	}
	return fmt.Sprintf("%d from %q (attempt %d)", a.Status, a.Version, a.Attempt)
}

func (m measurement) result(f refund.Facts) result {
	return result{
		EffectiveMS:   float64(m.effect.Microseconds()) / 1000,
		Proxies:       f.Proxies,
		SuccessBefore: rounded(m.before.share()),
		SuccessBad:    rounded(m.bad.share()),
		SuccessAfter:  rounded(m.after.share()),
		FailedUnder:   m.bad.refunds - m.bad.succeeded,
		RetriedOK:     m.retriedOK,
		Lost:          len(m.lost),
		PaidTwice:     m.paidTwice,
		Completed:     m.completed,
		HandedOver:    m.handedOver,
		Cancelled:     m.cancelled,
		PostMortem:    f.PostMortem,
		Seed:          f.Seed,
	}
}
