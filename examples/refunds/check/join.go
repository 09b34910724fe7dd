package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// refundCase is all that is known of one refund.
type refundCase struct {
	id string
	// attempts are in the order they were sent; there is at least one.
	attempts []refund.Attempt
	ledger   []refund.LedgerLine
	// journal lines are in the order of their time.
	journal []refund.JournalLine
}

// join puts the three logs together by refund. It fails where they cannot be of one whole run: a payment or an agent's step for a
// refund that the client's log lacks.
func join(attempts []refund.Attempt, ledger []refund.LedgerLine, journal []refund.JournalLine) ([]*refundCase, error) {
	if len(attempts) == 0 {
		return nil, errors.New("the client's log is empty")
	}
	byID := map[string]*refundCase{}
	for _, a := range attempts {
		if a.AmountCents > refund.TrueLimitCents {
			return nil, fmt.Errorf("refund %s asks for %d cents, beyond the true policy: every refund of the story is within it", a.RefundID, a.AmountCents)
		}
		c := byID[a.RefundID]
		if c == nil {
			c = &refundCase{id: a.RefundID}
			byID[a.RefundID] = c
		}
		c.attempts = append(c.attempts, a)
	}
	for _, l := range ledger {
		c := byID[l.RefundID]
		if c == nil {
			return nil, fmt.Errorf("the ledger has a call for refund %q, which the client's log lacks", l.RefundID)
		}
		c.ledger = append(c.ledger, l)
	}
	for _, l := range journal {
		c := byID[l.RefundID]
		if c == nil {
			return nil, fmt.Errorf("an agent's journal has refund %q, which the client's log lacks", l.RefundID)
		}
		c.journal = append(c.journal, l)
	}
	cases := make([]*refundCase, 0, len(byID))
	for _, c := range byID {
		slices.SortStableFunc(c.attempts, func(a, b refund.Attempt) int { return a.SentAt.Compare(b.SentAt) })
		slices.SortStableFunc(c.journal, func(a, b refund.JournalLine) int { return a.Time.Compare(b.Time) })
		cases = append(cases, c)
	}
	slices.SortFunc(cases, func(a, b *refundCase) int {
		return cmp.Or(a.attempts[0].SentAt.Compare(b.attempts[0].SentAt), cmp.Compare(a.id, b.id))
	})
	return cases, nil
}

func (c *refundCase) first() refund.Attempt { return c.attempts[0] }
func (c *refundCase) last() refund.Attempt  { return c.attempts[len(c.attempts)-1] }

// payments counts the ledger's payments; refused calls are none.
func (c *refundCase) payments() int {
	n := 0
	for _, l := range c.ledger {
		if l.Result == refund.Paid {
			n++
		}
	}
	return n
}

// refusedForClosedAccount: the payment process refused the refund and paid nothing.
func (c *refundCase) refusedForClosedAccount() bool {
	return c.payments() == 0 && slices.ContainsFunc(c.ledger, func(l refund.LedgerLine) bool { return l.Result == refund.Refused })
}

// succeeded: the attempt told its client that the refund is paid, and the ledger shows one payment in all, of the right amount.
func (c *refundCase) succeeded(a refund.Attempt) bool {
	return a.Status == 200 && a.Settled() == refund.Paid && c.payments() == 1 && c.paidWhatWasAsked()
}

func (c *refundCase) paidWhatWasAsked() bool {
	return !slices.ContainsFunc(c.ledger, func(l refund.LedgerLine) bool {
		return l.Result == refund.Paid && l.AmountCents != c.first().AmountCents
	})
}

// took says whether an agent of the version took a step of the attempt, by its journal. A step belongs to the newest attempt that had
// been sent by then.
func (c *refundCase) took(number int, version string, step refund.Step) bool {
	from := c.attempts[number].SentAt
	var to time.Time
	if number+1 < len(c.attempts) {
		to = c.attempts[number+1].SentAt
	}
	return slices.ContainsFunc(c.journal, func(l refund.JournalLine) bool {
		return l.Version == version && l.Step == step && !l.Time.Before(from) && (to.IsZero() || l.Time.Before(to))
	})
}
