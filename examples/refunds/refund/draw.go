package refund

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// TrueLimitCents is what the company's policy really allows a customer-service agent to pay back: every refund drawn is within it.
const TrueLimitCents = 50_000

// Band is a span of amounts that are equally likely.
type Band struct {
	// FromCents is excluded, ToCents included.
	FromCents, ToCents int
	// Percent of all refunds.
	Percent int
}

// Distribution says which refunds customers ask for.
type Distribution struct {
	Bands []Band
	// ClosedPercent of all customers have closed their account since: no payment can reach them, under any version.
	ClosedPercent int
}

// Standard is the distribution of the worked example.
var Standard = Distribution{
	Bands: []Band{
		{FromCents: 500, ToCents: 5_000, Percent: 45},
		{FromCents: 5_000, ToCents: 10_000, Percent: 28},
		{FromCents: 10_000, ToCents: TrueLimitCents, Percent: 27},
	},
	ClosedPercent: 2,
}

// customers is how many customers there are; a multiple of 100, so that ClosedPercent is exact.
const customers = 10_000

// Draw is refund number n under seed. Every refund is of an order of its own.
func (d Distribution) Draw(seed uint64, n int) Request {
	random := rand.New(rand.NewPCG(seed, uint64(n)))
	customer := random.IntN(customers)
	return Request{
		RefundID:    fmt.Sprintf("rf-%d-%06d", seed, n),
		Order:       fmt.Sprintf("o-%06d", n),
		Customer:    fmt.Sprintf("c-%04d", customer),
		AmountCents: d.amount(random),
	}
}

func (d Distribution) amount(random *rand.Rand) int {
	at := random.IntN(100)
	for _, b := range d.Bands {
		if at < b.Percent {
			return b.FromCents + 1 + random.IntN(b.ToCents-b.FromCents)
		}
		at -= b.Percent
	}
	panic("refund: the bands of a distribution must sum to 100 percent")
}

// BandOf names the band of an amount: "up-to-50".
func (d Distribution) BandOf(cents int) string {
	for _, b := range d.Bands {
		if cents <= b.ToCents {
			return fmt.Sprintf("up-to-%d", b.ToCents/100)
		}
	}
	return "above"
}

// Within is the share of refunds that ask for at most limitCents, from 0 to 1.
func (d Distribution) Within(limitCents int) float64 {
	share := 0.0
	for _, b := range d.Bands {
		inside := min(max(limitCents-b.FromCents, 0), b.ToCents-b.FromCents)
		share += float64(b.Percent) / 100 * float64(inside) / float64(b.ToCents-b.FromCents)
	}
	return share
}

// Success is the share of refunds that are paid by an agent that may pay at most limitCents.
func (d Distribution) Success(limitCents int) float64 {
	return d.Within(limitCents) * (1 - float64(d.ClosedPercent)/100)
}

// String is the distribution in words.
func (d Distribution) String() string {
	var parts []string
	for _, b := range d.Bands {
		parts = append(parts, fmt.Sprintf("%d %% $%d-%d", b.Percent, b.FromCents/100, b.ToCents/100))
	}
	return fmt.Sprintf("%s; %d %% to closed accounts", strings.Join(parts, ", "), d.ClosedPercent)
}

// AccountClosed says whether payments to a customer are refused. It is a property of the customer's number alone: two of every
// hundred.
func AccountClosed(customer string) bool {
	return strings.HasSuffix(customer, "07") || strings.HasSuffix(customer, "57")
}
