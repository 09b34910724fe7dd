package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/webhook"
)

// Names of the headers are those of Standard Webhooks, which libraries in most languages check.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

const (
	// quoted is how much of a failure's answer is told.
	quoted = 200
	// longestPause that a receiver may ask for.
	longestPause = time.Hour
)

// Sign is the value of Webhook-Signature: one "v1,…" for each key, over id, time in seconds and body.
func Sign(keys [][]byte, id string, at time.Time, body []byte) string {
	all := make([]string, 0, len(keys))
	for _, key := range keys {
		all = append(all, webhook.New(key).Sign(id, at, body))
	}
	return strings.Join(all, " ")
}

func newClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: timeout, Transport: http.DefaultTransport.(*http.Transport).Clone(),
		// What is signed for one address is not carried to another.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// outcome of one attempt. refused: the receiver will not take this message, however often it is sent.
type outcome struct {
	err     error
	refused bool
	// after is what the receiver asked to be left alone for.
	after time.Duration
}

// attempt sends once, and says how long to wait before the next time if it failed: a doubling pause, spread by half so that receivers that failed
// together are not tried together, or what the receiver asked for.
func (s *Sender) attempt(ctx context.Context, r Receiver, m Message, failures int) (outcome, time.Duration) {
	got := r.send(ctx, s.client, m)
	pause := min(s.o.Most, s.o.First<<min(failures, 20))
	pause = pause/2 + rand.N(pause/2+1)
	return got, max(pause, min(got.after, longestPause))
}

func (r Receiver) send(ctx context.Context, client *http.Client, m Message) outcome {
	req, err := r.request(ctx, m, time.Now())
	if err != nil {
		return outcome{err: err}
	}
	res, err := client.Do(req)
	if err != nil {
		var parts *url.Error
		if errors.As(err, &parts) {
			err = parts.Err // the URL may be a secret
		}
		return outcome{err: err}
	}
	defer res.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(res.Body, quoted))
	switch {
	case res.StatusCode/100 == 2, res.StatusCode == http.StatusConflict: // it has it
		return outcome{}
	case slices.Contains([]int{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity}, res.StatusCode):
		return outcome{err: fmt.Errorf("the receiver refuses it: %s: %s", res.Status, said), refused: true}
	}
	return outcome{err: fmt.Errorf("the receiver answered %s: %s", res.Status, said), after: retryAfter(res.Header.Get("Retry-After"), time.Now())}
}

func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 20); err == nil {
		return time.Duration(seconds) * time.Second //nolint:gosec // 20 bits
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

func (r Receiver) request(ctx context.Context, m Message, now time.Time) (*http.Request, error) {
	address, err := r.address()
	if err != nil {
		return nil, err
	}
	keys, err := r.secrets()
	if err != nil {
		return nil, err
	}
	body, contentType, err := r.body(m)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("its url cannot be posted to")
	}
	req.Header.Set("User-Agent", "specproxy")
	for name, value := range r.Headers {
		text, err := value.read()
		if err != nil {
			return nil, fmt.Errorf("its header %s cannot be read: %w", name, err)
		}
		req.Header.Set(name, text)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set(headerID, m.ID)
	req.Header.Set(headerTimestamp, strconv.FormatInt(now.Unix(), 10))
	if len(keys) > 0 {
		req.Header.Set(headerSignature, Sign(keys, m.ID, now, body))
	}
	return req, nil
}

// Try sends one message once, and fails if the receiver did not take it.
func (r Receiver) Try(ctx context.Context, m Message) error {
	client := newClient(10 * time.Second)
	defer client.CloseIdleConnections()
	return r.send(ctx, client, m).err
}
