package fleet

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// leaveTimeout bounds how long a leaving sidecar waits for the proxies.
const leaveTimeout = 2 * time.Second

// Session serves one sidecar: its reports are taken in order by this goroutine; a second one sends it state.
func (f *Fleet) Session(stream grpc.BidiStreamingServer[sidecarv1.SessionRequest, sidecarv1.SessionResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "a session begins with a hello")
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	s := &session{fleet: f, hello: hello, key: poolKey{hello.GetSpec(), hello.GetVersion()}, stream: stream, left: make(chan struct{}, 1)}
	if err := s.register(ctx); err != nil {
		return err
	}
	defer s.end()

	sent := make(chan error, 1)
	go func() {
		err := s.sendStates(ctx)
		cancel(err)
		sent <- err
	}()
	err = s.receive(ctx)
	cancel(err)
	if sendErr := <-sent; err == nil || errors.Is(err, context.Canceled) {
		err = sendErr
	}
	if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// session is owned by Session's goroutine, but for what sendStates reads.
type session struct {
	fleet    *Fleet
	hello    *sidecarv1.Hello
	key      poolKey
	number   uint64
	mismatch string // why the instance can never be ready
	segments []drain.Attribute
	// capture is what the manifest allows to be kept of failing executions.
	capture capture.Rules
	stored  routing.Instance
	stream  grpc.BidiStreamingServer[sidecarv1.SessionRequest, sidecarv1.SessionResponse]
	left    chan struct{} // one token: the endpoint has left the proxies
}

// register checks the hello against the archive's record and stores the instance.
func (s *session) register(ctx context.Context) error {
	h := s.hello
	record, ok := s.fleet.store.View().Version(h.GetSpec(), h.GetVersion())
	switch {
	case h.GetInstanceId() == "" || h.GetAddress() == "":
		return status.Error(codes.InvalidArgument, "a hello names the instance and its address")
	case !slices.Contains(routing.Transports, routing.Transport(h.GetTransport())):
		return status.Errorf(codes.InvalidArgument, "instance %s takes requests by %q, which this control plane does not know; upgrade xds first", h.GetInstanceId(), h.GetTransport())
	case !ok:
		return status.Errorf(codes.NotFound, "%s:%s is not published; publish it first: specctl publish DIR", h.GetSpec(), h.GetVersion())
	case record.Digest != h.GetDigest():
		return status.Errorf(codes.FailedPrecondition, "instance %s holds %s of %s, but that version is %s; its copy is wrong: clear the sidecar's cache and start it again",
			h.GetInstanceId(), h.GetDigest(), record.Ref(), record.Digest)
	}
	reported := versions.Runtime{Image: h.GetRuntime().GetImage(), Binary: h.GetRuntime().GetBinary(), Model: h.GetRuntime().GetModel(), Tools: h.GetRuntime().GetTools()}
	s.segments, s.capture = record.Manifest.Segments, record.Manifest.Capture
	s.mismatch = record.Manifest.Runtime.Mismatch(reported)
	s.stored = routing.Instance{
		ID: h.GetInstanceId(), Spec: h.GetSpec(), Version: h.GetVersion(), Digest: h.GetDigest(), Address: h.GetAddress(), Transport: routing.Transport(h.GetTransport()),
		Health: routing.Starting, Reason: s.mismatch, RegisteredAt: time.Now().UTC(),
	}
	f := s.fleet
	f.succeed(ctx, s)
	var overrun map[string][]store.FailureBatch // by instance
	_, err := f.store.Update(ctx, func(tx *store.Tx) error {
		overrun = map[string][]store.FailureBatch{}
		if old, ok := tx.Instance(s.stored.ID); ok {
			// A reconnect is not a restart: what was known stays until the sidecar says otherwise.
			s.stored.RegisteredAt, s.stored.Health = old.RegisteredAt, old.Health
			if s.mismatch != "" {
				s.stored.Health = routing.Starting
			}
			if s.stored == old {
				return nil
			}
		}
		for _, other := range tx.Instances(s.stored.Spec) {
			if other.Address == s.stored.Address && other.ID != s.stored.ID {
				// The address has a new owner, so the old one is dead.
				f.bury(tx, other.ID)
				overrun[other.ID] = f.overrun(other.ID)
				mourn(tx, overrun[other.ID])
			}
		}
		tx.PutInstance(s.stored)
		return nil
	})
	if err != nil {
		return status.Errorf(codes.Unavailable, "register instance %s: %v", s.stored.ID, err)
	}
	for id, lost := range overrun {
		f.logLost(id, lost)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range overrun {
		if f.members[id] != nil {
			f.forget(id)
		}
	}
	m := f.members[s.stored.ID]
	if m == nil {
		m = &member{key: s.key, running: map[string]*sidecarv1.Execution{}}
		f.members[s.stored.ID] = m
	}
	if f.pools[s.key] == nil {
		f.pools[s.key] = &history{members: map[string]*member{}}
		if f.recent[s.key.spec] == nil {
			f.recent[s.key.spec] = map[string]*history{}
		}
		f.recent[s.key.spec][s.key.version] = f.pools[s.key]
	}
	f.pools[s.key].members[s.stored.ID] = m
	m.startedAt = s.hello.GetStartedAt().AsTime()
	m.session++
	s.number = m.session
	m.connected, m.address, m.status = true, s.stored.Address, nil
	f.broadcast(s.key.spec)
	return nil
}

// succeed keeps what an earlier process of the same instance had counted, since the new one counts from zero, and names what it had running.
func (f *Fleet) succeed(ctx context.Context, s *session) {
	f.mu.Lock()
	m := f.members[s.stored.ID]
	if m == nil || m.key != s.key || m.startedAt.Equal(s.hello.GetStartedAt().AsTime()) {
		f.mu.Unlock()
		return
	}
	was, lost := m.totals, m.lost(s.stored.ID)
	f.pools[m.key].gone.add(was)
	m.totals, m.running, m.told = nil, map[string]*sidecarv1.Execution{}, told{}
	f.mu.Unlock()
	if was == nil && len(lost) == 0 {
		return
	}
	_, err := f.store.Update(ctx, func(tx *store.Tx) error {
		mourn(tx, lost)
		bequeath(tx, s.key.spec, s.key.version, lastOf(was))
		tx.PutCounted(store.Counted{Spec: s.key.spec, Version: s.key.version, Instance: s.stored.ID})
		return nil
	})
	if err != nil {
		f.log.Error("what an earlier process had counted and had running is lost to its drain and to the list of failures", zap.String("instance", s.stored.ID), zap.Error(err))
	}
	f.logLost(s.stored.ID, lost)
}

// end marks the instance silent, or removes it if it had left in good order.
func (s *session) end() {
	f := s.fleet
	f.mu.Lock()
	m := f.members[s.stored.ID]
	if m == nil || m.session != s.number {
		f.mu.Unlock()
		return // a newer session took over
	}
	m.connected, m.silentAt = false, time.Now()
	leaving := m.status.GetLeaving()
	f.broadcast(s.key.spec)
	f.mu.Unlock()
	if leaving {
		f.remove(s.stored.ID, "it left")
	}
	f.log.Info("sidecar session ended", zap.String("instance", s.stored.ID), zap.Bool("left", leaving))
}

// remove forgets an instance for good; its counts stay with the pool.
func (f *Fleet) remove(id, why string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	lost := f.lost(id)
	if _, err := f.store.Update(ctx, func(tx *store.Tx) error { f.bury(tx, id); mourn(tx, lost); return nil }); err != nil {
		f.log.Error("remove instance", zap.String("instance", id), zap.Error(err))
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	spec := ""
	if m := f.members[id]; m != nil && !m.connected {
		spec = m.key.spec
		f.forget(id)
	}
	f.broadcast(spec)
	f.log.Info("instance removed", zap.String("instance", id), zap.String("why", why))
	f.logLost(id, lost)
}

// sendStates sends the state at once and whenever it changes, and Left when the endpoint has gone.
func (s *session) sendStates(ctx context.Context) error {
	type moved struct {
		rev int64
		err error
	}
	var last *sidecarv1.State
	left := false
	revisions := make(chan moved, 1)
	for {
		view := s.fleet.store.View()
		if state := StateOf(view, s.key.spec, s.key.version, s.hello.GetInstanceId()); last == nil || !sameState(last, state) {
			if err := s.stream.Send(&sidecarv1.SessionResponse{Message: &sidecarv1.SessionResponse_State{State: state}}); err != nil {
				return err
			}
			last = state
		}
		if left { // after the state, which says where a leaving instance may hand over to
			if err := s.stream.Send(&sidecarv1.SessionResponse{Message: &sidecarv1.SessionResponse_Left{Left: &sidecarv1.Left{}}}); err != nil {
				return err
			}
			left = false
		}
		waitCtx, stop := context.WithCancel(ctx)
		go func() {
			rev, err := s.fleet.store.Wait(waitCtx, view.Revision())
			revisions <- moved{rev, err}
		}()
		select {
		case <-s.left:
			stop()
			<-revisions
			left = true
		case m := <-revisions:
			stop()
			if m.err != nil {
				return m.err
			}
		}
	}
}

func sameState(a, b *sidecarv1.State) bool {
	a, b = proto.CloneOf(a), proto.CloneOf(b)
	a.Generation, b.Generation = 0, 0
	return proto.Equal(a, b)
}

// receive takes reports until the stream ends.
func (s *session) receive(ctx context.Context) error {
	for {
		msg, err := s.stream.Recv()
		if err != nil {
			return err
		}
		switch m := msg.GetMessage().(type) {
		case *sidecarv1.SessionRequest_Status:
			if err := s.takeStatus(ctx, m.Status); err != nil {
				return err
			}
		case *sidecarv1.SessionRequest_Totals:
			s.takeTotals(m.Totals)
		case *sidecarv1.SessionRequest_Mirrored:
			s.takeMirrored(m.Mirrored)
		case *sidecarv1.SessionRequest_Executions:
			if err := s.takeExecutions(ctx, m.Executions); err != nil {
				return err
			}
		default:
			return status.Error(codes.InvalidArgument, "a session has one hello, then status, executions, totals and what was mirrored")
		}
	}
}

func (s *session) takeStatus(ctx context.Context, st *sidecarv1.Status) error {
	f := s.fleet
	health, reason := routing.Starting, st.GetReason()
	switch {
	case st.GetLeaving():
		health, reason = routing.Leaving, "it is shutting down"
	case s.mismatch != "":
		reason = s.mismatch
	case st.GetReady():
		health, reason = routing.Ready, ""
	}
	was := s.stored.Health
	firstLeave := health == routing.Leaving && was != routing.Leaving
	var since int64 // revision of the health
	if s.stored.Health != health || s.stored.Reason != reason {
		next := s.stored
		next.Health, next.Reason = health, reason
		var err error
		since, err = f.store.Update(ctx, func(tx *store.Tx) error {
			tx.PutInstance(next)
			if firstLeave {
				tx.PutShutdown(f.shutdown(tx, next))
			}
			return nil
		})
		if err != nil {
			return status.Errorf(codes.Unavailable, "store the health of instance %s: %v", next.ID, err)
		}
		s.stored = next
	}
	if err := s.takeOverrides(ctx, st.GetOverrides()); err != nil {
		return err
	}
	f.mu.Lock()
	if m := f.members[s.stored.ID]; m != nil && m.session == s.number {
		m.status = st
		f.broadcast(s.key.spec)
	}
	f.mu.Unlock()
	if firstLeave {
		leaveCtx, cancel := context.WithTimeout(ctx, leaveTimeout)
		defer cancel()
		if err := f.letGo(leaveCtx, s.key, s.stored.Address, was, since); err != nil {
			f.log.Warn("a sidecar leaves before everybody let it go", zap.String("instance", s.stored.ID), zap.Error(err))
		}
		s.left <- struct{}{}
	}
	return nil
}

func (s *session) takeTotals(t *sidecarv1.Totals) {
	f := s.fleet
	t.Segments = declared(s.segments, t.GetSegments())
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[s.stored.ID]
	if m == nil || m.session != s.number {
		return
	}
	if m.totals != nil { // what came before this replica knew the sidecar is no news of this second
		up := func(now, before uint64) uint64 { return max(now, before) - before }
		f.pools[s.key].recent.add(time.Now(), up(t.GetStarted(), m.totals.GetStarted()),
			up(t.GetSucceeded(), m.totals.GetSucceeded()), up(t.GetFailed(), m.totals.GetFailed()))
	}
	m.totals = t
	f.pools[s.key].trace.moved = true
	f.broadcast(s.key.spec)
}
