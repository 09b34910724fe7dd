// Package promquery asks a Prometheus for one number.
package promquery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
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
	// Before anything is quoted, and also of what is no URL.
	if strings.Contains(server, "@") {
		return nil, errors.New("the URL of Prometheus has a name or password before an @, where others see it: leave that out, and put a bearer token into the file of --prometheus-token-file")
	}
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is no Prometheus: write http:// or https:// and a host, such as http://127.0.0.1:9090", server)
	}
	// A redirect is not followed: the token is for this server.
	client := &http.Client{Transport: bearer{tokenFile}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	c, err := api.NewClient(api.Config{Address: server, Client: client})
	if err != nil {
		return nil, err
	}
	return &Client{promv1.NewAPI(whole{c})}, nil
}

// whole takes no answer that is about a part of what was asked for, by the infos that Prometheus gives beside warnings, which the library leaves out. Most
// of them are about style, as that a name is not a counter's; some say that samples were left out.
type whole struct{ api.Client }

var leftOut = regexp.MustCompile(`(?i)\b(ignored|excluded|omitted|incompatible|incomplete|partial(ly)?)\b`)

func (w whole) Do(ctx context.Context, req *http.Request) (*http.Response, []byte, error) {
	res, body, err := w.Client.Do(ctx, req)
	if err != nil {
		return res, body, err
	}
	var said struct {
		Infos []string `json:"infos"`
	}
	if json.Unmarshal(body, &said) == nil { // what is no JSON is found out by who wants its data
		if i := slices.IndexFunc(said.Infos, leftOut.MatchString); i >= 0 {
			return res, nil, fmt.Errorf("it answers for a part only: %s", said.Infos[i])
		}
	}
	return res, body, nil
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
