// Package webhook asks other people's servers, and signs what it sends, after the Standard Webhooks specification
// (https://www.standardwebhooks.com): HMAC-SHA256 over "id.timestamp.body", headers webhook-id, webhook-timestamp and webhook-signature.
//
// Invariants: every question has a deadline; redirects are not followed; an answer that cannot be read is an error, never an answer.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// Client asks. Safe for concurrent use.
type Client struct {
	key  []byte
	http *http.Client
}

// New makes a client that signs with a key.
func New(key []byte) *Client {
	return &Client{key: key, http: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Secret is the key as receivers write it.
func (c *Client) Secret() string { return "whsec_" + base64.StdEncoding.EncodeToString(c.key) }

// Sign is the value of webhook-signature.
func (c *Client) Sign(id string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, c.key)
	fmt.Fprintf(mac, "%s.%d.%s", id, at.Unix(), body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Post sends a question and reads its answer into one, if there is to be one. The id tells a repeated question from a new one.
func (c *Client) Post(ctx context.Context, target, id string, timeout time.Duration, question, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	now := time.Now()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "specproxy")
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("Webhook-Signature", c.Sign(id, now, body))
	return Do(c.http, req, answer)
}

// Do carries a request out and reads its JSON answer; nil: it needs none.
func Do(client *http.Client, req *http.Request, answer any) error {
	res, err := client.Do(req)
	if err != nil {
		return plain(err)
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("%s answered %s", req.URL.Host, res.Status)
	}
	if answer == nil {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return plain(err)
	case len(data) > maxAnswer:
		return fmt.Errorf("%s answered more than %d bytes", req.URL.Host, maxAnswer)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("%s did not answer in JSON: %w", req.URL.Host, err)
	}
	return nil
}

// plain takes the URL out of an error: it may hold a secret of its owner's.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		if u.Timeout() {
			return errors.New("no answer in time")
		}
		return u.Err
	}
	return err
}
