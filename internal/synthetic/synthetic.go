// Package synthetic sends executions that are none: a proxy passes them on as it does real ones, and the sidecar where they arrive says who it is.
//
// Invariant: no agent ever sees one. They go to a path that sidecars answer themselves.
package synthetic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Route is how executions find their way.
type Route struct {
	// Address of the proxy, host:port.
	Address string
	// Path, and the spec's Host, which stands in ScopeHeader too if that is set.
	Path, Host, ScopeHeader string
	// Headers that the proxy and the sidecar understand: what is asked for, and what is answered.
	PinHeader, VersionHeader, RoundHeader string
	Pin                                   string
}

// Met is who answered: a version, as name:version, and the round of the rehearsal whose route led there; empty: by another route.
type Met struct{ Version, Round string }

// Closed says that executions cannot be sent through the proxy from here, which says nothing about the proxy.
type Closed struct{ Why string }

func (c *Closed) Error() string { return c.Why }

const (
	dialWithin   = time.Second
	answerWithin = 3 * time.Second
)

// Send sends one, over a connection of its own: of a proxy's workers, one connection knows only one.
func Send(ctx context.Context, route Route) (Met, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: dialWithin}).DialContext}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: "http", Host: route.Address, Path: route.Path}).String(), nil)
	if err != nil {
		return Met{}, &Closed{err.Error()}
	}
	req.Host = route.Host
	req.Header.Set(route.PinHeader, route.Pin)
	if route.ScopeHeader != "" {
		req.Header.Set(route.ScopeHeader, route.Host)
	}
	res, err := client.Do(req)
	if err != nil {
		return Met{}, unanswered(ctx, err)
	}
	res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNoContent && res.Header.Get(route.VersionHeader) != "":
		return Met{Version: res.Header.Get(route.VersionHeader), Round: res.Header.Get(route.RoundHeader)}, nil
	case res.StatusCode >= 500, res.StatusCode == http.StatusRequestTimeout:
		return Met{}, fmt.Errorf("a synthetic execution through it was answered %s", res.Status)
	}
	return Met{}, &Closed{"what is in front of it answers " + res.Status}
}

// unanswered tells a proxy that does not answer from one that cannot be spoken to from here.
func unanswered(ctx context.Context, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return &Closed{op.Error()}
	}
	if ctx.Err() != nil {
		return errors.New("a synthetic execution through it was not answered")
	}
	return &Closed{"it does not speak plain HTTP to us: " + errors.Unwrap(err).Error()}
}
