package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
)

const (
	// batchSize bounds one ExecutionBatch, but for a snapshot.
	batchSize = 500
	// snapshotSize bounds a snapshot in bytes, below gRPC's 4 MiB for a message. What does not fit follows as changes.
	snapshotSize = 3 << 20
	// firstBackoff is the pause after the first failure; it doubles from there.
	firstBackoff = 50 * time.Millisecond
	// flushTimeout bounds what is sent after the end of the context.
	flushTimeout = time.Second
)

// peer is the session with one replica. connected and left belong to the group's lock; the rest to run's goroutine.
type peer struct {
	group        *Group
	control      Control
	outbox       *outbox
	news, urgent chan struct{} // one token each
	log          *zap.Logger

	attempted bool
	connected bool
	left      bool
}

type stream = grpc.BidiStreamingClient[sidecarv1.SessionRequest, sidecarv1.SessionResponse]

// run holds one session after the other.
func (p *peer) run(ctx context.Context) {
	backoff := firstBackoff
	for ctx.Err() == nil {
		established, err := p.hold(ctx)
		p.tried()
		if ctx.Err() != nil {
			return
		}
		if established {
			backoff = firstBackoff
		}
		p.complain(err)
		pause := time.NewTimer(backoff/2 + rand.N(backoff/2+1)) // not all sidecars at once
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
		backoff = min(2*backoff, p.group.MaxBackoff)
	}
}

// complain logs why a session ended; what a person must mend is an error.
func (p *peer) complain(err error) {
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.NotFound, codes.InvalidArgument, codes.Unauthenticated, codes.PermissionDenied:
		p.log.Error("the control plane refuses this sidecar; it will be asked again", zap.Error(err))
	default:
		p.log.Warn("no session with the control plane; trying again", zap.Error(err))
	}
}

// tried counts the first attempt.
func (p *peer) tried() {
	if p.attempted {
		return
	}
	p.attempted = true
	g := p.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.untried--; g.untried == 0 {
		close(g.tried)
	}
}

// hold opens a session and keeps it until it breaks or ctx ends. established says that a State came.
func (p *peer) hold(ctx context.Context) (established bool, err error) {
	// The session outlives ctx long enough to say the last words.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	opened := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-opened:
			time.AfterFunc(flushTimeout, cancel)
		default:
			cancel()
		}
	})
	defer stop()

	p.control.ready()
	s, err := p.control.Client().Session(own)
	if err != nil {
		return false, err
	}
	if err := s.Send(&sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Hello{Hello: p.group.Hello}}); err != nil {
		return false, cause(s, err)
	}
	first, err := s.Recv()
	if err != nil {
		return false, err
	}
	if first.GetState() == nil {
		return false, fmt.Errorf("the first message of %s is no State: is it another version of the control plane?", p.control.Address)
	}
	if err := p.apply(first.GetState()); err != nil {
		return false, err
	}
	close(opened)
	p.tried()
	p.log.Info("session with the control plane", zap.Uint64("generation", first.GetState().GetGeneration()))

	p.outbox.connect()
	defer p.outbox.disconnect()
	p.group.update(func() { p.connected = true })
	defer p.group.update(func() { p.connected = false })

	received := make(chan error, 1)
	go func() { received <- p.receive(s) }()
	err = p.report(ctx, s, received)
	cancel()
	if last := <-received; err == nil {
		err = last
	}
	return true, err
}

// cause is the stream's own error where Send only says that it has ended.
func cause(s stream, err error) error {
	if _, received := s.Recv(); received != nil {
		return received
	}
	return err
}

// apply puts a State in force and lets the status be sent.
func (p *peer) apply(state *sidecarv1.State) error {
	applied, err := p.group.Apply(state)
	if err != nil {
		return err
	}
	if !applied {
		p.log.Debug("an older state is ignored", zap.Uint64("generation", state.GetGeneration()))
	}
	p.group.StatusChanged()
	return nil
}

// receive takes what the replica sends until the stream ends.
func (p *peer) receive(s stream) error {
	for {
		msg, err := s.Recv()
		if err != nil {
			return err
		}
		switch m := msg.GetMessage().(type) {
		case *sidecarv1.SessionResponse_State:
			if err := p.apply(m.State); err != nil {
				return err
			}
		case *sidecarv1.SessionResponse_Left:
			p.group.update(func() { p.left = true })
		default:
			p.log.Debug("a message of a kind that this sidecar does not know is ignored")
		}
	}
}

// report sends status, totals and executions until the stream breaks or ctx ends. received has the end of the other direction; it is put back.
func (p *peer) report(ctx context.Context, s stream, received chan error) error {
	r := &reporter{peer: p, stream: s}
	if err := r.open(); err != nil {
		return cause(s, err)
	}
	timer := time.NewTimer(p.group.Interval)
	defer timer.Stop()
	for {
		var err error
		select {
		case <-p.urgent:
			err = r.status()
		case <-p.news:
			err = r.news()
		case <-timer.C:
			err = r.news()
		case end := <-received:
			received <- end
			return end
		case <-ctx.Done():
			return r.close(received)
		}
		if err != nil {
			return err
		}
		if wait := r.next(); wait > 0 {
			timer.Reset(wait)
		}
	}
}

// reporter is one session's sending half.
type reporter struct {
	*peer
	stream     stream
	lastStatus *sidecarv1.Status
	lastTotals *sidecarv1.Totals
	// confirmAt is when the oldest unconfirmed report may count as received; zero: there is none.
	confirmAt time.Time
	more      bool
	// mirrored is the number of the last one that was told.
	mirrored uint64
	// closing: what is left must go now.
	closing bool
}

func (r *reporter) open() error {
	if err := r.status(); err != nil {
		return err
	}
	running := r.group.collector.snapshot()
	n, size := 0, 0
	for n < len(running) && size < snapshotSize {
		size += proto.Size(running[n]) + 8
		n++
	}
	if err := r.batch(&sidecarv1.ExecutionBatch{Snapshot: true, Executions: running[:n]}); err != nil {
		return err
	}
	r.outbox.offer(running[n:])
	return r.news()
}

// status sends the status if it differs from the last one sent, and before it the totals: taken after the status, so that whoever learns of a
// fence knows all that had been admitted before it.
func (r *reporter) status() error {
	st := r.group.Status()
	if r.lastStatus != nil && sameStatus(r.lastStatus, st) {
		return nil
	}
	if err := r.totals(); err != nil {
		return err
	}
	r.lastStatus = st
	return r.stream.Send(&sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Status{Status: st}})
}

// sameStatus looks past the last admission while new ones may still come: it would change with every request.
func sameStatus(a, b *sidecarv1.Status) bool {
	if !a.GetFenced() && !b.GetFenced() {
		a, b = proto.CloneOf(a), proto.CloneOf(b)
		a.LastAdmissionAt, a.LastAdmissionId, b.LastAdmissionAt, b.LastAdmissionId = nil, "", nil, ""
	}
	return proto.Equal(a, b)
}

// totals sends the totals if they differ from the last ones sent.
func (r *reporter) totals() error {
	totals := r.group.Totals()
	if r.lastTotals != nil && proto.Equal(r.lastTotals, totals) {
		return nil
	}
	r.lastTotals = totals
	return r.stream.Send(&sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Totals{Totals: totals}})
}

// news sends totals and one batch of executions; the latter can wait while a crowd is cut.
func (r *reporter) news() error {
	if err := r.totals(); err != nil {
		return err
	}
	now := r.group.Now()
	if !r.closing && r.group.collector.busy() && !r.outbox.presses() {
		r.more = true
		return nil
	}
	if taken := r.outbox.take(batchSize, now); len(taken) > 0 {
		if err := r.batch(&sidecarv1.ExecutionBatch{Executions: taken, Excerpts: r.group.excerpts(taken)}); err != nil {
			return err
		}
	}
	if n := r.outbox.takeDropped(); n > 0 {
		r.log.Error("executions were dropped before the control plane could be told of them; totals count them still", zap.Uint64("count", n))
	}
	r.confirm(now.Add(-r.group.ConfirmAfter))
	mirrored, more := r.group.mirrors.after(r.mirrored, batchSize)
	if len(mirrored) > 0 {
		if err := r.stream.Send(&sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Mirrored{Mirrored: &sidecarv1.MirroredBatch{Executions: mirrored}}}); err != nil {
			return err
		}
		r.mirrored = mirrored[len(mirrored)-1].GetSeq()
	}
	r.more = more || !r.outbox.empty()
	return nil
}

func (r *reporter) batch(b *sidecarv1.ExecutionBatch) error {
	return r.stream.Send(&sidecarv1.SessionRequest{Message: &sidecarv1.SessionRequest_Executions{Executions: b}})
}

// confirm takes what was sent before a moment for received: had it not been acknowledged since, TCP would have broken the connection.
func (r *reporter) confirm(before time.Time) {
	arrived, next := r.outbox.confirm(before)
	for _, x := range arrived {
		r.group.Confirmed(x.GetId())
	}
	r.confirmAt = time.Time{}
	if !next.IsZero() {
		r.confirmAt = next.Add(r.group.ConfirmAfter)
	}
}

// next is when news must be called even if nothing happens; 0: never.
func (r *reporter) next() time.Duration {
	switch {
	case r.more:
		return r.group.Interval
	case !r.confirmAt.IsZero():
		return max(r.group.Interval, r.confirmAt.Sub(r.group.Now()))
	}
	return 0
}

// close sends what is left and ends the session. If the replica ends it in turn, it has received everything.
func (r *reporter) close(received chan error) error {
	changed, _ := r.group.collector.gather()
	for _, p := range r.group.peers {
		p.outbox.offer(changed)
	}
	r.closing = true
	err := r.status()
	for r.more = true; err == nil && r.more; {
		err = r.news()
	}
	if err = errors.Join(err, r.stream.CloseSend()); err != nil {
		return err
	}
	end := <-received // at the latest when the session's own context ends
	received <- end
	if errors.Is(end, io.EOF) {
		r.confirm(r.group.Now())
	}
	return end
}
