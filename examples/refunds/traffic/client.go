package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// maxPause bounds what a retry signal may ask for.
const maxPause = time.Minute

// client sends single requests.
type client struct {
	envoys []string
	host   string
	http   *http.Client
}

func newClient(envoys []string, host string) *client {
	transport := &http.Transport{MaxIdleConnsPerHost: 512, IdleConnTimeout: 30 * time.Second}
	return &client{envoys: envoys, host: host, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// send sends r once, over the turn-th Envoy, and tells how that ended. It never fails: no answer is a result too.
func (c *client) send(ctx context.Context, turn int, r refund.Request) refund.Attempt {
	envoy := c.envoys[turn%len(c.envoys)]
	attempt := refund.Attempt{RefundID: r.RefundID, AmountCents: r.AmountCents, Envoy: envoy, SentAt: time.Now()}
	err := c.exchange(ctx, envoy, r, &attempt)
	attempt.AnsweredAt = time.Now()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		attempt.Error = err.Error()
		attempt.Signal = false
	}
	return attempt
}

func (c *client) exchange(ctx context.Context, envoy string, r refund.Request, attempt *refund.Attempt) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, envoy+"/refunds", bytes.NewReader(body))
	if err != nil {
		return err
	}
	// An Idempotency-Key makes net/http repeat a request whose connection broke, unless it cannot get the body again.
	request.GetBody = nil
	request.Host = c.host
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", r.RefundID)
	request.Header.Set(refund.HeaderBand, refund.Standard.BandOf(r.AmountCents))
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	attempt.Status = response.StatusCode
	attempt.Version = response.Header.Get(refund.HeaderVersion)
	attempt.Rollback = response.Header.Get(refund.HeaderRollback)
	attempt.Signal = isSignal(response.StatusCode, response.Header)
	if attempt.Signal {
		attempt.RetryAfterMS = retryAfter(response.Header, time.Now()).Milliseconds()
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	attempt.Body = string(text)
	if err != nil {
		return fmt.Errorf("answer cut short: %w", err)
	}
	return nil
}

// retryAfter reads how long a retry signal asks to wait: retry-after-ms, else Retry-After in seconds or as a date (RFC 9110, 10.2.3).
// One second where it says nothing that can be read.
func retryAfter(header http.Header, now time.Time) time.Duration {
	pause := time.Second
	plain := header.Get("Retry-After")
	if ms, err := strconv.ParseUint(header.Get("Retry-After-Ms"), 10, 31); err == nil {
		pause = time.Duration(ms) * time.Millisecond
	} else if seconds, err := strconv.ParseUint(plain, 10, 31); err == nil {
		pause = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(plain); err == nil {
		pause = max(date.Sub(now), 0)
	}
	return min(pause, maxPause)
}
