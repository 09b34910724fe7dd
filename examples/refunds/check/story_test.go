package main

import (
	"fmt"
	"time"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// The times of the test stories, in seconds after their start.
const (
	deploySecond   = 10
	firstBadAnswer = 10.5
	rollbackSecond = 30
	effectSecond   = 30.1
)

const (
	good = "customer-service:1.4.9"
	bad  = "customer-service:1.5.0"
)

var storyStart = time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)

func second(s float64) time.Time { return storyStart.Add(time.Duration(s * float64(time.Second))) }

func storyFacts() refund.Facts {
	return refund.Facts{
		Seed: 7, Predicted: 0.7154, Abandoned: bad, Target: good,
		DeployedAt: second(deploySecond), RolledBackAt: second(rollbackSecond), Proxies: 2, PostMortem: "PM-1",
		Clock: refund.Clock{Start: storyStart, StartMinute: 14 * 60, EndMinute: 14*60 + 25, Minute: 1600 * time.Millisecond},
		Marks: []refund.Mark{{At: second(rollbackSecond), Label: "rollback"}},
	}
}

// logs are the three logs of a story, written by hand.
type logs struct {
	attempts []refund.Attempt
	ledger   []refund.LedgerLine
	journal  []refund.JournalLine
	n        int
}

func (l *logs) next() string {
	l.n++
	return fmt.Sprintf("rf-%04d", l.n)
}

func (l *logs) step(id string, at float64, version string, step refund.Step) {
	l.journal = append(l.journal, refund.JournalLine{Time: second(at), RefundID: id, Version: version, Step: step})
}

func (l *logs) pay(id string, at float64) {
	l.ledger = append(l.ledger, refund.LedgerLine{Time: second(at), Payment: refund.Payment{RefundID: id, AmountCents: 4200}, Result: refund.Paid})
}

func (l *logs) attempt(id string, number int, sent, answered float64, status int, version, body string) *refund.Attempt {
	l.attempts = append(l.attempts, refund.Attempt{
		RefundID: id, Attempt: number, AmountCents: 4200, SentAt: second(sent), AnsweredAt: second(answered), Status: status, Version: version, Body: body,
	})
	return &l.attempts[len(l.attempts)-1]
}

// paid is a refund that one version takes from request to payment.
func (l *logs) paid(sent, answered float64, version string) string {
	id := l.next()
	l.step(id, sent+0.01, version, refund.Began)
	l.pay(id, answered-0.1)
	l.attempt(id, 1, sent, answered, 200, version, `{"decision":"paid"}`)
	return id
}

// closed is a refund to a closed account.
func (l *logs) closed(sent float64, version string) string {
	id := l.next()
	l.step(id, sent+0.01, version, refund.Began)
	l.ledger = append(l.ledger, refund.LedgerLine{Time: second(sent + 0.3), Payment: refund.Payment{RefundID: id}, Result: refund.Refused})
	l.attempt(id, 1, sent, sent+0.4, 422, version, `{"decision":"refused"}`)
	return id
}

// cancelled is a refund that the bad version parked and cancelled, and that came back to the good one.
func (l *logs) cancelled(sent float64) string {
	id := l.next()
	l.step(id, sent+0.01, bad, refund.Began)
	l.step(id, sent+0.4, bad, refund.Parked)
	a := l.attempt(id, 1, sent, effectSecond, 503, bad, `{"type":"about:blank"}`)
	a.Signal, a.Rollback, a.RetryAfterMS = true, "from=1.5.0, to=1.4.9, effects=none", 1000
	l.attempt(id, 2, effectSecond+1.001, effectSecond+1.6, 200, good, `{"decision":"paid"}`)
	l.step(id, effectSecond+1.01, good, refund.Began)
	l.pay(id, effectSecond+1.5)
	return id
}

// handedOver is a refund that the bad version began and the good one answered.
func (l *logs) handedOver(sent float64, parked bool) string {
	id := l.next()
	l.step(id, sent+0.01, bad, refund.Began)
	if parked {
		l.step(id, sent+0.3, bad, refund.Parked)
	}
	l.step(id, effectSecond+0.01, good, refund.Began)
	l.pay(id, effectSecond+0.5)
	l.attempt(id, 1, sent, effectSecond+0.6, 200, good, `{"decision":"paid"}`)
	return id
}

// healthy is a story that holds: 100 refunds before, 800 under the bad version, 100 after.
func healthy() *logs {
	l := &logs{}
	for i := range 98 {
		l.paid(float64(i)*0.1, float64(i)*0.1+0.5, good)
	}
	l.closed(9.8, good)
	l.closed(9.81, good)
	// The deploy takes effect; sent before the first answer by the bad version, so in no window.
	l.paid(deploySecond, firstBadAnswer, bad)
	for i := range 560 {
		l.paid(10.6+float64(i)*0.033, 11.1+float64(i)*0.033, bad)
	}
	for i := range 16 {
		l.closed(11+float64(i), bad)
	}
	for i := range 204 {
		l.cancelled(10.7 + float64(i)*0.08)
	}
	for i := range 10 {
		l.paid(29.5, 30.2+float64(i)*0.01, bad) // completed
		l.handedOver(29.8, false)               // unjudged
		l.handedOver(29.0, true)                // judged: parked
	}
	// The last attempt that the bad version began.
	l.handedOver(effectSecond, false)
	for i := range 98 {
		l.paid(30.2+float64(i)*0.05, 30.9+float64(i)*0.05, good)
	}
	l.closed(35, good)
	l.closed(35.1, good)
	return l
}
