// Package controlplane wires one control-plane replica together: store, archive, controller, discovery, sidecar sessions and the API.
//
// Invariants: every address is checked and bound before anything is served; what was started is stopped in reverse order, and awaited.
package controlplane

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/api"
	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/archive/registry"
	"github.com/specproxy/specproxy/internal/auth"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/notify"
	"github.com/specproxy/specproxy/internal/promquery"
	"github.com/specproxy/specproxy/internal/routing/envoy"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/telemetry"
)

// Options of one replica.
type Options struct {
	// DataDir holds the embedded etcd, the archive and the first admin's token. Created if absent, mode 0700.
	DataDir string
	// Archive is oci://HOST[:PORT]/REPOSITORY; empty: a directory below DataDir.
	Archive string
	// API and GRPC are listen addresses, host:port.
	API, GRPC string
	// EtcdEndpoints of a cluster; empty: the embedded member.
	EtcdEndpoints []string
	// EtcdCA, EtcdCert and EtcdKey are PEM files for TLS to EtcdEndpoints. The certificate is read again for every connection.
	EtcdCA, EtcdCert, EtcdKey string
	// Replica is this process's name among those that use EtcdEndpoints; empty: the host's name and the port of GRPC.
	Replica string
	// PublicURL is how people reach the API, for the links of gates; empty: the address of API.
	PublicURL string
	// APIHosts are names besides loopback under which the API may be called.
	APIHosts []string
	// TokenFile is demanded of proxies and sidecars; required beyond loopback.
	TokenFile string
	// Tokens is the file of named tokens that the API takes, besides the first admin's; empty: none.
	Tokens string
	// TLSCert and TLSKey are PEM files for both listeners.
	TLSCert, TLSKey string
	// MetricsTokenFile holds a token that may read /metrics and nothing else, where the API listens beyond loopback. Empty: only the admin's token may.
	MetricsTokenFile string
	// Admin is host:port, on loopback, of the page with metrics, health and profiles; empty: none.
	Admin string
	// Traces is the OTLP/gRPC address of a collector that gets a span of every call of the API; empty: nothing is traced.
	Traces string
	// Prometheus is the URL of the server that canaries' judges query, PrometheusTokenFile the file with the token that it wants; empty: none.
	Prometheus, PrometheusTokenFile string
	// PlanHosts are the hosts that webhooks of plans may name, as host, host:port or .domain; empty: any.
	PlanHosts []string
	// Webhooks are who is told of post-mortems; nil: nobody.
	Webhooks *notify.Config
	// NoDashboard leaves the dashboard out of the API's listener.
	NoDashboard bool
	// Version of this program.
	Version string
	// ScopeHeader is the request header that names a spec's host; empty: :authority.
	ScopeHeader string
	// FreezeFor is how long a rollback keeps automation away. 0: the default.
	FreezeFor time.Duration
	// Grace of silent instances. 0: the default.
	Grace time.Duration
	// Discovery lets a test change how resources are pushed.
	Discovery func(*discovery.Options)
	Log       *zap.Logger
	// Listening is told the bound addresses before anything is served.
	Listening func(api, grpc string)
}

// UsageError says that the options cannot be served with; nothing was begun.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// lastTraces bounds how long an end waits for a collector.
const lastTraces = time.Second

// window is how much a proxy or a sidecar may send before it is read: a first request of an Envoy that brings 10,000 hosts along.
const window = 1 << 20

// Run serves until ctx ends or a part fails.
func Run(ctx context.Context, o Options) (err error) {
	tlsConfig, token, err := check(o)
	if err != nil {
		return &UsageError{err}
	}
	var scraper auth.Token
	if o.MetricsTokenFile != "" {
		if scraper, err = auth.ReadToken(o.MetricsTokenFile); err != nil {
			return &UsageError{fmt.Errorf("--metrics-token-file: %w", err)}
		}
	}
	spans, stop, err := o.trace(ctx)
	if err != nil {
		return err
	}
	defer stop()
	var numbers control.Numbers
	if o.Prometheus != "" {
		if numbers, err = promquery.New(o.Prometheus, o.PrometheusTokenFile); err != nil {
			return &UsageError{fmt.Errorf("--prometheus: %w", err)}
		}
	}
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory %s: %w", o.DataDir, err)
	}
	apiListener, err := listen("api", o.API)
	if err != nil {
		return err
	}
	defer apiListener.Close()
	grpcListener, err := listen("grpc", o.GRPC)
	if err != nil {
		return err
	}
	defer grpcListener.Close()
	adminListener, err := listenAdmin(o.Admin)
	if err != nil {
		return err
	}
	if adminListener != nil {
		defer adminListener.Close()
	}
	reg := telemetry.NewRegistry("xds", o.Version)
	admin, err := auth.AdminToken(o.DataDir)
	if err != nil {
		return err
	}
	keys, err := auth.NewKeyring(admin, o.Tokens, o.Log.Named("auth"), nil)
	if err != nil {
		return &UsageError{err}
	}
	keys.Register(reg)

	st, err := o.openStore(ctx, grpcListener.Addr())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	arch, err := openArchive(o)
	if err != nil {
		return err
	}
	dopts := discovery.Options{Store: st, Log: o.Log.Named("discovery"), Listener: envoy.ListenerOptions{ScopeHeader: o.ScopeHeader}, Metrics: reg}
	if o.Discovery != nil {
		o.Discovery(&dopts)
	}
	disc := discovery.New(dopts)
	fl := fleet.New(fleet.Options{Store: st, Archive: arch, Proxies: disc, Log: o.Log.Named("fleet"), Grace: o.Grace, Metrics: reg})
	ctl := control.New(control.Options{Store: st, Archive: arch, Fleet: fl, Discovery: disc, Prometheus: numbers, PlanHosts: o.PlanHosts, PublicURL: o.public(apiListener.Addr().String()), Log: o.Log.Named("control"), FreezeFor: o.FreezeFor, Alone: len(o.EtcdEndpoints) == 0, Metrics: reg})

	opts := append(auth.GRPC(token), grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		// With a window of fixed size gRPC does not measure the line, which takes a ping for every acknowledgement of a proxy.
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window))
	if tlsConfig != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(tlsConfig)))
	}
	gs := grpc.NewServer(opts...)
	disc.Register(gs)
	sidecarv1.RegisterSidecarServiceServer(gs, fl)

	reg.MustRegister(control.NewRecordMetrics(st))
	operator := &api.Server{Store: st, Control: ctl, Fleet: fl, Discovery: disc}
	hs := &http.Server{Handler: pages(o, operator, reg, keys, admin, scraper, spans), ReadHeaderTimeout: 10 * time.Second, TLSConfig: tlsConfig, Protocols: new(http.Protocols)}
	hs.Protocols.SetHTTP1(true)
	hs.Protocols.SetHTTP2(true)
	hs.Protocols.SetUnencryptedHTTP2(true)

	if o.Listening != nil {
		o.Listening(apiListener.Addr().String(), grpcListener.Addr().String())
	}
	listeners := []served{{hs, apiListener}}
	if adminListener != nil {
		o.Log.Info("admin page", zap.String("address", adminListener.Addr().String()))
		listeners = append(listeners, served{&http.Server{Handler: telemetry.Admin(reg, loaded(disc)), ReadHeaderTimeout: 10 * time.Second}, adminListener})
	}
	leading := []func(context.Context) error{ctl.Run, fl.Tend}
	if o.Webhooks != nil {
		leading = append(leading, notify.New(notify.Options{Store: st, Config: o.Webhooks, Log: o.Log.Named("webhook"), Metrics: reg}).Run)
	}
	return serve(ctx, st, disc, fl, leading, gs, grpcListener, listeners)
}

// trace begins to send traces, if somebody takes them. stop sends what waits.
func (o Options) trace(ctx context.Context) (spans trace.TracerProvider, stop func(), err error) {
	if o.Traces == "" {
		return noop.NewTracerProvider(), func() {}, nil
	}
	spans, shutdown, err := telemetry.Tracing(ctx, o.Traces, "xds", o.Version, o.Replica, o.Log)
	if err != nil {
		return nil, nil, err
	}
	return spans, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTraces)
		defer cancel()
		if err := shutdown(ctx); err != nil {
			o.Log.Warn("the last traces could not be sent", zap.Error(err))
		}
	}, nil
}

// openArchive opens the directory, or the repository with the directory as this replica's copy of what it has seen.
func openArchive(o Options) (control.Archive, error) {
	local, err := archive.Open(filepath.Join(o.DataDir, "archive"), o.Log.Named("archive"))
	if err != nil || o.Archive == "" {
		return local, err
	}
	return registry.Open(registry.Options{Target: o.Archive, Copy: local, Log: o.Log.Named("archive"), UserAgent: "specproxy"})
}

// serve runs every part until one ends, then stops all of them. What is in leading runs while this replica leads.
func serve(ctx context.Context, st *store.Store, disc *discovery.Server, fl *fleet.Fleet, leading []func(context.Context) error,
	gs *grpc.Server, gl net.Listener, pages []served,
) error {
	g, ctx := errgroup.WithContext(ctx)
	quiet := func(f func() error) func() error {
		return func() error {
			if err := f(); err != nil && !errors.Is(err, http.ErrServerClosed) && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
				return err
			}
			return nil
		}
	}
	g.Go(quiet(func() error { return disc.Run(ctx) }))
	g.Go(quiet(func() error { return fl.Run(ctx) }))
	g.Go(quiet(func() error {
		return st.Lead(ctx, func(ctx context.Context) error {
			g, ctx := errgroup.WithContext(ctx)
			for _, run := range leading {
				g.Go(func() error { return run(ctx) })
			}
			return g.Wait()
		})
	}))
	g.Go(quiet(func() error { return gs.Serve(gl) }))
	for _, p := range pages {
		g.Go(quiet(p.serve))
	}
	g.Go(func() error {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		for _, p := range pages {
			_ = p.Shutdown(stop) // a read that still waits for news is cut
			_ = p.Close()
		}
		gs.Stop() // streams are for ever; proxies and sidecars reconnect
		return nil
	})
	return g.Wait()
}

// check validates everything that can be refused before a port is bound.
func check(o Options) (*tls.Config, auth.Token, error) {
	var token auth.Token
	if err := envoy.CheckScopeHeader(o.ScopeHeader); err != nil {
		return nil, token, fmt.Errorf("--scope-header: %w", err)
	}
	if o.TokenFile != "" {
		var err error
		if token, err = auth.ReadToken(o.TokenFile); err != nil {
			return nil, token, err
		}
	}
	if o.PublicURL != "" {
		if u, err := url.Parse(o.PublicURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" || u.User != nil {
			return nil, token, fmt.Errorf("--public-url %q: write a scheme and a host, such as https://specproxy.example.com", o.PublicURL)
		}
	}
	if o.Traces != "" {
		if err := telemetry.CheckEndpoint("otlp-endpoint", o.Traces); err != nil {
			return nil, token, err
		}
	}
	if (o.TLSCert == "") != (o.TLSKey == "") {
		return nil, token, errors.New("--tls-cert and --tls-key go together")
	}
	var tlsConfig *tls.Config
	if o.TLSCert != "" {
		pair, err := tls.LoadX509KeyPair(o.TLSCert, o.TLSKey)
		if err != nil {
			return nil, token, fmt.Errorf("TLS certificate: %w", err)
		}
		tlsConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	}
	hasTLS := tlsConfig != nil
	// The API always has a token: the admin's.
	return tlsConfig, token, errors.Join(auth.CheckListen("api", o.API, hasTLS, true), auth.CheckListen("grpc", o.GRPC, hasTLS, o.TokenFile != ""), checkAdmin(o.Admin))
}

// public is where links lead.
func (o Options) public(listening string) string {
	switch {
	case o.PublicURL != "":
		return strings.TrimRight(o.PublicURL, "/")
	case o.TLSCert != "":
		return "https://" + listening
	}
	return "http://" + listening
}

func listen(flag, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--%s %s: %w; is another control plane running? choose another address: --%s 127.0.0.1:0", flag, address, err, flag)
	}
	return l, nil
}
