// Package fakecontrol is a control plane for the tests of the sidecar: it serves SidecarService as sidecar.proto says, over a real socket, and
// can be stopped, started again on the same address, made to hang, or made to give damaged copies.
package fakecontrol

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/versions"
)

// patience bounds every wait for something that must happen.
const patience = time.Minute

// View is what the control plane has been told, by now.
type View struct {
	// Hellos are those of all sessions, oldest first.
	Hellos []*sidecarv1.Hello
	// Connected counts the sessions that stand.
	Connected int
	// Order is the kinds of the newest session's messages: hello, status, totals, snapshot, executions.
	Order  []string
	Status *sidecarv1.Status
	Totals *sidecarv1.Totals
	// Running are the executions believed to run, Ended the ended ones that were reported, both by id. Reports counts them.
	Running, Ended map[string]*sidecarv1.Execution
	Reports        map[string]int
	// Batches counts ExecutionBatches.
	Batches int
	// Mirrored are all that were told over any session.
	Mirrored []*sidecarv1.Mirrored
}

// Control is one replica.
type Control struct {
	sidecarv1.UnimplementedSidecarServiceServer
	t       testing.TB
	address string

	mu       sync.Mutex
	server   *grpc.Server
	served   chan struct{}
	moved    chan struct{} // closed and replaced on every change
	state    *sidecarv1.State
	states   map[chan *sidecarv1.State]struct{}
	versions map[versions.Ref]versions.Packed
	// signatures of versions, by digest.
	signatures map[string][][]byte
	damage     map[string]func([]byte) []byte
	hold       bool // no Left is sent
	view       View
}

// Start starts a replica on a free port; it ends with the test. Its first State has generation 1 and no fence.
func Start(t testing.TB) *Control {
	t.Helper()
	c := &Control{
		t: t, moved: make(chan struct{}), states: map[chan *sidecarv1.State]struct{}{},
		versions: map[versions.Ref]versions.Packed{}, damage: map[string]func([]byte) []byte{},
		state: &sidecarv1.State{Generation: 1, Pin: "pin", ExecutionKey: []byte("key")},
	}
	c.view = View{Running: map[string]*sidecarv1.Execution{}, Ended: map[string]*sidecarv1.Execution{}, Reports: map[string]int{}}
	c.address = "127.0.0.1:0"
	c.Restart()
	t.Cleanup(c.Stop)
	return c
}

// Address is host:port, the same after Restart.
func (c *Control) Address() string { return c.address }

// Stop breaks every session and listens no more. It may be called again.
func (c *Control) Stop() {
	c.mu.Lock()
	server, served := c.server, c.served
	c.server = nil
	c.mu.Unlock()
	if server != nil {
		server.Stop()
		<-served
	}
}

// Restart listens again; what was told before is still known.
func (c *Control) Restart() {
	c.t.Helper()
	l, err := net.Listen("tcp", c.address)
	if err != nil {
		c.t.Fatal(err)
	}
	server, served := grpc.NewServer(), make(chan struct{})
	sidecarv1.RegisterSidecarServiceServer(server, c)
	c.mu.Lock()
	c.address, c.server, c.served = l.Addr().String(), server, served
	c.mu.Unlock()
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
}

// Publish packs a folder's files and serves the version.
func (c *Control) Publish(files map[string]string) versions.Packed {
	c.t.Helper()
	data := map[string][]byte{}
	for path, content := range files {
		data[path] = []byte(content)
	}
	p, err := versions.Pack(data)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.versions[p.Ref()] = p
	return p
}

// Damage changes what Pull gives of one path ("manifest" for the image manifest).
func (c *Control) Damage(path string, change func([]byte) []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.damage[path] = change
}

// HoldLeft keeps Left back, as if a proxy did not let go.
func (c *Control) HoldLeft() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = true
}

// LetGo ends HoldLeft: Left goes out when the sidecar confirms the State that is sent with this.
func (c *Control) LetGo() {
	c.mu.Lock()
	c.hold = false
	c.mu.Unlock()
	c.SetState(func(*sidecarv1.State) {})
}

// SetState sends the next State to every session: generation one higher, changed as given.
func (c *Control) SetState(change func(*sidecarv1.State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = proto.CloneOf(c.state)
	c.state.Generation++
	change(c.state)
	for s := range c.states {
		select {
		case <-s: // only the newest counts
		default:
		}
		s <- c.state
	}
}

// Wait returns the first view that satisfies want.
func (c *Control) Wait(what string, want func(View) bool) View {
	c.t.Helper()
	timeout := time.After(patience)
	for {
		c.mu.Lock()
		if want(c.view) {
			v := c.view
			v.Order = append([]string(nil), v.Order...)
			c.mu.Unlock()
			return v
		}
		moved, view := c.moved, c.view
		c.mu.Unlock()
		select {
		case <-moved:
		case <-timeout:
			c.t.Fatalf("the control plane waits in vain for %s; status %v, totals %v, running %v, ended %v", what, view.Status, view.Totals, view.Running, view.Ended)
		}
	}
}

// update changes the view.
func (c *Control) update(change func(*View)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.view)
	close(c.moved)
	c.moved = make(chan struct{})
}

// Session implements SidecarService.
func (c *Control) Session(s grpc.BidiStreamingServer[sidecarv1.SessionRequest, sidecarv1.SessionResponse]) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "a session begins with a hello")
	}
	c.mu.Lock()
	known, published := c.versions[versions.Ref{Spec: hello.GetSpec(), Version: hello.GetVersion()}]
	states, state := make(chan *sidecarv1.State, 1), c.state
	c.states[states] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.states, states)
		c.mu.Unlock()
	}()
	if !published || known.Digest != hello.GetDigest() {
		return status.Errorf(codes.FailedPrecondition, "digest %s is not the version's", hello.GetDigest())
	}
	if err := s.Send(&sidecarv1.SessionResponse{Message: &sidecarv1.SessionResponse_State{State: state}}); err != nil {
		return err
	}
	c.update(func(v *View) {
		v.Hellos = append(v.Hellos, hello)
		v.Connected++
		v.Order = []string{"hello"}
	})
	defer c.update(func(v *View) { v.Connected-- })

	ctx, cancel := context.WithCancel(s.Context())
	left := make(chan struct{}, 1)
	sent := make(chan error, 1)
	go func() { sent <- send(ctx, s, states, left) }()
	err = c.receive(s, left)
	cancel()
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func send(ctx context.Context, s grpc.BidiStreamingServer[sidecarv1.SessionRequest, sidecarv1.SessionResponse], states chan *sidecarv1.State, left chan struct{}) error {
	for {
		m := &sidecarv1.SessionResponse{}
		select {
		case state := <-states:
			m.Message = &sidecarv1.SessionResponse_State{State: state}
		case <-left:
			m.Message = &sidecarv1.SessionResponse_Left{Left: &sidecarv1.Left{}}
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := s.Send(m); err != nil {
			return err
		}
	}
}

func (c *Control) receive(s grpc.BidiStreamingServer[sidecarv1.SessionRequest, sidecarv1.SessionResponse], left chan<- struct{}) error {
	leaving := false
	for {
		msg, err := s.Recv()
		if err != nil {
			return err
		}
		switch m := msg.GetMessage().(type) {
		case *sidecarv1.SessionRequest_Status:
			c.update(func(v *View) {
				v.Status = m.Status
				v.Order = append(v.Order, "status")
				if m.Status.GetLeaving() && !leaving && !c.hold {
					leaving = true
					left <- struct{}{}
				}
			})
		case *sidecarv1.SessionRequest_Totals:
			c.update(func(v *View) {
				v.Totals = m.Totals
				v.Order = append(v.Order, "totals")
			})
		case *sidecarv1.SessionRequest_Executions:
			c.update(func(v *View) { v.take(m.Executions) })
		case *sidecarv1.SessionRequest_Mirrored:
			c.update(func(v *View) { v.Mirrored = append(slices.Clone(v.Mirrored), m.Mirrored.GetExecutions()...) })
		default:
			return status.Errorf(codes.InvalidArgument, "unexpected %T", m)
		}
	}
}

// take replaces the maps: a view that was handed out does not change.
func (v *View) take(batch *sidecarv1.ExecutionBatch) {
	running, ended, reports := map[string]*sidecarv1.Execution{}, map[string]*sidecarv1.Execution{}, map[string]int{}
	if !batch.GetSnapshot() {
		for id, x := range v.Running {
			running[id] = x
		}
	}
	for id, x := range v.Ended {
		ended[id] = x
	}
	for id, n := range v.Reports {
		reports[id] = n
	}
	for _, x := range batch.GetExecutions() {
		reports[x.GetId()]++
		if x.GetEndedAt() == nil {
			running[x.GetId()] = x
		} else {
			delete(running, x.GetId())
			ended[x.GetId()] = x
		}
	}
	v.Running, v.Ended, v.Reports = running, ended, reports
	v.Batches++
	kind := "executions"
	if batch.GetSnapshot() {
		kind = "snapshot"
	}
	v.Order = append(v.Order, kind)
}

// Sign attaches an envelope to the version with this digest.
func (c *Control) Sign(digest string, envelope []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.signatures == nil {
		c.signatures = map[string][][]byte{}
	}
	c.signatures[digest] = append(c.signatures[digest], envelope)
}

// Pull implements SidecarService. Blobs travel in small chunks.
func (c *Control) Pull(req *sidecarv1.PullRequest, s grpc.ServerStreamingServer[sidecarv1.PullResponse]) error {
	ref := versions.Ref{Spec: req.GetSpec(), Version: req.GetVersion()}
	c.mu.Lock()
	p, ok := c.versions[ref]
	for _, other := range c.versions {
		if req.GetDigest() != "" && other.Digest == req.GetDigest() {
			p, ok = other, true
		}
	}
	signatures := c.signatures[p.Digest]
	damage := map[string]func([]byte) []byte{}
	for path, f := range c.damage {
		damage[path] = f
	}
	c.mu.Unlock()
	if !ok {
		return status.Errorf(codes.NotFound, "%s is not published", ref)
	}
	const signature = "a signature"
	blobs := []versions.Blob{{Digest: p.Digest, Path: versions.ManifestBlob, Data: p.ManifestBytes}}
	for _, envelope := range signatures {
		blobs = append(blobs, versions.Blob{Digest: versions.DigestOf(envelope), Path: signature, Data: envelope})
	}
	if !req.GetSignaturesOnly() {
		blobs = append(blobs, p.Blobs...)
	}
	for _, b := range blobs {
		data := b.Data
		if f := damage[b.Path]; f != nil {
			data = f(append([]byte(nil), data...))
		}
		for {
			n := min(64, len(data))
			if err := s.Send(&sidecarv1.PullResponse{Digest: b.Digest, Path: b.Path, Data: data[:n], Last: n == len(data), Signature: b.Path == signature}); err != nil {
				return err
			}
			if data = data[n:]; len(data) == 0 {
				break
			}
		}
	}
	return nil
}
