package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// world is what the agent talks to: the guard beside it and the payment process.
type world struct {
	guard, payments string
	client          *http.Client
}

func newWorld(guard, payments string) *world {
	return &world{guard: guard, payments: payments, client: &http.Client{Timeout: 10 * time.Second}}
}

// ask asks the guard whether the execution may pay, under the order number as the spec says. False means that the execution was decided to end: stop.
func (w *world) ask(ctx context.Context, execution, order string) (bool, error) {
	status, body, err := w.post(ctx, w.guard+"/v1/effects", map[string]string{
		"executionId": execution, "tool": "refund.issue", "class": "irreversible", "key": order,
	})
	switch {
	case err != nil:
		return false, fmt.Errorf("guard: %w", err)
	case status == http.StatusOK:
		return true, nil
	case status == http.StatusConflict:
		return false, nil
	}
	return false, fmt.Errorf("guard: answered %d: %s", status, bytes.TrimSpace(body))
}

// tellFailure reports that the execution failed in business terms, which its client does not know yet.
func (w *world) tellFailure(ctx context.Context, execution, reason string) error {
	status, body, err := w.post(ctx, w.guard+"/v1/outcome", map[string]string{
		"executionId": execution, "outcome": "failure", "reason": reason,
	})
	if err != nil {
		return fmt.Errorf("outcome: %w", err)
	}
	if status/100 != 2 {
		return fmt.Errorf("outcome: answered %d: %s", status, bytes.TrimSpace(body))
	}
	return nil
}

// pay asks for the payment once. It is not cut short with the request: the guard granted it, so somebody has to learn how it ended.
func (w *world) pay(ctx context.Context, p refund.Payment) (refund.Answer, error) {
	status, body, err := w.post(context.WithoutCancel(ctx), w.payments+"/payments", p)
	if err != nil {
		return refund.Answer{}, fmt.Errorf("payment: %w", err)
	}
	if status != http.StatusOK && status != http.StatusUnprocessableEntity {
		return refund.Answer{}, fmt.Errorf("payment: answered %d: %s", status, bytes.TrimSpace(body))
	}
	var answer refund.Answer
	if err := json.Unmarshal(body, &answer); err != nil {
		return refund.Answer{}, fmt.Errorf("payment: %w", err)
	}
	return answer, nil
}

// post sends v once: without GetBody the transport cannot repeat a request that may have arrived.
func (w *world) post(ctx context.Context, url string, v any) (int, []byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return 0, nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	request.GetBody = nil
	request.Header.Set("Content-Type", "application/json")
	response, err := w.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	return response.StatusCode, body, err
}
