package session

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
)

// Control is one control-plane replica. Its connection is made on first use and remade by gRPC whenever it breaks.
type Control struct {
	// Address is host:port.
	Address string
	conn    *grpc.ClientConn
}

// Client of the replica.
func (c Control) Client() sidecarv1.SidecarServiceClient {
	return sidecarv1.NewSidecarServiceClient(c.conn)
}

// ready makes gRPC try at once: the pauses between attempts are the session's own.
func (c Control) ready() { c.conn.ResetConnectBackoff() }

// Close closes the connection.
func (c Control) Close() error { return c.conn.Close() }

// Dialing says how to reach the control plane.
type Dialing struct {
	// TLS is nil for plain text.
	TLS *tls.Config
	// Token is sent with every call; empty: none.
	Token string
	// MaxBackoff bounds the pause between attempts to connect.
	MaxBackoff time.Duration
}

// brokenAfter is how long a peer may leave what was sent without acknowledgement (TCP) before the connection counts as broken.
const brokenAfter = 15 * time.Second

// Dial prepares connections to every address; it does not connect.
func (d Dialing) Dial(addresses []string) ([]Control, error) {
	creds := insecure.NewCredentials()
	if d.TLS != nil {
		creds = credentials.NewTLS(d.TLS)
	}
	dialer := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: brokenAfter / 3, Interval: brokenAfter / 3, Count: 2},
		Control:         setUserTimeout,
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		// Found broken by TCP and not by HTTP/2 pings, which a server may count as abuse.
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: d.MaxBackoff},
			MinConnectTimeout: d.MaxBackoff,
		}),
	}
	if d.Token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer{d.Token, d.TLS != nil}))
	}
	var all []Control
	for _, address := range addresses {
		conn, err := grpc.NewClient("passthrough:///"+address, options...)
		if err != nil {
			return nil, fmt.Errorf("control plane %s: %w", address, err)
		}
		all = append(all, Control{Address: address, conn: conn})
	}
	return all, nil
}

// bearer is a token as call credentials (RFC 6750).
type bearer struct {
	token  string
	secure bool
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

// RequireTransportSecurity is false on loopback, the only place where the options allow a token without TLS.
func (b bearer) RequireTransportSecurity() bool { return b.secure }
