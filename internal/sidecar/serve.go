package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/agent"
	"github.com/specproxy/specproxy/internal/sidecar/gate"
	"github.com/specproxy/specproxy/internal/telemetry"
)

const (
	sigterm = syscall.SIGTERM
	// cutTimeout bounds how long the answers of cut exchanges take.
	cutTimeout = 5 * time.Second
	// flushTimeout bounds how long the server takes to write what is answered already.
	flushTimeout = time.Second
)

// serve runs everything until the sidecar is told to end or cannot go on.
func (s *sidecar) serve(ctx context.Context) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	dataServer := gate.Server(s.proxy, s.Limits, &s.refusals, s.Log)
	apiServer := newServer(s.local.Handler(), s.Log)
	adminServer := newServer(telemetry.Admin(s.registry, s.ready), s.Log)
	failed := make(chan error, 3)
	for _, start := range []func(){
		func() { s.group.Run(background) },
		func() {
			s.watchAgent(background)
		},
		func() { s.fallBack(background) },
		func() { s.lookForSignatures(background) },
		func() { failed <- dataServer.Serve(s.dataListener()) },
		func() { failed <- apiServer.Serve(s.api) },
	} {
		running.Go(start)
	}
	if s.admin != nil {
		running.Go(func() { failed <- adminServer.Serve(s.admin) })
		s.Log.Info("admin page", zap.String("address", s.admin.Addr().String()))
	}
	late := time.AfterFunc(openWithin, s.letIn)
	defer late.Stop()
	running.Add(1)
	go s.deadlines(background, &running)
	s.Log.Info("serving", zap.Stringer("version", s.Ref), zap.String("digest", s.version.Digest), zap.String("instance", s.Instance),
		zap.String("listen", addressOf(s.data)), zap.String("advertise", s.Advertise), zap.String("transport", s.transport()), zap.Stringer("agent", s.endpoint))

	err := s.untilEnd(ctx, failed)
	if s.agentGone() {
		s.abandon(dataServer)
	}
	// The last answers are written by the server after their handlers have returned: it must see them off before it is closed.
	flush, flushed := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	_ = dataServer.Shutdown(flush)
	flushed()
	_ = dataServer.Close()
	stop()
	if s.process != nil {
		s.process.Stop(sigterm, s.Timing.Stop)
	}
	_ = apiServer.Close() // after the agent, which may tell outcomes to the last
	_ = adminServer.Close()
	running.Wait()
	s.proxy.CloseIdle()
	return err
}

// newServer serves the agent's API, which is on this machine alone.
func newServer(h http.Handler, log *zap.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: h, Protocols: protocols, ReadHeaderTimeout: time.Minute, ErrorLog: zap.NewStdLog(log.WithOptions(zap.IncreaseLevel(max(zap.WarnLevel, log.Level())))),
	}
}

// watchAgent keeps what is known of the agent's health.
func (s *sidecar) watchAgent(ctx context.Context) {
	s.endpoint.Watch(ctx, agent.Health{
		Interval: s.Timing.Probe, Timeout: s.Timing.ProbeTimeout, Probe: s.Probe, Failures: probeFailures, Suspect: s.suspicion,
		Stalled:     func() (int, time.Duration, bool) { return s.proxy.Stalled(s.Timing.Stall) },
		SignTimeout: s.Timing.Sign,
	}, func(answers bool, err error) {
		if answers {
			s.Log.Info("the agent answers", zap.Stringer("agent", s.endpoint))
		} else {
			s.Log.Warn("the agent does not answer; it gets no new work until it does", zap.Stringer("agent", s.endpoint), zap.Error(err))
		}
		s.set(func(h *health) { h.answers, h.silence = answers, err })
	})
}

// suspect has the agent looked at soon.
func (s *sidecar) suspect() {
	select {
	case s.suspicion <- struct{}{}:
	default:
	}
}

// fallBack puts the last known State in force if no replica sends one.
func (s *sidecar) fallBack(ctx context.Context) {
	timer := time.NewTimer(s.Timing.Away)
	defer timer.Stop()
	select {
	case <-s.group.Tried():
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	if s.keeper.Current() != nil {
		return
	}
	if stored, err := s.keeper.Stored(); err == nil && stored != nil {
		s.demand(stored.GetRequiredKeys())
		s.ledger.SlowAfter(stored.GetSlowAfter().AsDuration())
	}
	restored, err := s.keeper.Restore()
	switch {
	case err != nil:
		s.Log.Error("the last known state cannot be used", zap.Error(err))
	case restored:
		s.Log.Warn("the control plane is away; the last known state is in force", zap.Uint64("generation", s.keeper.Applied()))
		s.warnElsewhere()
		s.moved()
	case s.keeper.Current() == nil:
		s.Log.Warn("the control plane is away and no state of it is known; not ready until it comes")
	}
}

// untilEnd returns when the sidecar has left in order, or cannot go on: the agent or a listener is gone.
func (s *sidecar) untilEnd(ctx context.Context, failed <-chan error) error {
	var agentDone <-chan struct{}
	if s.process != nil {
		agentDone = s.process.Done()
	}
	for {
		select {
		case sig := <-s.Signals:
			if !ends(sig) {
				s.passSignal(sig)
				continue
			}
			s.leave(ctx, sig)
			return nil
		case <-ctx.Done():
			s.leave(context.WithoutCancel(ctx), sigterm)
			return nil
		case <-agentDone:
			return s.process.Err()
		case err := <-failed:
			return fmt.Errorf("a listener failed: %w", err)
		}
	}
}

func ends(sig os.Signal) bool { return sig == syscall.SIGTERM || sig == syscall.SIGINT }

func (s *sidecar) passSignal(sig os.Signal) {
	if number, ok := sig.(syscall.Signal); ok && s.process != nil {
		s.process.Signal(number)
	}
}

func (s *sidecar) agentGone() bool {
	if s.process == nil {
		return false
	}
	select {
	case <-s.process.Done():
		return true
	default:
		return false
	}
}

// leave ends in order: no new work please; what runs is settled by onShutdown and goes on for a while; what then still runs is cut with the retry signal. Nothing is
// refused before that. A second signal, or the end of ctx, cuts the waiting short.
func (s *sidecar) leave(ctx context.Context, sig os.Signal) {
	s.Log.Info("leaving", zap.Stringer("signal", sig))
	s.set(func(h *health) { h.leaving = true })
	waiting, done := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { s.hurry(waiting, done) })

	left, stop := context.WithTimeout(waiting, s.Timing.Leave)
	if err := s.group.AwaitLeft(left); err != nil {
		s.Log.Warn("leaving without the control plane's word that the proxies have let go")
	}
	stop()
	s.proxy.NoShadows()
	s.settle()
	idle, stop := context.WithTimeout(waiting, s.DrainTimeout)
	err := s.proxy.AwaitIdle(idle)
	stop()
	hurried := waiting.Err() != nil
	done()
	watch.Wait()
	if err != nil {
		why := "the instance shuts down and its drain timeout of " + drain.Duration(s.DrainTimeout).String() + " has passed: cancel"
		if hurried {
			why = "the instance ends at once: cancel"
		}
		s.cutAll(ctx, why)
	}
	if number, ok := sig.(syscall.Signal); ok && s.process != nil {
		s.process.Stop(number, s.Timing.Stop)
	}
}

// settle decides by onShutdown over what still runs, once the proxies send nothing more. A fenced instance has decided over everything.
func (s *sidecar) settle() {
	now := time.Now()
	order := drain.Order{Target: s.Ref.Version, At: now}
	if state := s.keeper.Current(); state != nil && state.Leave != nil {
		order.Forwards = len(state.Leave.TargetAddresses) > 0
		order.Alone = !order.Forwards
	}
	s.ledger.Leave(order, now)
	s.set(func(h *health) { h.settled = true })
	s.moved()
}

// hurry ends the waiting at the second signal, or when the agent dies, and passes other signals on.
func (s *sidecar) hurry(ctx context.Context, done context.CancelFunc) {
	var agentDone <-chan struct{}
	if s.process != nil {
		agentDone = s.process.Done()
	}
	for {
		select {
		case sig := <-s.Signals:
			if ends(sig) {
				s.Log.Warn("leaving at once", zap.Stringer("signal", sig))
				done()
				return
			}
			s.passSignal(sig)
		case <-agentDone:
			done()
			return
		case <-ctx.Done():
			return
		}
	}
}

// cutAll ends what still runs. Grants end first: what the retry signal says of effects must stay true.
func (s *sidecar) cutAll(ctx context.Context, why string) {
	s.Log.Warn("cutting what still runs", zap.Uint64("in_flight", s.ledger.Totals().InFlight), zap.Duration("drain_timeout", s.DrainTimeout))
	s.local.Close()
	s.ledger.Evict(why)
	s.proxy.CutAll()
	cut, stop := context.WithTimeout(context.WithoutCancel(ctx), cutTimeout)
	defer stop()
	if err := s.proxy.AwaitIdle(cut); err != nil {
		s.Log.Error("some exchanges did not end and are broken off")
	}
}

// abandon is for an agent that died: no more connections, so that proxies turn elsewhere, and what runs gets its error answers.
func (s *sidecar) abandon(server *http.Server) {
	s.set(func(h *health) {
		h.answers, h.leaving = false, true
		h.silence = errors.New("it has ended")
	})
	closing, stop := context.WithTimeout(context.Background(), cutTimeout)
	defer stop()
	if err := server.Shutdown(closing); err != nil {
		s.Log.Error("some exchanges did not end and are broken off")
	}
}
