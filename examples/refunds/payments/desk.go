package main

import (
	"encoding/json"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// A payment takes between these.
const (
	minDelay = 100 * time.Millisecond
	maxDelay = 400 * time.Millisecond
)

// desk takes payments.
type desk struct {
	ledger *refund.Log
	seed   uint64
}

func newDesk(ledger *refund.Log, seed uint64) http.Handler {
	d := &desk{ledger: ledger, seed: seed}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /payments", d.pay)
	return mux
}

// pay answers 200 when the money has gone, 422 where the account is closed. The money goes when the call comes: a caller that
// hangs up before the answer has paid all the same.
func (d *desk) pay(w http.ResponseWriter, r *http.Request) {
	var p refund.Payment
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&p); err != nil || p.RefundID == "" {
		http.Error(w, "a payment needs a refund_id, a customer and amount_cents, as JSON", http.StatusBadRequest)
		return
	}
	line := refund.LedgerLine{Time: time.Now(), Payment: p, Result: refund.Paid}
	status := http.StatusOK
	if refund.AccountClosed(p.Customer) {
		line.Result, line.Reason, status = refund.Refused, "account closed", http.StatusUnprocessableEntity
	}
	if err := d.ledger.Append(line); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	select {
	case <-time.After(d.delay(p.RefundID)):
	case <-r.Context().Done():
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(refund.Answer{RefundID: p.RefundID, Decision: line.Result, Reason: line.Reason})
}

func (d *desk) delay(id string) time.Duration {
	name := fnv.New64a()
	name.Write([]byte(id))
	random := rand.New(rand.NewPCG(d.seed, name.Sum64()))
	return minDelay + time.Duration(random.Int64N(int64(maxDelay-minDelay)))
}
