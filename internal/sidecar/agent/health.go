package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// Health says how an agent is looked at. Interval is required.
type Health struct {
	// Interval between two looks. Until the agent answers for the first time they come sooner: every 20 ms, and every 200 ms once its silence
	// was told.
	Interval time.Duration
	// Timeout of one look; default Interval.
	Timeout time.Duration
	// Probe is what is asked: nothing but a connection (empty), GET of a path ("/healthz"), or the gRPC health service ("grpc", "grpc:service").
	Probe string
	// Failures in a row after which an agent that answered counts as silent; default 1.
	Failures int
	// Suspect asks for a look at once; may be nil.
	Suspect <-chan struct{}
	// Stalled says since when requests wait for the agent without a byte from it, for which reason it must show that it lives at all;
	// nil: never. It is not asked where Probe asks the agent anyway.
	Stalled func() (waiting int, since time.Duration, stalled bool)
	// SignTimeout is how long an agent that stalls may take for a sign of life; default 10 s.
	SignTimeout time.Duration
}

const (
	firstPause = 20 * time.Millisecond
	// secondPause is how soon another look follows a failed one of an agent that answered.
	secondPause = 200 * time.Millisecond
	signTimeout = 10 * time.Second
	grpcProbe   = "grpc"
)

// CheckProbe says what is wrong with Health.Probe.
func CheckProbe(probe string) error {
	if probe == "" || probe == grpcProbe || strings.HasPrefix(probe, grpcProbe+":") || strings.HasPrefix(probe, "/") {
		return nil
	}
	return fmt.Errorf("probe %q: write a path of the agent such as /healthz, grpc or grpc:SERVICE for the gRPC health service, or nothing to try connections only", probe)
}

// Watch looks at the agent until ctx ends. It tells of every change, and once if the agent does not answer at the beginning.
func (e Endpoint) Watch(ctx context.Context, h Health, tell func(answers bool, err error)) {
	if h.Timeout == 0 {
		h.Timeout = h.Interval
	}
	if h.SignTimeout == 0 {
		h.SignTimeout = signTimeout
	}
	answers, began, told, failures, begun := false, false, false, 0, time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-h.Suspect:
		}
		err := e.look(ctx, h)
		if ctx.Err() != nil {
			return
		}
		pause := h.Interval
		switch {
		case err == nil:
			failures = 0
			if !answers {
				answers, began = true, true
				tell(true, nil)
			}
		case answers:
			pause = min(h.Interval, secondPause)
			if failures++; failures >= h.Failures {
				answers = false
				tell(false, err)
			}
		case !began:
			// It is starting: it is to get work as soon as it can.
			if pause = min(h.Interval, secondPause); !told && time.Since(begun) >= h.Interval {
				told = true
				tell(false, err)
			} else if !told {
				pause = min(h.Interval, firstPause)
			}
		}
		timer.Reset(pause)
	}
}

// look asks once.
func (e Endpoint) look(ctx context.Context, h Health) error {
	if h.Probe == "" && h.Stalled != nil {
		if waiting, since, stalled := h.Stalled(); stalled {
			if err := e.talk(ctx, h.SignTimeout); err != nil {
				return fmt.Errorf("%d requests wait for it, nothing has come for %s, and it gives no sign of life: %w", waiting, since.Round(time.Second), err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	switch {
	case h.Probe == "":
		conn, err := e.Dial(ctx)
		if err != nil {
			return err
		}
		return conn.Close()
	case strings.HasPrefix(h.Probe, "/"):
		return e.get(ctx, h.Probe)
	}
	return e.check(ctx, strings.TrimPrefix(strings.TrimPrefix(h.Probe, grpcProbe), ":"))
}

// get wants a status below 400.
func (e Endpoint) get(ctx context.Context, path string) error {
	t := &http.Transport{
		DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return e.Dial(ctx) },
		TLSClientConfig: e.tlsNamed(),
	}
	url := "http://" + e.host() + e.Path + path
	if e.TLS {
		url = "https://" + e.host() + e.Path + path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "specproxy-probe")
	res, err := t.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	_, _ = io.CopyN(io.Discard, res.Body, 1<<16)
	_ = res.Body.Close()
	if res.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("GET %s: %s", path, res.Status)
	}
	return nil
}

func (e Endpoint) host() string {
	if e.Network == "unix" {
		return "agent"
	}
	return e.Address
}

// tlsNamed is ClientTLS with the name to expect.
func (e Endpoint) tlsNamed() *tls.Config {
	c := e.ClientTLS()
	c.ServerName, _, _ = net.SplitHostPort(e.Address)
	return c
}

// check wants SERVING (grpc.health.v1).
func (e Endpoint) check(ctx context.Context, service string) error {
	creds := insecure.NewCredentials()
	if e.TLS {
		creds = credentials.NewTLS(e.tlsNamed())
	}
	conn, err := grpc.NewClient("passthrough:///"+e.host(), grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return e.Dial(ctx) }))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	res, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		return fmt.Errorf("gRPC health check: %w", err)
	}
	if got := res.GetStatus(); got != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("gRPC health check: %s", got)
	}
	return nil
}

// talk wants any sign that a process reads what it is sent: an answer to a question without consequences, whatever it is, or the end of the
// connection. The kernel accepts connections for a process that hangs.
func (e Endpoint) talk(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := e.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	until, _ := ctx.Deadline()
	_ = conn.SetDeadline(until)
	if e.TLS {
		secure := tls.Client(conn, e.tlsNamed())
		err := secure.HandshakeContext(ctx)
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return nil
	}
	if _, err := io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: agent\r\nUser-Agent: specproxy-probe\r\nConnection: close\r\n\r\n"); err != nil {
		return nil //nolint:nilerr // it closed the connection
	}
	_, err = conn.Read(make([]byte, 1))
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return err
	}
	return nil
}
