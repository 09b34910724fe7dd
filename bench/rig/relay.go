package rig

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Relay passes TCP connections on to a server and counts the bytes.
type Relay struct {
	cancel   context.CancelFunc // of connections that are being made
	listener net.Listener
	target   string
	down     atomic.Int64
	wg       sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

// NewRelay starts a relay to target, host:port.
func NewRelay(ctx context.Context, target string) (*Relay, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("relay to %s: %w", target, err)
	}
	// The relay outlives the start that ctx bounds.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &Relay{cancel: cancel, listener: l, target: target, conns: make(map[net.Conn]struct{})}
	r.wg.Go(func() { r.accept(ctx) })
	return r, nil
}

// Address is where clients connect.
func (r *Relay) Address() string { return r.listener.Addr().String() }

// Down is how many bytes of the server were passed on to clients so far.
func (r *Relay) Down() int64 { return r.down.Load() }

// Quiet returns the count once nothing has come down for the span.
func (r *Relay) Quiet(ctx context.Context, span time.Duration) (int64, error) {
	tick := time.NewTicker(span)
	defer tick.Stop()
	for count := r.Down(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return count, fmt.Errorf("the control plane does not stop sending: %w", context.Cause(ctx))
		}
		now := r.Down()
		if now == count {
			return count, nil
		}
		count = now
	}
}

// Stop ends the relay and its connections.
func (r *Relay) Stop() {
	r.cancel()
	r.listener.Close()
	r.mu.Lock()
	r.closed = true
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

func (r *Relay) accept(ctx context.Context) {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() { r.serve(ctx, client) })
	}
}

func (r *Relay) serve(ctx context.Context, client net.Conn) {
	defer client.Close()
	server, err := new(net.Dialer).DialContext(ctx, "tcp", r.target)
	if err != nil {
		return // The client sees its connection end, as it would without the relay.
	}
	defer server.Close()
	if !r.hold(client, server) {
		return
	}
	defer r.release(client, server)
	var both sync.WaitGroup
	both.Go(func() { pass(server, client, client) })
	both.Go(func() { pass(client, server, counting{server, &r.down}) })
	both.Wait()
}

func (r *Relay) hold(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		r.conns[c] = struct{}{}
	}
	return !r.closed
}

func (r *Relay) release(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		delete(r.conns, c)
	}
}

// pass copies what is read of from until either side ends, and then ends both.
func pass(to, from net.Conn, read io.Reader) {
	_, _ = io.Copy(to, read) // Ends with the connection, however that ends.
	to.Close()
	from.Close()
}

// counting counts what is read, before anybody else can know of it.
type counting struct {
	io.Reader
	n *atomic.Int64
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}
