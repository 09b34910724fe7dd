// Package sidecar runs one instance of one spec version: an agent process and, before it, the proxy that keeps its executions.
//
// It pulls the version, verifies it and gives it to the agent, registers with every control-plane replica, and does what the State it gets
// says: it takes new work, or is fenced and settles what runs by the version's own contract. Invariants:
//   - the agent is started only with a verified version;
//   - the instance is ready only while the agent answers, a State is in force, and what runs is what the manifest demands;
//   - nothing that the control plane does or fails to do stops requests: the last State stays in force;
//   - when Run returns, every goroutine, connection and process it started is gone.
//
// The package links neither the storage engine nor the control plane: a sidecar is small and quick to start.
package sidecar

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/agent"
	"github.com/specproxy/specproxy/internal/sidecar/certs"
	"github.com/specproxy/specproxy/internal/sidecar/execid"
	"github.com/specproxy/specproxy/internal/sidecar/gate"
	"github.com/specproxy/specproxy/internal/sidecar/journal"
	"github.com/specproxy/specproxy/internal/sidecar/localapi"
	"github.com/specproxy/specproxy/internal/sidecar/posture"
	"github.com/specproxy/specproxy/internal/sidecar/proxy"
	"github.com/specproxy/specproxy/internal/sidecar/session"
	"github.com/specproxy/specproxy/internal/sidecar/specdir"
	"github.com/specproxy/specproxy/internal/telemetry"
	"github.com/specproxy/specproxy/internal/versions"
)

// Run runs the sidecar until a signal or ctx ends it, or the agent dies: then the error is an *agent.ExitError.
func Run(ctx context.Context, o Options) (err error) {
	o.Timing, o.Limits = o.Timing.withDefaults(), o.Limits.WithDefaults()
	if o.BufferTotal == 0 {
		o.BufferTotal = DefaultBufferTotal
	}
	s := &sidecar{
		Options: o, startedAt: time.Now(), registry: telemetry.NewRegistry("specproxy", o.Version), redo: make(chan struct{}, 1), begun: make(chan struct{}),
		suspicion: make(chan struct{}, 1), trust: trust{wake: make(chan struct{}, 1)},
	}
	s.letIn = sync.OnceFunc(func() { close(s.begun) })
	defer func() { err = errors.Join(err, s.cleanUp()) }()
	for _, step := range []func(context.Context) error{
		s.openState, s.obtainVersion, s.listen, s.nameInstance, s.trace, s.openJournal, s.findAgent, s.startAgent,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return s.serve(ctx)
}

// sidecar is one run. Its fields are set before serve, but those of health.
type sidecar struct {
	Options
	startedAt time.Time
	registry  *prometheus.Registry
	tracer    trace.Tracer // nil: nothing is traced

	dir      *stateDir
	controls []session.Control
	version  versions.Packed
	runtime  versions.Runtime
	data     net.Listener
	certs    *certs.Keeper
	// elsewhere: data is not where the sidecar before this one listened.
	elsewhere bool
	api       net.Listener
	admin     net.Listener // nil: none is wanted
	endpoint  agent.Endpoint
	process   *agent.Process // nil with --upstream

	journal   *journal.Journal
	recovered []drain.Row
	ledger    *drain.Ledger
	shadows   *drain.Ledger // of copies of requests; nil: the version takes none
	keeper    *posture.Keeper
	group     *session.Group
	proxy     *proxy.Proxy
	local     *localapi.API
	overrides *overrides
	// redo wakes the deadlines' goroutine.
	redo chan struct{}
	// suspicion asks for a look at the agent.
	suspicion chan struct{}
	// refusals counts what the data path's door refused.
	refusals gate.Refusals

	// source is where signatures come from that are demanded later.
	source specdir.Source
	trust  trust
	health health
	// begun is closed, by letIn, when requests are served.
	begun chan struct{}
	letIn func()
	undo  []func() error // last one first
}

// later registers a clean-up.
func (s *sidecar) later(f func() error) { s.undo = append(s.undo, f) }

func (s *sidecar) cleanUp() error {
	var errs []error
	for i := len(s.undo) - 1; i >= 0; i-- {
		errs = append(errs, s.undo[i]())
	}
	return errors.Join(errs...)
}

func (s *sidecar) openState(context.Context) (err error) {
	if s.dir, err = openStateDir(s.Options); err != nil {
		return err
	}
	s.later(s.dir.release)
	return nil
}

// obtainVersion gets the spec version and lays it out for the agent.
func (s *sidecar) obtainVersion(ctx context.Context) error {
	local, err := archive.Open(filepath.Join(s.CacheDir, "specs"), s.Log)
	if err != nil {
		return err
	}
	dialing, err := s.dialing()
	if err != nil {
		return err
	}
	if s.controls, err = dialing.Dial(s.Controls); err != nil {
		return err
	}
	source := specdir.Source{Copy: local, Keys: s.RequireKeys, Patience: s.Timing.Patience, Log: s.Log}
	for _, c := range s.controls {
		s.later(c.Close)
		source.Replicas = append(source.Replicas, specdir.Replica{Address: c.Address, Client: c.Client()})
	}
	if s.version, err = source.Obtain(ctx, s.Ref); err != nil {
		return err
	}
	s.source = source
	s.later(func() error { return specdir.Remove(s.dir.specs()) })
	return specdir.Write(s.dir.specs(), s.version)
}

// nameInstance makes up an id from the host's name, for people, and random digits.
func (s *sidecar) nameInstance(context.Context) error {
	if s.Instance != "" {
		return nil
	}
	host, _ := os.Hostname()
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	if len(host) > 40 || execid.CheckInstance(host) != nil {
		host = "i"
	}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	s.Instance = host + "-" + hex.EncodeToString(random[:])
	return nil
}

// trace begins to send traces, if somebody takes them.
func (s *sidecar) trace(ctx context.Context) error {
	if s.Traces == "" {
		return nil
	}
	spans, stop, err := telemetry.Tracing(ctx, s.Traces, "specproxy", s.Version, s.Instance, s.Log)
	if err != nil {
		return err
	}
	s.tracer = spans.Tracer(telemetry.Scope)
	s.later(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		if err := stop(ctx); err != nil {
			s.Log.Warn("the last traces could not be sent", zap.Error(err))
		}
		return nil
	})
	return nil
}

// openJournal finds what an earlier process left open. Its agent died with it.
func (s *sidecar) openJournal(context.Context) error {
	j, left, damaged, err := journal.Open(s.dir.journal())
	if err != nil {
		return err
	}
	s.journal = j
	s.later(j.Close)
	if damaged > 0 {
		s.Log.Warn("the journal has lines that cannot be read; one is normal after a crash", zap.Int("lines", damaged), zap.String("journal", s.dir.journal()))
	}
	for _, x := range left {
		s.recovered = append(s.recovered, died(x, s.startedAt))
	}
	if len(left) > 0 {
		s.Log.Warn("executions of an earlier process died with it, or its end was not told, after acts had been granted to them; the control plane is told", zap.Int("executions", len(left)))
	}
	return nil
}

// died is the report of an execution that was granted acts by a process that did not live to see it end, or to tell of its end.
func died(x journal.Execution, now time.Time) drain.Row {
	row := drain.Row{
		ID: x.ID, Key: x.Key, Method: x.Method, Path: x.Path, StartedAt: x.StartedAt, EndedAt: now, RouteGeneration: x.RouteGeneration,
		HandedOverFrom: x.HandedOverFrom, Acts: x.Acts, EffectsSource: drain.SourceGuarded, Outcome: drain.Failure, OutcomeReason: "sidecar died",
	}
	for _, a := range x.Acts {
		row.Effects = row.Effects.Worse(a.Class)
	}
	if e := x.Ended; e != nil {
		row.EndedAt, row.Outcome, row.OutcomeReason, row.Status, row.Disposition, row.Why = e.At, e.Outcome, e.Reason, e.Status, e.Disposition, e.Why
	}
	return row
}

// findAgent says where the agent is or will be, and what runs it.
func (s *sidecar) findAgent(context.Context) error {
	s.runtime = s.Runtime
	if s.Upstream != "" {
		var err error
		if s.endpoint, err = agent.ParseEndpoint(s.Upstream); err == nil && s.UpstreamCA != "" {
			s.endpoint.Roots, err = certs.Roots("--upstream-ca", s.UpstreamCA)
		}
		return err
	}
	path, err := agent.Resolve(s.Command[0])
	if err != nil {
		return err
	}
	if s.runtime.Binary, err = agent.BinaryDigest(path); err != nil {
		return err
	}
	port, err := agent.FreePort()
	if err != nil {
		return err
	}
	s.endpoint = agent.Endpoint{Network: "tcp", Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	return nil
}

// startAgent starts the agent's process, unless something else does, and assembles what serves it.
func (s *sidecar) startAgent(context.Context) error {
	if err := s.assemble(); err != nil {
		return err
	}
	if s.Upstream != "" {
		s.Log.Info("the agent is started by something else; it reaches the sidecar here", zap.String("SPECPROXY_URL", s.apiURL()), zap.String("SPEC_DIR", s.dir.specs()))
		return nil
	}
	_, port, err := net.SplitHostPort(s.endpoint.Address)
	if err != nil {
		return err
	}
	s.process, err = agent.Start(agent.Command{
		Args: s.Command, Stdout: s.Stdout, Stderr: s.Stderr, Guard: s.Guard,
		Env: append(os.Environ(),
			"SPEC_DIR="+s.dir.specs(), "SPEC_VERSION="+s.Ref.String(), "SPEC_DIGEST="+s.version.Digest,
			"SPECPROXY_URL="+s.apiURL(), "PORT="+port),
	})
	if err != nil {
		return err
	}
	s.later(func() error { s.process.Stop(sigterm, s.Timing.Stop); return nil }) // at once if it is gone
	return nil
}

// apiURL is what the agent finds in SPECPROXY_URL: http://127.0.0.1:PORT, or unix:/path of a socket.
func (s *sidecar) apiURL() string {
	if s.api.Addr().Network() == "unix" {
		return unixPrefix + s.api.Addr().String()
	}
	return "http://" + s.api.Addr().String()
}

// assemble wires the parts; none of them runs yet.
func (s *sidecar) assemble() error {
	contract := s.version.Manifest.InFlight
	s.ledger = drain.NewLedger(contract, s.version.Manifest.Segments...)
	var captures *capture.Keeper // nil: the manifest wants none
	if rules := s.version.Manifest.Capture; rules.On() {
		redactor, err := capture.New(rules)
		if err != nil {
			return fmt.Errorf("the manifest of %s: %w", s.Ref, err)
		}
		captures, s.ledger.Reasons = capture.NewKeeper(redactor), redactor.Reason
	}
	if s.version.Manifest.Shadow == versions.ShadowSafe {
		s.shadows = drain.NewLedger(contract)
		s.shadows.Reasons = s.ledger.Reasons
	}
	s.overrides = &overrides{ledger: s.ledger, log: s.Log}
	s.keeper = posture.New(s.dir.state(), s.ledger, time.Now)
	s.health.mismatch = s.version.Manifest.Runtime.Mismatch(s.runtime)
	if s.health.mismatch != "" {
		s.Log.Error("this instance will never be ready: it does not run what the manifest demands", zap.String("why", s.health.mismatch))
	}
	s.group = session.New(session.Config{
		Controls: s.controls, Hello: s.hello(), Ledger: s.ledger, Apply: s.apply, Status: s.status, Totals: s.totals, Confirmed: s.confirmed, Excerpt: captures.Excerpt,
		Interval: s.Timing.Report, MaxBackoff: s.Timing.MaxBackoff, ConfirmAfter: s.Timing.Confirm, Now: time.Now, Log: s.Log,
	})
	s.group.Recovered(s.recovered)
	buffer := s.version.Manifest.Request.BodyBuffer
	if buffer == 0 {
		buffer = versions.DefaultBodyBuffer
	}
	metrics := prometheus.WrapRegistererWith(prometheus.Labels{"spec": s.Ref.Spec, "version": s.Ref.Version}, s.registry)
	s.proxy = proxy.New(proxy.Config{
		Ref: s.Ref, Digest: s.version.Digest, Instance: s.Instance, BodyBuffer: buffer, Contract: contract, Segments: s.version.Manifest.Segments, Ledger: s.ledger,
		Captures: captures, Shadows: s.shadows, Mirrored: s.mirrored,
		Posture: s.keeper.Current, Agent: s.endpoint, Changed: s.group.Changed, Ended: s.ended, Now: time.Now, Random: mathrand.Float64, Log: s.Log,
		Peers: s.certs.Client, BufferTotal: s.BufferTotal, BodyPause: s.Limits.BodyTimeout, Begun: s.begun, Metrics: metrics, Access: s.Access, Tracer: s.tracer, Suspect: s.suspect, Refusals: &s.refusals,
	})
	metrics.MustRegister(ledgerMetrics{s}, refusalMetrics{&s.refusals})
	s.local = localapi.New(localapi.Config{
		Ledger: s.ledger, Shadows: s.shadows, Guarded: contract.Effects == drain.Guarded, Journal: s.journal, Changed: s.group.Changed, Now: time.Now, Log: s.Log,
	})
	return nil
}

func (s *sidecar) hello() *sidecarv1.Hello {
	return &sidecarv1.Hello{
		InstanceId: s.Instance, Spec: s.Ref.Spec, Version: s.Ref.Version, Digest: s.version.Digest, Address: s.Advertise,
		Runtime:        &sidecarv1.Runtime{Image: s.runtime.Image, Binary: s.runtime.Binary, Model: s.runtime.Model, Tools: s.runtime.Tools},
		SidecarVersion: s.Version, StartedAt: timestamppb.New(s.startedAt), Transport: s.transport(),
	}
}

// ended is called by the data path with every execution that has ended.
func (s *sidecar) ended(r drain.Row) {
	var err error
	if r.Told() { // and forgotten once it can be taken for received
		err = s.journal.Finish(journal.Ended{
			ID: r.ID, At: r.EndedAt, Outcome: r.Outcome, Reason: r.OutcomeReason, Status: r.Status, Disposition: r.Disposition, Why: r.Why,
		})
	} else {
		err = s.journal.End(r.ID)
	}
	if err != nil {
		s.Log.Error("the end of an execution could not be journalled", zap.String("execution", r.ID), zap.Error(err))
	}
	s.group.Ended(r)
}

// mirrored is called by the data path with every ended execution that was copied, or is a copy.
func (s *sidecar) mirrored(m proxy.Mirror, isCopy bool, r drain.Row) {
	at := r.EndedAt
	if at.IsZero() { // others of its exchanges go on
		at = time.Now()
	}
	s.group.Mirrored(&sidecarv1.Mirrored{
		Pair: m.Pair, Copy: isCopy, Since: m.Since, Version: m.Version, Execution: r.ID, Outcome: string(r.Outcome), EndedAt: timestamppb.New(at),
	})
}

// confirmed is called with every ended execution that the control plane knows of.
func (s *sidecar) confirmed(id string) {
	if err := s.journal.End(id); err != nil {
		s.Log.Error("a told execution could not be taken out of the journal", zap.String("execution", id), zap.Error(err))
	}
}

// apply puts a State in force.
func (s *sidecar) apply(state *sidecarv1.State) (bool, error) {
	if state.GetGeneration() >= s.keeper.Applied() {
		s.demand(state.GetRequiredKeys())
		s.ledger.SlowAfter(state.GetSlowAfter().AsDuration())
	}
	applied, err := s.keeper.Apply(state)
	if err != nil {
		s.Log.Error("a state from the control plane could not be applied", zap.Uint64("generation", state.GetGeneration()), zap.Error(err))
	}
	if applied {
		s.overrides.apply(state) // after the fence: a hand-over needs a target
	}
	s.moved()
	return applied, err
}

// moved sees to what a new posture brings: deadlines, and a status to send.
func (s *sidecar) moved() {
	if state := s.keeper.Current(); state != nil && state.Fence != nil {
		s.proxy.EndShadows()
	}
	select {
	case s.redo <- struct{}{}:
	default:
	}
	s.beginIfReady()
	s.group.Changed()
	s.group.StatusChanged()
}

// deadlines applies what follows the deadlines of executions that an order let complete.
func (s *sidecar) deadlines(ctx context.Context, done *sync.WaitGroup) {
	defer done.Done()
	timer := time.NewTimer(math.MaxInt64)
	defer timer.Stop()
	for {
		select {
		case <-s.redo:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		wait := time.Duration(math.MaxInt64)
		if next := s.ledger.Tick(now); !next.IsZero() {
			wait = next.Sub(now)
		}
		timer.Reset(wait)
		s.group.Changed()
	}
}
