package main

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// The agent thinks about a refund for between these; it touches nothing and sends nothing meanwhile.
const (
	minThought = 150 * time.Millisecond
	maxThought = 700 * time.Millisecond
)

// Agent settles refunds.
type Agent struct {
	Limits   Limits
	World    *world
	Journal  *refund.Log
	Instance string
	Seed     uint64
	ParkFor  time.Duration
	// Stopping is closed when the process leaves: parked refunds are let go.
	Stopping <-chan struct{}
	Log      *zap.Logger
}

// Handler serves POST /refunds, and GET /healthz for whoever wants to know that the agent is up.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /refunds", a.serve)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return mux
}

// work is one refund in hand.
type work struct {
	refund.Request
	version, execution string
}

// serve takes one refund from the request to its answer. A request whose context ends is dropped where it stands, unless the guard
// has granted its payment.
func (a *Agent) serve(w http.ResponseWriter, r *http.Request) {
	job := work{version: r.Header.Get(refund.HeaderVersion), execution: r.Header.Get(refund.HeaderExecution)}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&job.Request); err != nil || job.RefundID == "" {
		a.answer(w, job, http.StatusBadRequest, refund.Refused, "a refund needs a refund_id, an order, a customer and amount_cents, as JSON")
		return
	}
	ctx := r.Context()
	a.note(job, refund.Began)
	if !a.think(ctx, job.RefundID) {
		a.note(job, refund.Stopped)
		return
	}
	if !a.Limits.Allow(job.Request) {
		a.park(ctx, w, job)
		return
	}
	granted, err := a.World.ask(ctx, job.execution, job.Order)
	switch {
	case ctx.Err() != nil && !granted:
		a.note(job, refund.Stopped)
	case err != nil:
		a.answer(w, job, http.StatusBadGateway, refund.Unsettled, err.Error())
	case !granted:
		a.note(job, refund.Stopped)
		a.answer(w, job, http.StatusConflict, refund.Unsettled, "the guard refused: this execution was decided to end")
	default:
		a.settle(ctx, w, job)
	}
}

// settle pays and answers.
func (a *Agent) settle(ctx context.Context, w http.ResponseWriter, job work) {
	result, err := a.World.pay(ctx, refund.Payment{
		RefundID: job.RefundID, Customer: job.Customer, AmountCents: job.AmountCents, ExecutionID: job.execution, Instance: a.Instance,
	})
	switch {
	case err != nil:
		a.answer(w, job, http.StatusBadGateway, refund.Unsettled, err.Error())
	case result.Decision != refund.Paid:
		a.answer(w, job, http.StatusUnprocessableEntity, refund.Refused, result.Reason)
	default:
		a.answer(w, job, http.StatusOK, refund.Paid, "")
	}
}

// park queues the refund for a supervisor and keeps the client waiting for one. The failure is told at once, since the client will
// learn of it long after whoever watches the version should.
func (a *Agent) park(ctx context.Context, w http.ResponseWriter, job work) {
	reason := fmt.Sprintf("over the limit of $%d: queued for a supervisor", a.Limits.most())
	if err := a.World.tellFailure(ctx, job.execution, reason); err != nil && ctx.Err() == nil {
		a.Log.Warn("the failure could not be told", zap.String("refund", job.RefundID), zap.Error(err))
	}
	a.note(job, refund.Parked)
	patience := time.NewTimer(a.ParkFor)
	defer patience.Stop()
	select {
	case <-ctx.Done():
		a.note(job, refund.Stopped)
	case <-a.Stopping:
		a.answer(w, job, http.StatusGatewayTimeout, refund.Unsettled, "the agent stopped before a supervisor came")
	case <-patience.C:
		a.answer(w, job, http.StatusGatewayTimeout, refund.Unsettled, "no supervisor came")
	}
}

// think takes its time; false if the request ended meanwhile. How long depends on the seed and the refund alone.
func (a *Agent) think(ctx context.Context, id string) bool {
	name := fnv.New64a()
	name.Write([]byte(id))
	random := rand.New(rand.NewPCG(a.Seed, name.Sum64()))
	thought := time.NewTimer(minThought + time.Duration(random.Int64N(int64(maxThought-minThought))))
	defer thought.Stop()
	select {
	case <-thought.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func (a *Agent) answer(w http.ResponseWriter, job work, status int, decision, reason string) {
	outcome := "success"
	if status != http.StatusOK {
		outcome = fmt.Sprintf("failure; reason=%q", reason)
	}
	w.Header().Set(refund.HeaderOutcome, outcome)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that has gone cannot be told; the ledger and the journal hold what happened.
	_ = json.NewEncoder(w).Encode(refund.Answer{RefundID: job.RefundID, Decision: decision, Reason: reason})
	a.note(job, refund.Answered)
}

func (a *Agent) note(job work, step refund.Step) {
	line := refund.JournalLine{
		Time: time.Now(), RefundID: job.RefundID, Version: job.version, ExecutionID: job.execution, Instance: a.Instance, Step: step,
	}
	if err := a.Journal.Append(line); err != nil {
		a.Log.Error("the journal lacks a line", zap.String("refund", job.RefundID), zap.Error(err))
	}
}
