package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/specproxy/specproxy/internal/archive"
)

const (
	dialTimeout = 3 * time.Second
	// retries of a request that a registry answered with 5xx or 429, or whose connection broke.
	retries = 2
)

// client speaks to the registry: with the credentials of the usual Docker configuration, with tokens that are fetched again when they
// expire, and with a bound on silence.
func client(patience time.Duration, userAgent string) *auth.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: min(dialTimeout, patience)}).DialContext
	transport.TLSHandshakeTimeout = min(dialTimeout, patience)
	again := retry.NewTransport(&impatient{base: transport, patience: patience})
	again.Policy = func() retry.Policy {
		return &retry.GenericPolicy{
			Retryable: retryable, Backoff: retry.DefaultBackoff, MinWait: 100 * time.Millisecond, MaxWait: time.Second, MaxRetry: retries,
		}
	}
	c := &auth.Client{Client: &http.Client{Transport: again}, Cache: auth.NewCache(), Credential: dockerCredential}
	if userAgent != "" {
		c.SetUserAgent(userAgent)
	}
	return c
}

// retryable is the library's own judgement, but for silence: who has waited for the whole patience does not wait for it again.
func retryable(resp *http.Response, err error) (bool, error) {
	if errors.Is(err, errSilent) {
		return false, err
	}
	return retry.DefaultPredicate(resp, err)
}

// dockerCredential reads the configuration each time, so that credentials that were renewed meanwhile are found.
func dockerCredential(ctx context.Context, host string) (auth.Credential, error) {
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return auth.EmptyCredential, fmt.Errorf("the Docker configuration: %w", err)
	}
	return credentials.Credential(store)(ctx, host)
}

var errSilent = errors.New("it says nothing")

// impatient ends a request when nothing has moved, in either direction, for the patience.
type impatient struct {
	base     http.RoundTripper
	patience time.Duration
}

func (t *impatient) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	silence := time.AfterFunc(t.patience, func() { cancel(errSilent) })
	moved := func() { silence.Reset(t.patience) }
	req = req.Clone(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &moving{ReadCloser: req.Body, moved: moved}
	}
	end := func() {
		silence.Stop()
		cancel(nil)
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		err = silent(ctx, err)
		end()
		return nil, err
	}
	resp.Body = &moving{ReadCloser: resp.Body, moved: moved, end: end, ctx: ctx}
	return resp, nil
}

// silent puts the reason in place of the cancelled request that it led to.
func silent(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// moving notes that a body moves.
type moving struct {
	io.ReadCloser
	moved func()
	end   func()
	ctx   context.Context // of the response; nil for a request
}

func (m *moving) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	if n > 0 {
		m.moved()
	}
	if err != nil && !errors.Is(err, io.EOF) && m.ctx != nil {
		err = silent(m.ctx, err)
	}
	return n, err
}

func (m *moving) Close() error {
	if m.end != nil {
		defer m.end()
	}
	return m.ReadCloser.Close()
}

// reason says in words why the registry gave nothing: what it answered, or that it did not. Damage and absence stay what they are.
func (a *Archive) reason(err error) error {
	var answer *errcode.ErrorResponse
	var operation *net.OpError
	var damaged *archive.Damaged
	host := a.repo.Reference.Registry
	switch {
	case err == nil, errors.As(err, &damaged), errors.Is(err, archive.ErrNotFound), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, errdef.ErrNotFound):
		return fmt.Errorf("%w: %w", err, fs.ErrNotExist) // in the terms of versions.Unpack
	case errors.Is(err, errSilent):
		return &archive.Unreachable{Where: a.name, Why: "it took the connection and then said nothing"}
	case errors.As(err, &answer):
		return &archive.Unreachable{Where: a.name, Why: answered(host, answer)}
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return &archive.Unreachable{Where: a.name, Why: "it wants credentials and the Docker configuration has none for " + host + ": docker login " + host}
	case errors.As(err, &operation):
		why := operation.Err
		var call *os.SyscallError
		if errors.As(why, &call) {
			why = call.Err
		}
		return &archive.Unreachable{Where: a.name, Why: why.Error()}
	}
	return &archive.Unreachable{Where: a.name, Why: err.Error()}
}

// answered says what an error response means.
func answered(host string, r *errcode.ErrorResponse) string {
	words := strings.TrimSpace(http.StatusText(r.StatusCode))
	if len(r.Errors) > 0 {
		words = r.Errors.Error()
	}
	switch r.StatusCode {
	case http.StatusUnauthorized:
		return fmt.Sprintf("it refuses the credentials that the Docker configuration has for %s (%s): docker login %s", host, words, host)
	case http.StatusForbidden:
		return fmt.Sprintf("the credentials for %s do not allow it (%s): they must pull and push", host, words)
	}
	return fmt.Sprintf("%s %s: %d %s", r.Method, r.URL.Path, r.StatusCode, words)
}

func unauthorized(err error) bool {
	var answer *errcode.ErrorResponse
	return errors.As(err, &answer) && answer.StatusCode == http.StatusUnauthorized
}

// unknownRepository says that the registry has never heard of the repository.
func unknownRepository(err error) bool {
	var answer *errcode.ErrorResponse
	if !errors.As(err, &answer) || answer.StatusCode != http.StatusNotFound {
		return false
	}
	for _, e := range answer.Errors {
		if e.Code == errcode.ErrorCodeNameUnknown {
			return true
		}
	}
	return false
}
