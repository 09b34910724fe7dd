package e2e

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/versions"
)

// member is an instance of one version without a process: it speaks the sidecars' protocol, applies what it is told and is ready from the
// start. For tests of what the control plane decides; those of what a sidecar does use a real one.
type member struct {
	t      *testing.T
	id     string
	stream grpc.BidiStreamingClient[sidecarv1.SessionRequest, sidecarv1.SessionResponse]
	stop   context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	status *sidecarv1.Status
	fence  *sidecarv1.Fence
	moved  chan struct{} // closed and replaced with every State
}

// member registers a ready instance.
func (w *world) member(ref, id string) *member {
	w.t.Helper()
	r, err := versions.ParseRef(ref)
	if err != nil {
		w.t.Fatal(err)
	}
	// Nobody calls it, but while it listens nobody takes it for dead.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	conn, err := grpc.NewClient("passthrough:///"+w.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &member{t: w.t, id: id, stop: stop, done: make(chan struct{}), status: &sidecarv1.Status{Ready: true}, moved: make(chan struct{})}
	w.t.Cleanup(func() {
		m.close()
		conn.Close()
	})
	if m.stream, err = sidecarv1.NewSidecarServiceClient(conn).Session(ctx); err != nil {
		close(m.done)
		w.t.Fatalf("session of %s: %v", id, err)
	}
	m.say(&sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Hello{Hello: &sidecarv1.Hello{
		InstanceId: id, Spec: r.Spec, Version: r.Version, Digest: w.version(ref).GetDigest(), Address: l.Addr().String(),
	}}})
	go m.obey()
	return m
}

// obey applies every State and says so.
func (m *member) obey() {
	defer close(m.done)
	for {
		msg, err := m.stream.Recv()
		if err != nil {
			return
		}
		state := msg.GetState()
		if state == nil {
			continue
		}
		m.mu.Lock()
		m.fence = state.GetFence()
		m.status.AppliedGeneration, m.status.Fenced = state.GetGeneration(), state.GetFence() != nil
		if !m.status.GetLeaving() { // else it has said its last: to send on would break the stream off
			m.tell()
		}
		close(m.moved)
		m.moved = make(chan struct{})
		m.mu.Unlock()
	}
}

func (m *member) say(r *sidecarv1.SessionRequest) { _ = m.stream.Send(r) } // an error shows in Recv

// tell sends the status; m.mu is held, or nobody else sends yet.
func (m *member) tell() {
	m.say(&sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Status{Status: m.status}})
}

// awaitFence waits until the member's fence has this target; "" waits until it has none.
func (m *member) awaitFence(target string) *sidecarv1.Fence {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		m.mu.Lock()
		fence, moved := m.fence, m.moved
		m.mu.Unlock()
		if fence.GetTargetVersion() == target {
			return fence
		}
		select {
		case <-moved:
		case <-ctx.Done():
			m.t.Fatalf("the fence of %s is %v, want target %q", m.id, fence, target)
		}
	}
}

// leave ends the session in good order: the instance is forgotten.
func (m *member) leave() {
	m.mu.Lock()
	m.status.Ready, m.status.Leaving = false, true
	m.tell()
	_ = m.stream.CloseSend()
	m.mu.Unlock()
	<-m.done
	m.close()
}

// close breaks the session off: the instance goes silent.
func (m *member) close() {
	m.stop()
	<-m.done
}

// version reads one version's row.
func (w *world) version(ref string) *operatorv1.Version {
	w.t.Helper()
	r, err := versions.ParseRef(ref)
	if err != nil {
		w.t.Fatal(err)
	}
	res, err := w.client.ListVersions(w.t.Context(), connect.NewRequest(&operatorv1.ListVersionsRequest{Spec: r.Spec}))
	if err != nil {
		w.t.Fatalf("versions of %s: %v", r.Spec, err)
	}
	for _, v := range res.Msg.GetVersions() {
		if v.GetVersion() == r.Version {
			return v
		}
	}
	w.t.Fatalf("%s is not published", ref)
	return nil
}

// staged publishes versions of one spec, gives each a ready member, and deploys them in this order.
func (w *world) staged(spec string, all ...string) map[string]*member {
	w.t.Helper()
	members := map[string]*member{}
	for _, v := range all {
		w.publish(spec, v, completeContract)
		members[v] = w.member(spec+":"+v, spec+"-"+strings.ReplaceAll(v, ".", "-"))
		w.ready(spec, v, 1)
		w.deploy(spec, v)
	}
	return members
}

// postmortem reads one record.
func (w *world) postmortem(id string) *operatorv1.PostMortem {
	w.t.Helper()
	res, err := w.client.GetPostMortem(w.t.Context(), connect.NewRequest(&operatorv1.GetPostMortemRequest{Id: id}))
	if err != nil {
		w.t.Fatalf("post-mortem %s: %v", id, err)
	}
	return res.Msg.GetPostmortem()
}

// postmortems lists the ids of all records.
func (w *world) postmortems() []string {
	w.t.Helper()
	res, err := w.client.ListPostMortems(w.t.Context(), connect.NewRequest(&operatorv1.ListPostMortemsRequest{}))
	if err != nil {
		w.t.Fatalf("post-mortems: %v", err)
	}
	var ids []string
	for _, pm := range res.Msg.GetPostmortems() {
		ids = append(ids, pm.GetId())
	}
	return ids
}

// rollbackOf asks for one spec's rollback.
func (w *world) rollbackOf(target *operatorv1.RollbackTarget, change ...func(*operatorv1.RollbackRequest)) (*operatorv1.Change, error) {
	req := &operatorv1.RollbackRequest{Targets: []*operatorv1.RollbackTarget{target}}
	for _, f := range change {
		f(req)
	}
	res, err := w.client.Rollback(w.t.Context(), connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetChanges()[0], nil
}
