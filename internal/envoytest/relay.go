package envoytest

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Relay passes TCP connections on to a server and counts the bytes. It can be cut, and pointed elsewhere, while a client holds its address.
type Relay struct {
	// Address is where clients connect.
	Address string

	listener net.Listener
	up, down atomic.Int64
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string
	closed bool
	cut    bool
	conns  map[net.Conn]struct{}
}

// NewRelay starts a relay to target, host:port. It ends with the test.
func NewRelay(t testing.TB, target string) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("relay: %v", err)
	}
	r := &Relay{Address: l.Addr().String(), listener: l, target: target, conns: map[net.Conn]struct{}{}}
	r.wg.Go(r.accept)
	t.Cleanup(r.close)
	return r
}

// Up is the number of bytes that clients have sent.
func (r *Relay) Up() int64 { return r.up.Load() }

// Down is the number of bytes that clients were sent.
func (r *Relay) Down() int64 { return r.down.Load() }

// Cut breaks every connection and refuses new ones until Mend.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = true
	for c := range r.conns {
		c.Close()
	}
}

// Mend lets connections through again, to target.
func (r *Relay) Mend(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut, r.target = false, target
}

func (r *Relay) close() {
	r.mu.Lock()
	r.closed = true
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.listener.Close()
	r.wg.Wait()
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() { r.serve(client) })
	}
}

func (r *Relay) serve(client net.Conn) {
	defer client.Close()
	target, ok := r.hold(client)
	if !ok {
		return
	}
	defer r.release(client)
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	if _, ok := r.hold(server); !ok {
		return
	}
	defer r.release(server)

	var both sync.WaitGroup
	both.Go(func() { pass(server, client, &r.up) })
	both.Go(func() { pass(client, server, &r.down) })
	both.Wait()
}

// pass copies until either side ends, and then ends both.
func pass(to, from net.Conn, count *atomic.Int64) {
	_, _ = io.Copy(counting{to, count}, from) // a broken connection is what a relay is for
	to.Close()
	from.Close()
}

func (r *Relay) hold(c net.Conn) (target string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.cut {
		return "", false
	}
	r.conns[c] = struct{}{}
	return r.target, true
}

func (r *Relay) release(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

type counting struct {
	io.Writer
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n.Add(int64(n))
	return n, err
}
