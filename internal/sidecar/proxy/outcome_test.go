package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

// What tells the outcome, first that speaks: the agent, its protocol, the status.
func TestOutcomesInTheirOrder(t *testing.T) {
	for _, c := range []struct {
		name, stated, kind, body string
		status                   int
		outcome                  drain.Outcome
		reason                   string
	}{
		{"A2A says failed", "", "application/json", `{"jsonrpc":"2.0","id":1,"result":{"task":{"status":{"state":"TASK_STATE_FAILED"}}}}`, 200, drain.Failure, "A2A task failed"},
		{"the agent knows better", "success", "application/json", `{"jsonrpc":"2.0","id":1,"result":{"isError":true}}`, 200, drain.Success, ""},
		{"MCP says well", "", "application/json", `{"jsonrpc":"2.0","id":1,"result":{"isError":false}}`, 200, drain.Success, ""},
		{"AG-UI says failed", "", "text/event-stream", "data: {\"type\":\"RUN_STARTED\"}\n\ndata: {\"type\":\"RUN_ERROR\",\"message\":\"boom\"}\n\n", 200, drain.Failure, "AG-UI run error: boom"},
		{"the agent knows worse", `failure; reason="policy: no"`, "text/event-stream", "data: {\"type\":\"RUN_FINISHED\"}\n\n", 200, drain.Failure, "policy: no"},
		{"a caller's error", "", "application/json", `{"error":{"message":"no such model"}}`, 404, "", ""},
		{"only a status", "", "application/json", `{"jsonrpc":"2.0","id":1,"result":{"isError":false}}`, 502, drain.Failure, "status 502"},
		{"nobody speaks", "", "application/json", `{"orders":[]}`, 200, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, drain.Contract{Default: drain.Action{OnRollback: drain.Complete}}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if c.stated != "" {
					w.Header().Set("X-Spec-Outcome", c.stated)
				}
				w.Header().Set("Content-Type", c.kind)
				w.WriteHeader(c.status)
				fmt.Fprint(w, c.body)
			}))
			res := r.do(r.request(http.MethodPost, "/", "{}", "X-Spec-Route", "3"))
			body, err := io.ReadAll(res.Body)
			if err != nil || string(body) != c.body {
				t.Fatalf("the answer was changed: %q, %v", body, err)
			}
			if c.outcome == drain.Failure {
				if row := r.endedRow(); row.Outcome != c.outcome || row.OutcomeReason != c.reason {
					t.Errorf("outcome %q, %q; want %q, %q", row.Outcome, row.OutcomeReason, c.outcome, c.reason)
				}
				return
			}
			// The execution is over a moment after its answer is.
			over := make(chan drain.Totals, 1)
			go func() {
				for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
					if totals := r.ledger.Totals(); totals.InFlight == 0 {
						over <- totals
						return
					}
				}
			}()
			totals := get(t, "the end of the execution", over)
			if totals.Failed != 0 || (totals.Succeeded == 1) != (c.outcome == drain.Success) || (totals.Unknown == 1) != (c.outcome == "") {
				t.Errorf("%+v, want outcome %q", totals, c.outcome)
			}
		})
	}
}

// Who is led here by a header was not drawn: it counts among the outcomes and under no generation.
func TestWhatAHeaderLedHereIsNoEvidence(t *testing.T) {
	r := newRig(t, drain.Contract{Default: drain.Action{OnRollback: drain.Complete}}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Spec-Outcome", "failure")
	}))
	if res := r.do(r.request(http.MethodPost, "/", "{}", "X-Spec-Target", "3")); res.StatusCode != http.StatusOK {
		t.Fatalf("status %d", res.StatusCode)
	}
	if row := r.endedRow(); row.RouteGeneration != 0 || row.Outcome != drain.Failure {
		t.Errorf("generation %d, outcome %q; want none, and a failure", row.RouteGeneration, row.Outcome)
	}
	if routed := r.ledger.Routed(); len(routed) != 0 || r.ledger.Totals().Failed != 1 {
		t.Errorf("by generation %v, failed %d; want nothing, and 1", routed, r.ledger.Totals().Failed)
	}
}
