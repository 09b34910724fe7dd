package sidecar

import (
	"sync"

	"go.uber.org/zap"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
)

// overrides carries out what operators decided over single executions: each once, however often a State repeats it, and tells what became of it
// for as long as one does.
type overrides struct {
	ledger *drain.Ledger
	log    *zap.Logger

	mu      sync.Mutex
	results []*sidecarv1.OverrideResult // of the newest State, in its order
}

func (o *overrides) apply(state *sidecarv1.State) {
	o.mu.Lock()
	defer o.mu.Unlock()
	known := make(map[string]*sidecarv1.OverrideResult, len(o.results))
	for _, r := range o.results {
		known[r.GetId()] = r
	}
	o.results = nil
	for _, order := range state.GetOverrides() {
		result := known[order.GetId()]
		if result == nil {
			result = &sidecarv1.OverrideResult{Id: order.GetId()}
			err := o.ledger.Override(order.GetExecution(), drain.Override{
				Disposition: drain.Disposition(order.GetDisposition()), Why: order.GetWhy(), DespiteEffects: order.GetDespiteEffects(),
			})
			if err != nil {
				result.Refusal = err.Error()
			}
			o.log.Info("an operator decided over an execution", zap.String("override", order.GetId()), zap.String("execution", order.GetExecution()),
				zap.String("disposition", order.GetDisposition()), zap.String("why", order.GetWhy()), zap.Error(err))
		}
		o.results = append(o.results, result)
	}
}

// status lists what became of them. The messages never change.
func (o *overrides) status() []*sidecarv1.OverrideResult {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]*sidecarv1.OverrideResult(nil), o.results...)
}
