// Package promquery asks a Prometheus for one number.
package promquery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// Client asks one server.
type Client struct{ api promv1.API }

// New makes a client of the server at a URL. tokenFile holds a bearer token, and is read again for every question; empty: none is sent.
func New(server, tokenFile string) (*Client, error) {
	u, err := url.Parse(server)
	if err == nil && u.User != nil {
		return nil, fmt.Errorf("%s has a name or password in it, which would be shown: give a bearer token by --prometheus-token-file", u.Redacted())
	}
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is no Prometheus: write http:// or https:// and a host, such as http://127.0.0.1:9090", server)
	}
	// A redirect is not followed: the token is for this server.
	client := &http.Client{Transport: bearer{tokenFile}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	c, err := api.NewClient(api.Config{Address: server, Client: client})
	if err != nil {
		return nil, err
	}
	return &Client{promv1.NewAPI(c)}, nil
}

type bearer struct{ file string }

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.file != "" {
		raw, err := os.ReadFile(b.file)
		if err != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(raw)))
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		res.Body = &bounded{res.Body, maxAnswer}
	}
	return res, err
}

// maxAnswer bounds what is read of an answer, in bytes: one number needs some hundred.
const maxAnswer = 1 << 20

var errTooLong = fmt.Errorf("its answer has more than %d bytes", maxAnswer)

// bounded fails where a body is longer than it may be.
type bounded struct {
	io.ReadCloser
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// Number is what a query gives now: a scalar, or a vector of one element. Everything else is an error that says what it was.
func (c *Client) Number(ctx context.Context, query string) (float64, error) {
	value, warnings, err := c.api.Query(ctx, query, time.Now())
	if err != nil {
		return 0, plain(ctx, err)
	}
	if len(warnings) > 0 { // some of what was asked may be missing
		return 0, fmt.Errorf("it warns of its answer: %s", strings.Join(warnings, "; "))
	}
	switch v := value.(type) {
	case *model.Scalar:
		return float64(v.Value), nil
	case model.Vector:
		switch len(v) {
		case 0:
			return 0, errors.New("the query gives nothing")
		case 1:
			if v[0].Histogram != nil {
				return 0, errors.New("the query gives a histogram, not a number: take one of it, as by histogram_quantile(0.99, …)")
			}
			return float64(v[0].Value), nil
		}
		return 0, fmt.Errorf("the query gives %d numbers, not one: aggregate them, as by sum(…)", len(v))
	}
	return 0, fmt.Errorf("the query gives a %s, not a number", value.Type())
}

// plain leaves out the URL, which is the operator's and no business of who reads a rollout.
func plain(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
