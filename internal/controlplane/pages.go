package controlplane

import (
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/specproxy/specproxy/internal/api"
	"github.com/specproxy/specproxy/internal/auth"
	"github.com/specproxy/specproxy/internal/dashboard"
	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/telemetry"
)

// served is one HTTP server and where it listens.
type served struct {
	*http.Server
	listener net.Listener
}

func (s served) serve() error {
	if s.TLSConfig != nil {
		return s.ServeTLS(s.listener, "", "")
	}
	return s.Serve(s.listener)
}

// traced makes a span of every call of the API, a child of the caller's.
func traced(calls http.Handler, spans trace.TracerProvider) http.Handler {
	return otelhttp.NewHandler(calls, "", otelhttp.WithTracerProvider(spans), otelhttp.WithPropagators(propagation.TraceContext{}), otelhttp.WithMeterProvider(noop.NewMeterProvider()),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return strings.TrimPrefix(r.URL.Path, "/") }))
}

// pages is what the API's listener serves. The dashboard is read with any token of the API. Metrics are open to whoever is on this machine if the listener is; beyond loopback they want a token.
func pages(o Options, operator *api.Server, reg *prometheus.Registry, keys *auth.Keyring, admin, scraper auth.Token, spans trace.TracerProvider) http.Handler {
	guarded := http.NewServeMux()
	guarded.Handle(operator.Handler())
	guarded.Handle(operator.PostMortems())
	guarded.Handle(operator.RolloutHandler())
	host, _, err := net.SplitHostPort(o.API)
	open := err == nil && auth.Loopback(host)
	mux := http.NewServeMux()
	mux.Handle("/", auth.Guard(traced(guarded, spans), keys, o.APIHosts))
	mux.Handle("/gates/", operator.Gates()) // whoever has a link may follow it
	if !o.NoDashboard {
		mux.Handle(dashboard.Prefix, dashboard.New(dashboard.Options{Reads: operator, Keys: keys, Hosts: o.APIHosts, TLS: o.TLSCert != "", Log: o.Log.Named("dashboard")}))
		mux.Handle("GET /{$}", http.RedirectHandler(dashboard.Prefix, http.StatusSeeOther))
	}
	mux.Handle("GET /metrics", auth.Readable(telemetry.Metrics(reg), open, o.APIHosts, admin, scraper))
	return mux
}

// loaded says whether proxies are served.
func loaded(disc *discovery.Server) func() error {
	return func() error {
		select {
		case <-disc.Loaded():
			return nil
		default:
			return errors.New("the specs are not loaded yet")
		}
	}
}

func checkAdmin(address string) error {
	if address == "" {
		return nil
	}
	return auth.CheckLocal("admin", address)
}

// listenAdmin returns nil if there is to be no admin page.
func listenAdmin(address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	return listen("admin", address)
}
