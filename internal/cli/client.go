package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/specproxy/specproxy/gen/specproxy/operator/v1/operatorv1connect"
)

const (
	defaultServer = "http://127.0.0.1:18080"
	// actorHeader tells the control plane who is asking, where the token does not.
	actorHeader = "x-specproxy-actor"
	// automationHeader says that no person is asking.
	automationHeader = "x-specproxy-automation"
	// dialTimeout bounds how long a server that is not there delays the next one in the list.
	dialTimeout = 3 * time.Second
	// answerTimeout bounds one attempt at one server, beside what the server was asked to wait.
	answerTimeout = 15 * time.Second
)

// client calls every service of the operators' API.
type client struct {
	operatorv1connect.OperatorServiceClient
	operatorv1connect.PostMortemServiceClient
	operatorv1connect.RolloutServiceClient
}

// conn is a list of control planes that answer for each other.
type conn struct {
	servers []server
	// noToken explains where a token was looked for, if none was found.
	noToken string
}

type server struct {
	url    string
	client client
}

// connect prepares the connection; nothing is sent yet.
func (a *app) connect() (*conn, error) {
	urls, err := a.serverURLs()
	if err != nil {
		return nil, err
	}
	token, origin, err := a.token()
	if err != nil {
		return nil, err
	}
	transport, err := a.transport()
	if err != nil {
		return nil, err
	}
	c := &conn{}
	if token == "" {
		c.noToken = origin
	}
	header := connect.WithInterceptors(a.introduce(token))
	web := &http.Client{
		Transport: transport,
		// The API never redirects; following one could carry the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, u := range urls {
		if token != "" && u.Scheme == "http" && !loopback(u.Hostname()) {
			return nil, fmt.Errorf("%s is plain http on another machine: the token from %s would be readable on the way\nuse https, or a tunnel to 127.0.0.1", u, origin)
		}
		c.servers = append(c.servers, server{url: u.String(), client: client{
			operatorv1connect.NewOperatorServiceClient(web, u.String(), header), operatorv1connect.NewPostMortemServiceClient(web, u.String(), header),
			operatorv1connect.NewRolloutServiceClient(web, u.String(), header),
		}})
	}
	return c, nil
}

func (a *app) serverURLs() ([]*url.URL, error) {
	list := a.servers
	if list == "" {
		list = a.env.Getenv("SPECPROXY_SERVER")
	}
	if list == "" {
		list = defaultServer
	}
	var urls []*url.URL
	for raw := range strings.SplitSeq(list, ",") {
		raw = strings.TrimSpace(raw)
		if raw == "" {
			continue
		}
		u, err := url.Parse(raw)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" {
			return nil, &failure{code: ExitUsage, err: fmt.Errorf("%q is no server: give a URL such as %s, or several with commas between", raw, defaultServer)}
		}
		urls = append(urls, u)
	}
	if len(urls) == 0 {
		return nil, &failure{code: ExitUsage, err: fmt.Errorf("the list of servers %q is empty: give a URL such as %s", list, defaultServer)}
	}
	return urls, nil
}

func (a *app) transport() (*http.Transport, error) {
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout: dialTimeout,
		ForceAttemptHTTP2:   true,
	}
	name := a.caFile
	if name == "" {
		name = a.env.Getenv("SPECPROXY_CA_FILE")
	}
	if name == "" {
		return transport, nil
	}
	pem, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("certificate authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificate authorities: %s holds no PEM certificate", name)
	}
	transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return transport, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// headerValue keeps what a header may carry.
func headerValue(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// introduce adds to every request who asks.
func (a *app) introduce(token string) connect.UnaryInterceptorFunc {
	actor, agent := headerValue(a.env.Actor), "specctl/"+headerValue(a.env.Version)
	automation, parent := a.env.Getenv("SPECPROXY_AUTOMATION") != "", headerValue(a.env.Getenv("TRACEPARENT"))
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			if token != "" {
				req.Header().Set("Authorization", "Bearer "+token)
			}
			req.Header().Set(actorHeader, actor)
			req.Header().Set("User-Agent", agent)
			if automation {
				req.Header().Set(automationHeader, "true")
			}
			if parent != "" {
				req.Header().Set("Traceparent", parent) // of who calls specctl, such as a CI job
			}
			return next(ctx, req)
		}
	}
}

// method is a method expression of the API's client.
type method[Q, A any] func(client, context.Context, *connect.Request[Q]) (*connect.Response[A], error)

// ask calls one method on the first server that answers. A server that cannot be reached, or that says it is unavailable, passes the turn
// to the next one; that is safe for changes too, since the API is idempotent: what a lost answer had done is found done. wait is how long
// the server was asked to hold the answer back.
func ask[Q, A any](ctx context.Context, c *conn, m method[Q, A], q *Q, wait time.Duration) (*A, error) {
	var unreachable []string
	for _, s := range c.servers {
		attempt, cancel := context.WithTimeout(ctx, answerTimeout+wait)
		response, err := m(s.client, attempt, connect.NewRequest(q))
		cancel()
		if err == nil {
			return response.Msg, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !passes(err) {
			return nil, c.explain(s, err)
		}
		unreachable = append(unreachable, s.url+": "+reason(err))
	}
	return nil, &unreachableError{servers: unreachable}
}

// passes says that a server gave no answer, so that the next one may be asked.
func passes(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable:
		return true
	case connect.CodeDeadlineExceeded, connect.CodeCanceled:
		return !connect.IsWireError(err)
	}
	return false
}

// unreachableError says that no server of the list answered.
type unreachableError struct {
	servers []string
}

func (e *unreachableError) Error() string {
	return "cannot reach the control plane\n" + strings.Join(e.servers, "\n") +
		"\nstart one with: xds --data-dir ./data\nor name another with --server or SPECPROXY_SERVER"
}

// explain adds what only the client knows to a server's refusal.
func (c *conn) explain(s server, err error) error {
	switch {
	case !connect.IsWireError(err):
		cause := "is another program listening there?"
		if strings.HasPrefix(s.url, "http:") {
			cause = "is another program listening there, or does it want https?"
		}
		return fmt.Errorf("%s does not answer like a control plane (%s): %s", s.url, reason(err), cause)
	case connect.CodeOf(err) == connect.CodeUnauthenticated && c.noToken != "":
		return fmt.Errorf("%s wants a token and none was found: %s", s.url, c.noToken)
	}
	return err
}

// reason is the innermost useful part of an error: "connection refused" rather than the whole chain.
func reason(err error) string {
	if cert, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Sprintf("its certificate cannot be verified (%v): give its authority with --ca-file", cert.Err)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		if sys, ok := errors.AsType[*os.SyscallError](op.Err); ok {
			return sys.Err.Error()
		}
		return op.Err.Error()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	if refused, ok := errors.AsType[*connect.Error](err); ok {
		return refused.Message()
	}
	return err.Error()
}
