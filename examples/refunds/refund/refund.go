// Package refund is what the programs of the worked example say to each other: the request a customer sends, the lines each program
// logs, and the seeded distribution that refunds are drawn from.
//
// Invariants: a refund is a pure function of the seed and its number, so every run with one seed asks for the same refunds in the
// same order; every line of every log carries the refund's id and a wall-clock time of the one machine that all programs run on.
package refund

import "time"

// HeaderBand is the request header by which the shop says how large a refund is. The specs count by it.
const HeaderBand = "X-Refund-Band"

// Names of the response headers that the programs of the example read and write.
const (
	HeaderOutcome     = "X-Spec-Outcome"
	HeaderVersion     = "X-Spec-Version"
	HeaderRollback    = "X-Spec-Rollback"
	HeaderExecution   = "X-Execution-Id"
	HeaderShouldRetry = "X-Should-Retry"
)

// Request is one customer's refund, as POST /refunds takes it.
type Request struct {
	RefundID    string `json:"refund_id"`
	Order       string `json:"order"`
	Customer    string `json:"customer"`
	AmountCents int    `json:"amount_cents"`
}

// Answer is the body of the agent's reply.
type Answer struct {
	RefundID string `json:"refund_id"`
	// Decision is "paid", "refused" or "unsettled".
	Decision string `json:"decision"`
	Reason   string `json:"reason,omitempty"`
}

// Decisions of an Answer.
const (
	Paid      = "paid"
	Refused   = "refused"
	Unsettled = "unsettled"
)

// Payment is what an agent asks of the payment process, POST /payments.
type Payment struct {
	RefundID    string `json:"refund_id"`
	Customer    string `json:"customer"`
	AmountCents int    `json:"amount_cents"`
	ExecutionID string `json:"execution_id"`
	// Instance names the agent process that asks.
	Instance string `json:"instance"`
}

// LedgerLine is one call that the payment process got. Calls are never de-duplicated.
type LedgerLine struct {
	Time time.Time `json:"time"`
	Payment
	// Result is "paid" or "refused".
	Result string `json:"result"`
	Reason string `json:"reason,omitempty"`
}

// JournalLine is one step of one agent process.
type JournalLine struct {
	Time     time.Time `json:"time"`
	RefundID string    `json:"refund_id"`
	// Version is the spec version the agent worked under, "name:version".
	Version     string `json:"version"`
	ExecutionID string `json:"execution_id"`
	Instance    string `json:"instance"`
	Step        Step   `json:"step"`
}

// Step is what an agent did.
type Step string

const (
	// Began means that the agent took the request up.
	Began Step = "began"
	// Parked means that the agent may not decide: the request waits for a supervisor.
	Parked Step = "parked"
	// Stopped means that the request ended without an answer of the agent's.
	Stopped Step = "stopped"
	// Answered means that the agent answered.
	Answered Step = "answered"
)

// Attempt is one request the client sent, logged when it was answered or given up.
type Attempt struct {
	RefundID string `json:"refund_id"`
	// Attempt counts from 1.
	Attempt     int       `json:"attempt"`
	AmountCents int       `json:"amount_cents"`
	Envoy       string    `json:"envoy"`
	SentAt      time.Time `json:"sent_at"`
	AnsweredAt  time.Time `json:"answered_at"`
	// Status is the HTTP status, 0 where no answer came.
	Status int `json:"status"`
	// Version is the x-spec-version that answered, "name:version".
	Version string `json:"x_spec_version,omitempty"`
	// Rollback is the x-spec-rollback header of a retry signal.
	Rollback string `json:"x_spec_rollback,omitempty"`
	// Signal says that the answer was the retry signal; only then may another attempt follow.
	Signal bool `json:"signal"`
	// RetryAfterMS is how long the signal asked to wait.
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
	Body         string `json:"body,omitempty"`
	// Error is why no answer came.
	Error string `json:"error,omitempty"`
}

// Settled reads the decision out of the answer's body; empty where the body is not an agent's answer.
func (a Attempt) Settled() string { return decision(a.Body) }
