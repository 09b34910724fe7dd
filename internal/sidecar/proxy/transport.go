package proxy

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/specproxy/specproxy/internal/agentproto/grpc"
	"github.com/specproxy/specproxy/internal/sidecar/agent"
	"github.com/specproxy/specproxy/internal/sidecar/http1"
)

// idleTimeout is how long a connection waits for use. Agents' servers close theirs after 2 to 5 seconds; a request that is sent into a
// closing connection is lost, and must not be sent twice.
const idleTimeout = time.Second

// maxIdle bounds the connections that wait for use.
const maxIdle = 256

// agentTransport speaks HTTP/1.1 to the agent, or HTTP/2 where the request is gRPC. What is more than a request and its response over plain
// HTTP/1.1 is http.Transport's.
type agentTransport struct {
	direct      *http1.Transport
	plain, grpc *http.Transport
	tls         bool
}

func newAgentTransport(e agent.Endpoint) *agentTransport {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return e.Dial(ctx) }
	t := &agentTransport{
		direct: &http1.Transport{Dial: e.Dial, MaxIdle: maxIdle, IdleTimeout: idleTimeout},
		plain:  newTransport(dial, false), grpc: newTransport(dial, true), tls: e.TLS,
	}
	t.plain.TLSClientConfig, t.grpc.TLSClientConfig = e.ClientTLS(), e.ClientTLS()
	return t
}

func (t *agentTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !t.tls && r.Method != http.MethodConnect && r.Header.Get("Upgrade") == "" && r.Header.Get("Expect") == "" && !grpc.IsContentType(r.Header.Get("Content-Type")) {
		return t.direct.RoundTrip(r)
	}
	return pick(r, t.plain, t.grpc).RoundTrip(r)
}

func (t *agentTransport) close() {
	t.direct.CloseIdleConnections()
	t.plain.CloseIdleConnections()
	t.grpc.CloseIdleConnections()
}

func pick(r *http.Request, plain, rpc *http.Transport) *http.Transport {
	if grpc.IsContentType(r.Header.Get("Content-Type")) {
		return rpc
	}
	return plain
}

// dialer opens connections.
type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// newTransport makes a transport without proxies, compression of its own, or limits on how long an agent thinks.
func newTransport(dial dialer, http2 bool) *http.Transport {
	t := &http.Transport{
		DialContext: dial, DisableCompression: true, MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleTimeout, Protocols: new(http.Protocols),
		// Who asks before it sends a body has the agent's answer to that, if the agent gives one.
		ExpectContinueTimeout: time.Second,
	}
	t.Protocols.SetHTTP1(!http2)
	t.Protocols.SetHTTP2(http2)
	t.Protocols.SetUnencryptedHTTP2(http2)
	return t
}

// errNoTarget: no address of the target takes connections, so nothing was sent.
var errNoTarget = errors.New("no address of the target takes connections")

// dialTimeout bounds one attempt to reach one address of the target.
const dialTimeout = time.Second

// targets sends requests to the addresses of their dispatch's fence in turn. An address that takes no connection is passed over; once a byte
// may have been sent, nothing is sent again.
type targets struct {
	plain, grpc *http.Transport
	turn        atomic.Uint64
}

func newTargets(peers func() (*tls.Config, error)) *targets {
	d := &net.Dialer{Timeout: dialTimeout}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if path, ok := socketOf(address); ok {
			network, address = "unix", path
		}
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, &unreachable{err}
		}
		return conn, nil
	}
	t := &targets{plain: newTransport(dial, false), grpc: newTransport(dial, true)}
	t.plain.DialTLSContext, t.grpc.DialTLSContext = overTLS(dial, peers, "http/1.1"), overTLS(dial, peers, "h2")
	return t
}

// overTLS dials and shakes hands, before which no byte of a request is sent.
func overTLS(dial dialer, peers func() (*tls.Config, error), protocol string) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if peers == nil {
			return nil, &unreachable{errors.New("this sidecar speaks no TLS to others")}
		}
		config, err := peers()
		if err != nil {
			return nil, &unreachable{err}
		}
		raw, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		config = config.Clone()
		config.NextProtos = []string{protocol}
		conn := tls.Client(raw, config)
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		if err := conn.HandshakeContext(ctx); err != nil {
			return nil, &unreachable{errors.Join(err, raw.Close())}
		}
		return conn, nil
	}
}

// socketHost is the top of the names under which a transport knows Unix sockets, whose paths are no hosts.
const socketHost = ".unix.invalid"

// hostOf is how a sidecar's address, host:port or unix:/path, is written in a URL.
func hostOf(address string) string {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return hex.EncodeToString([]byte(path)) + socketHost
	}
	return address
}

// socketOf is its inverse, for host:port as a transport dials it; false if it is no socket's.
func socketOf(address string) (path string, ok bool) {
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", false
	}
	if name, ok = strings.CutSuffix(name, socketHost); !ok {
		return "", false
	}
	raw, err := hex.DecodeString(name)
	return string(raw), err == nil
}

// unreachable marks an error that came before any byte.
type unreachable struct{ error }

func (u *unreachable) Unwrap() error { return u.error }

func (t *targets) RoundTrip(r *http.Request) (*http.Response, error) {
	fence := dispatchOf(r).fence
	addresses := fence.TargetAddresses
	first := t.turn.Add(1)
	var failed error
	for i := range addresses {
		attempt := *r
		attempt.URL = new(url.URL)
		*attempt.URL = *r.URL
		address := addresses[(first+uint64(i))%uint64(len(addresses))]
		attempt.URL.Host = hostOf(address)
		if slices.Contains(fence.TargetTLS, address) {
			attempt.URL.Scheme = "https"
		}
		if r.Body != nil {
			attempt.Body = io.NopCloser(r.Body) // a transport closes the body also when it could not connect
		}
		res, err := pick(r, t.plain, t.grpc).RoundTrip(&attempt)
		if err == nil {
			return res, nil
		}
		if u := (*unreachable)(nil); !errors.As(err, &u) || r.Context().Err() != nil {
			return nil, err
		}
		failed = errors.Join(failed, err)
	}
	return nil, fmt.Errorf("%w: %w", errNoTarget, errors.Join(failed, noneKnown(addresses)))
}

func noneKnown(addresses []string) error {
	if len(addresses) == 0 {
		return errors.New("none is known")
	}
	return nil
}

func (t *targets) close() {
	t.plain.CloseIdleConnections()
	t.grpc.CloseIdleConnections()
}

// buffers is shared by all copies of bodies.
var buffers = &bufferPool{sync.Pool{New: func() any { return new([copyBuffer]byte) }}}

const copyBuffer = 32 << 10

type bufferPool struct{ pool sync.Pool }

func (b *bufferPool) Get() []byte { return b.pool.Get().(*[copyBuffer]byte)[:] }

func (b *bufferPool) Put(p []byte) { b.pool.Put((*[copyBuffer]byte)(p)) }
