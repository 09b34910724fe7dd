// Package specproxy lets an agent talk to the sidecar beside it: say how an execution went, and ask before acting on the world. It is one file
// and needs only the standard library.
//
// The sidecar gives the agent its address in SPECPROXY_URL and names the execution in each request's header X-Execution-Id:
//
//	client := specproxy.FromEnv()
//	http.ListenAndServe(":"+os.Getenv("PORT"), specproxy.Handler(mux))
//	...
//	err := client.Do(ctx, specproxy.Act{Tool: "refund.issue", Class: specproxy.Irreversible, Key: order}, func(ctx context.Context) error {
//		return payments.Refund(ctx, order)
//	})
//
// Without SPECPROXY_URL there is no sidecar: every act is allowed and nothing is reported, so the same agent runs on a bare machine. With it, an
// act is allowed only by a clear answer.
package specproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// ExecutionHeader names the execution in each request that the sidecar sends.
const ExecutionHeader = "X-Execution-Id"

// Class says what an act does to the world.
type Class string

// The classes, harmless first. Declared leaves it to the manifest; what is not declared there is unknown.
const (
	Declared     Class = ""
	None         Class = "none"
	Readonly     Class = "readonly"
	Idempotent   Class = "idempotent"
	Compensable  Class = "compensable"
	Irreversible Class = "irreversible"
	Unknown      Class = "unknown"
)

// Act is one act on the world.
type Act struct {
	// Tool is the name that the manifest's inFlight.declared may have. Required.
	Tool  string
	Class Class
	// Key tells a repeat of the act from a new one: the idempotency key that the outside world is given.
	Key string
	// Compensation names what would undo it.
	Compensation string
}

// ErrRefused says that a cancel or a hand-over of the execution was decided: stop, do not act. Errors that wrap it say why.
var ErrRefused = errors.New("refused")

// ErrNoExecution says that the context belongs to no execution: use Handler or WithExecution.
var ErrNoExecution = errors.New("no execution: serve through specproxy.Handler, or use specproxy.WithExecution")

// timeout bounds a request: a grant waits for the sidecar's disk, never for a network.
const timeout = 10 * time.Second

// Client talks to one sidecar. The zero Client has none. It may be used from many goroutines.
type Client struct {
	base string
	http *http.Client
}

// FromEnv is the client of the sidecar that SPECPROXY_URL names, or of none.
func FromEnv() *Client { return New(os.Getenv("SPECPROXY_URL")) }

// New is the client of the sidecar at "http://127.0.0.1:PORT" or "unix:/path"; "" for none.
func New(address string) *Client {
	if address == "" {
		return &Client{}
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}
	base := strings.TrimSuffix(address, "/")
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
	}
	return &Client{base: base, http: &http.Client{Transport: transport, Timeout: timeout}}
}

type executionKey struct{}

// WithExecution makes the context belong to an execution.
func WithExecution(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, executionKey{}, id)
}

// Execution is the id of the execution that the context belongs to, or "".
func Execution(ctx context.Context) string {
	id, _ := ctx.Value(executionKey{}).(string)
	return id
}

// Handler makes each request's context belong to its execution.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id := r.Header.Get(ExecutionHeader); id != "" {
			r = r.WithContext(WithExecution(r.Context(), id))
		}
		next.ServeHTTP(w, r)
	})
}

// Do acts if the act is granted. An error that wraps ErrRefused, or any other before act has run, means that nothing was done.
func (c *Client) Do(ctx context.Context, a Act, act func(context.Context) error) error {
	if err := c.Ask(ctx, a); err != nil {
		return err
	}
	return act(ctx)
}

// Ask returns nil if the act may happen. Where the contract is not guarded it only reports, and is not refused.
func (c *Client) Ask(ctx context.Context, a Act) error {
	if c.http == nil {
		return nil
	}
	id := Execution(ctx)
	if id == "" {
		return fmt.Errorf("%s: %w", a.Tool, ErrNoExecution)
	}
	var answer struct {
		Granted    bool
		Why, Error string
	}
	status, err := c.call(ctx, http.MethodPost, "/v1/effects", map[string]string{
		"executionId": id, "tool": a.Tool, "class": string(a.Class), "key": a.Key, "compensation": a.Compensation,
	}, &answer)
	switch why := answer.Why + answer.Error; {
	case err != nil:
		return fmt.Errorf("%s was not granted: %w", a.Tool, err)
	case status == http.StatusOK && answer.Granted:
		return nil
	case status == http.StatusConflict, status == http.StatusNotFound:
		return fmt.Errorf("%s: %w: %s", a.Tool, ErrRefused, why)
	default:
		return fmt.Errorf("%s was not granted: the sidecar answered with status %d: %s", a.Tool, status, why)
	}
}

// Succeeded states that the execution did what it was asked to. The last statement counts.
func (c *Client) Succeeded(ctx context.Context) error { return c.outcome(ctx, "success", "") }

// Failed states that the execution did not, whatever the status of its response. It may be known long before the response ends.
func (c *Client) Failed(ctx context.Context, reason string) error {
	return c.outcome(ctx, "failure", reason)
}

func (c *Client) outcome(ctx context.Context, outcome, reason string) error {
	if c.http == nil {
		return nil
	}
	id := Execution(ctx)
	if id == "" {
		return fmt.Errorf("outcome: %w", ErrNoExecution)
	}
	status, err := c.call(ctx, http.MethodPost, "/v1/outcome", map[string]string{"executionId": id, "outcome": outcome, "reason": reason}, nil)
	if err != nil {
		return fmt.Errorf("outcome: %w", err)
	}
	if status != http.StatusNoContent && status != http.StatusNotFound { // one that is gone has no outcome any more
		return fmt.Errorf("outcome: the sidecar answered with status %d", status)
	}
	return nil
}

// State is where an execution stands.
type State struct {
	// Effects is the worst class known so far.
	Effects Class
	// Disposition is empty until a rollback decided over it; Why names the rule.
	Disposition, Why string
	// Cut says that it is to be handed over or cancelled: stop.
	Cut bool
	// Deadline is when it is cut or held if it still runs; nil without one.
	Deadline *time.Time
}

// State asks where the context's execution stands; false if it is gone, or if there is no sidecar.
func (c *Client) State(ctx context.Context) (State, bool, error) {
	var s State
	if c.http == nil {
		return s, false, nil
	}
	id := Execution(ctx)
	if id == "" {
		return s, false, fmt.Errorf("state: %w", ErrNoExecution)
	}
	status, err := c.call(ctx, http.MethodGet, "/v1/executions/"+url.PathEscape(id), nil, &s)
	if err != nil {
		return s, false, fmt.Errorf("state: %w", err)
	}
	switch status {
	case http.StatusOK:
		return s, true, nil
	case http.StatusNotFound:
		return State{}, false, nil
	}
	return State{}, false, fmt.Errorf("state: the sidecar answered with status %d", status)
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 20

// call makes one request. net/http does not repeat a POST that may have arrived, so none is granted twice.
func (c *Client) call(ctx context.Context, method, path string, body map[string]string, into any) (int, error) {
	var data io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		data = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, data)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return 0, err
	}
	if into != nil && len(raw) > 0 {
		if err := json.Unmarshal(raw, into); err != nil {
			return 0, fmt.Errorf("an answer that is not JSON (status %d): %w", res.StatusCode, err)
		}
	}
	return res.StatusCode, nil
}
