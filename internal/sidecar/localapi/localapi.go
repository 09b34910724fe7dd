// Package localapi is what the agent can ask its sidecar over loopback ($SPECPROXY_URL): whether it may act, and where an execution stands;
// and where it says how an execution went.
//
// Invariant: a guarded agent's act is granted only after it was journalled, and never once the execution is to be cut or the instance cuts
// everything.
package localapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/journal"
)

// Journal keeps grants.
type Journal interface {
	Grant(x journal.Execution, act drain.Act) error
	End(id string) error
}

// Config is what the API needs.
type Config struct {
	Ledger *drain.Ledger
	// Shadows is the ledger of copies of requests; nil: there are none.
	Shadows *drain.Ledger
	// Guarded: the agent asks before it acts. Else it tells afterwards, and nothing is refused.
	Guarded bool
	Journal Journal
	// Changed is called after every change of the ledger.
	Changed func()
	Now     func() time.Time
	Log     *zap.Logger
}

// API is the local API.
type API struct {
	Config
	// grants is held for reading while a grant is made, and for writing to end all grants.
	grants sync.RWMutex
	closed bool
}

// New makes the API.
func New(c Config) *API { return &API{Config: c} }

// bodyLimit bounds a request.
const bodyLimit = 64 << 10

// Handler serves the API. A web page must not be able to reach it: a name other than this machine's (DNS rebinding) and any Origin are refused.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/effects", a.effects)
	mux.HandleFunc("POST /v1/outcome", a.outcome)
	mux.HandleFunc("GET /v1/executions/{id}", a.execution)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loopback(r.Host) || r.Header.Get("Origin") != "" {
			answer(w, http.StatusForbidden, map[string]any{"error": "this API is for the agent beside the sidecar: use $SPECPROXY_URL"})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Close refuses every grant from here on, and returns when none is under way.
func (a *API) Close() {
	a.grants.Lock()
	defer a.grants.Unlock()
	a.closed = true
}

type effectsRequest struct {
	ExecutionID  string `json:"executionId"`
	Tool         string `json:"tool"`
	Class        string `json:"class"`
	Key          string `json:"key"`
	Compensation string `json:"compensation"`
}

// effects grants an act, or takes the report of one.
func (a *API) effects(w http.ResponseWriter, r *http.Request) {
	var req effectsRequest
	if !decode(w, r, &req) {
		return
	}
	var class drain.Effects
	var err error
	if req.Class != "" { // else what the manifest declares of the tool, or unknown
		class, err = drain.ParseEffects(req.Class)
	}
	if err != nil || req.Tool == "" {
		if err == nil {
			err = errors.New("name the tool")
		}
		answer(w, http.StatusBadRequest, map[string]any{"granted": false, "error": "effects: " + err.Error()})
		return
	}
	act := drain.Act{Tool: req.Tool, Class: class, Key: req.Key, Compensation: req.Compensation, At: a.Now()}
	if copied, ok := a.shadow(req.ExecutionID); ok {
		a.refuseCopy(w, copied, act)
		return
	}
	x, ok := a.Ledger.Join(req.ExecutionID)
	if !ok {
		unknown(w, req.ExecutionID)
		return
	}
	defer a.Changed()
	if !a.Guarded {
		x.Report(act)
		answer(w, http.StatusOK, map[string]any{"granted": true})
		return
	}
	var refused drain.ErrRefused
	switch err := a.grant(x, act); {
	case err == nil:
		answer(w, http.StatusOK, map[string]any{"granted": true})
	case errors.As(err, &refused), errors.Is(err, drain.ErrEnded), errors.Is(err, errLeaving):
		answer(w, http.StatusConflict, map[string]any{"granted": false, "why": err.Error()})
	default:
		a.Log.Error("an act could not be journalled and is refused", zap.String("execution", req.ExecutionID), zap.Error(err))
		answer(w, http.StatusServiceUnavailable, map[string]any{"granted": false, "why": err.Error()})
	}
}

// shadow finds a running copy of a request.
func (a *API) shadow(id string) (*drain.Execution, bool) {
	if a.Shadows == nil {
		return nil, false
	}
	return a.Shadows.Join(id)
}

// refuseCopy grants a copy of a request nothing but reading. What an agent reports that does not ask first has happened, and is taken down.
func (a *API) refuseCopy(w http.ResponseWriter, x *drain.Execution, act drain.Act) {
	touches := x.Touches(act)
	if !touches || !a.Guarded {
		x.Report(act)
	}
	if !touches {
		answer(w, http.StatusOK, map[string]any{"granted": true})
		return
	}
	answer(w, http.StatusConflict, map[string]any{"granted": false, "why": "it is a copy of a request (x-spec-shadow: true): it may read and do nothing else"})
}

var errLeaving = errors.New("refused: the instance is shutting down and cuts what still runs")

func (a *API) grant(x *drain.Execution, act drain.Act) error {
	a.grants.RLock()
	defer a.grants.RUnlock()
	if a.closed {
		return errLeaving
	}
	err := x.Grant(act, func() error {
		r := x.Row()
		return a.Journal.Grant(journal.Execution{
			ID: r.ID, Key: r.Key, Method: r.Method, Path: r.Path, StartedAt: r.StartedAt, RouteGeneration: r.RouteGeneration, HandedOverFrom: r.HandedOverFrom,
		}, act)
	})
	if err != nil && !x.Row().EndedAt.IsZero() {
		// Its end was journalled before this grant was, so the grant would look open for ever.
		err = errors.Join(err, a.Journal.End(x.ID()))
	}
	return err
}

func (a *API) runs(id string) bool {
	_, ok := a.Ledger.Join(id)
	return ok
}

type outcomeRequest struct {
	ExecutionID string `json:"executionId"`
	Outcome     string `json:"outcome"`
	Reason      string `json:"reason"`
}

// outcome takes the business outcome, which may be known long before the response ends, or long after.
func (a *API) outcome(w http.ResponseWriter, r *http.Request) {
	var req outcomeRequest
	if !decode(w, r, &req) {
		return
	}
	outcome := drain.Outcome(req.Outcome)
	if outcome != drain.Success && outcome != drain.Failure {
		answer(w, http.StatusBadRequest, map[string]any{"error": fmt.Sprintf("outcome %q: say success or failure", req.Outcome)})
		return
	}
	if x, ok := a.shadow(req.ExecutionID); ok {
		x.SetOutcome(outcome == drain.Success, req.Reason)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if x, ok := a.Ledger.Join(req.ExecutionID); ok {
		x.SetOutcome(outcome == drain.Success, req.Reason)
	}
	// It may have ended before, or just now.
	switch found, taken := a.Ledger.Late(req.ExecutionID, outcome == drain.Success, req.Reason); {
	case found && !taken:
		answer(w, http.StatusConflict, map[string]any{"error": fmt.Sprintf("execution %q has failed or was cut: that stays", req.ExecutionID)})
		return
	case !found && !a.runs(req.ExecutionID):
		answer(w, http.StatusNotFound, map[string]any{"error": fmt.Sprintf("no execution %q runs here or has ended lately", req.ExecutionID)})
		return
	}
	a.Changed()
	w.WriteHeader(http.StatusNoContent)
}

// view is one execution as its agent may see it.
type view struct {
	ID          string     `json:"id"`
	State       string     `json:"state"`
	StartedAt   time.Time  `json:"startedAt"`
	Effects     string     `json:"effects"`
	Outcome     string     `json:"outcome,omitempty"`
	Disposition string     `json:"disposition,omitempty"`
	Cut         bool       `json:"cut"`
	Why         string     `json:"why,omitempty"`
	Deadline    *time.Time `json:"deadline,omitempty"`
	// Shadow: it is a copy of a request.
	Shadow bool `json:"shadow,omitempty"`
}

// execution says where a running execution stands; state is running, or cut once it is to be handed over or cancelled.
func (a *API) execution(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	x, copied := a.shadow(id)
	if !copied {
		var ok bool
		if x, ok = a.Ledger.Join(id); !ok {
			unknown(w, id)
			return
		}
	}
	row := x.Row()
	v := view{
		ID: row.ID, State: "running", StartedAt: row.StartedAt, Effects: string(row.Effects), Outcome: string(row.Outcome),
		Disposition: string(row.Disposition), Why: row.Why, Shadow: copied,
	}
	if d, decided := x.Decision(); decided {
		if v.Cut = d.Cuts(); v.Cut {
			v.State = "cut"
		}
		if !d.Deadline.IsZero() {
			v.Deadline = &d.Deadline
		}
	}
	answer(w, http.StatusOK, v)
}

func unknown(w http.ResponseWriter, id string) {
	answer(w, http.StatusNotFound, map[string]any{
		"granted": false,
		"error":   fmt.Sprintf("no execution %q runs here: send the x-execution-id of a request that is still open", id),
	})
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyLimit))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		answer(w, http.StatusBadRequest, map[string]any{"granted": false, "error": "the request is not understood: " + err.Error()})
		return false
	}
	return true
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the agent is gone; nothing to do about it
}
