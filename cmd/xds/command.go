package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/specproxy/specproxy/internal/controlplane"
	"github.com/specproxy/specproxy/internal/notify"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

func command(version string, out io.Writer) *cobra.Command {
	o := controlplane.Options{Version: version}
	var level, webhooks string
	root := &cobra.Command{
		Use:   "xds",
		Short: "Control plane: shifts a stock Envoy's traffic between spec versions, and takes it back",
		Long: `xds serves the operator API, the xDS stream of stock Envoys and the sessions of specproxy sidecars.
Its data directory holds everything: an embedded etcd, the archive of spec versions, and the first admin's token (admin.token, mode 0600).
When it listens it prints one JSON line with its addresses; logs go to standard error.`,
		Example:       "  xds --data-dir ./data\n  xds bootstrap --node edge-1 --listen 127.0.0.1:10000 > envoy.yaml && envoy -c envoy.yaml",
		Version:       version,
		Args:          noArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			parsed, err := zap.ParseAtomicLevel(level)
			if err != nil {
				return usage(fmt.Errorf("--log-level %q: write debug, info, warn or error", level))
			}
			if webhooks != "" {
				if o.Webhooks, err = notify.Load(webhooks); err != nil {
					return usage(fmt.Errorf("--webhooks: %w", err))
				}
			}
			config := zap.NewProductionConfig()
			config.Level, config.EncoderConfig.EncodeTime = parsed, zapcore.RFC3339NanoTimeEncoder
			log, err := config.Build()
			if err != nil {
				return err
			}
			o.Log = log
			o.Listening = func(api, grpc string) {
				_ = json.NewEncoder(out).Encode(map[string]string{"api": api, "grpc": grpc})
			}
			return controlplane.Run(cmd.Context(), o)
		},
	}
	root.SetOut(out)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	f := root.Flags()
	f.StringVar(&o.DataDir, "data-dir", "./data", "directory of the embedded etcd, the archive and the admin token")
	f.StringVar(&o.Archive, "archive", "", "keep versions in a registry, oci://HOST[:PORT]/REPOSITORY, instead of the data directory; credentials come from the Docker configuration")
	f.StringVar(&o.API, "api", "127.0.0.1:18080", "listen address of the operator API")
	f.StringVar(&o.GRPC, "grpc", "127.0.0.1:18000", "listen address of xDS and the sidecar sessions")
	f.StringSliceVar(&o.EtcdEndpoints, "etcd-endpoints", nil, "use this etcd cluster instead of the embedded member")
	f.StringVar(&o.EtcdCA, "etcd-ca", "", "PEM file that verifies the etcd cluster's certificates; for https endpoints")
	f.StringVar(&o.EtcdCert, "etcd-cert", "", "PEM certificate by which the etcd cluster knows this process")
	f.StringVar(&o.EtcdKey, "etcd-key", "", "PEM key of that certificate")
	f.StringVar(&o.Replica, "replica", "", "name of this process among those that use the same etcd cluster (default HOST:PORT of --grpc)")
	f.StringSliceVar(&o.APIHosts, "api-host", nil, "host name, besides loopback, under which the API may be called")
	f.StringVar(&o.PublicURL, "public-url", "", "where people reach the API, for the links of canaries' gates (default: the address of --api)")
	f.StringVar(&o.TokenFile, "token-file", "", "token that proxies and sidecars must send; required beyond loopback")
	f.StringVar(&o.Tokens, "tokens", "", "YAML file of named tokens with roles that the API takes besides the first admin's, read again when it changes; see: specctl token generate --help")
	f.StringVar(&o.MetricsTokenFile, "metrics-token-file", "", "token that may read /metrics of the API's listener, and nothing else; on loopback anybody may")
	f.StringVar(&o.Admin, "admin", "", "loopback address of a page with /metrics, /healthz, /readyz and /debug/pprof/ (default: none)")
	f.StringVar(&o.Traces, "otlp-endpoint", os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), "`URL` of a collector that gets a span of every call of the API by OTLP/gRPC, such as http://127.0.0.1:4317 (default: $OTEL_EXPORTER_OTLP_ENDPOINT, else nothing is traced)")
	f.BoolVar(&o.NoDashboard, "no-dashboard", false, "serve no dashboard (http://HOST:PORT/dashboard/ of --api, for reading, with a token of the API)")
	f.StringVar(&o.TLSCert, "tls-cert", "", "PEM certificate of both listeners; required beyond loopback")
	f.StringVar(&o.TLSKey, "tls-key", "", "PEM key of the certificate")
	f.StringVar(&o.ScopeHeader, "scope-header", "", "request header that names the spec's host, where all specs share one address (default :authority)")
	f.DurationVar(&o.FreezeFor, "freeze-for", 0, "how long a rollback keeps automation away from its spec (default 24h)")
	f.StringVar(&o.Prometheus, "prometheus", "", "`URL` of the Prometheus that the judges of canaries query, such as http://127.0.0.1:9090 (default: none)")
	f.StringVar(&o.PrometheusTokenFile, "prometheus-token-file", "", "file with the bearer token that it wants; no name or password goes into its URL")
	f.StringSliceVar(&o.PlanHosts, "plan-host", nil, "`HOST`, HOST:PORT or .DOMAIN that webhooks of canaries' plans may name (default: any)")
	f.StringVar(&webhooks, "webhooks", "", "YAML file of those who are told of rollbacks and post-mortems; see: xds webhooks --help")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	root.AddCommand(bootstrap(out), checkWebhooks(out))
	return root
}

func bootstrap(out io.Writer) *cobra.Command {
	var o envoy.BootstrapOptions
	var tokenFile string
	var tls, sidecars envoy.BootstrapTLS
	cmd := &cobra.Command{
		Use:   "bootstrap --node NAME --listen HOST:PORT",
		Short: "Print the configuration a stock Envoy starts with",
		Long: `bootstrap prints the whole configuration of a stock Envoy: listener, hosts, routes, clusters and endpoints come from the control plane.

With --fragment it prints what an Envoy that has a configuration of its own lacks: the way to the control plane, and the listener "agents", which
is then yours to extend by TLS, access logs, authorization, rate limits and tracing. Envoy merges it with the file that it has, see the example.
Print it again when xds is upgraded. examples/envoy and docs/envoy.md show what may be added, and where.`,
		Example: `  xds bootstrap --node edge-1 --listen 127.0.0.1:10000 > envoy.yaml && envoy -c envoy.yaml
  xds bootstrap --node edge-1 --listen 127.0.0.1:10000 --fragment > agents.yaml && envoy -c own.yaml --config-yaml "$(cat agents.yaml)"
  xds bootstrap --node edge-1 --listen 10.0.0.5:10000 --trusted-hops 1 > envoy.yaml     # behind a gateway`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if tokenFile != "" {
				raw, err := os.ReadFile(tokenFile)
				if err != nil {
					return fmt.Errorf("token file: %w", err)
				}
				o.Token = strings.TrimSpace(string(raw))
			}
			if tls.CA != "" {
				o.TLS = &tls
			}
			if sidecars != (envoy.BootstrapTLS{}) {
				o.Sidecars = &sidecars
			}
			config, err := envoy.Bootstrap(o)
			if err != nil {
				return usage(err)
			}
			_, err = out.Write(config)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Node, "node", "", "name of this Envoy; unique, and stable over restarts")
	f.StringVar(&o.Listen, "listen", "127.0.0.1:10000", "where this Envoy takes requests")
	f.StringVar(&o.Admin, "admin", "127.0.0.1:0", "where this Envoy serves its admin page; loopback only")
	f.StringSliceVar(&o.Servers, "control", []string{"127.0.0.1:18000"}, "control plane's xDS address; several for several replicas")
	f.StringVar(&tokenFile, "token-file", "", "file with the token that the control plane demands; it is written into the output")
	f.BoolVar(&o.Fragment, "fragment", false, "print what an Envoy with a configuration of its own lacks, with the listener in it; --admin is ignored")
	f.StringVar(&o.ScopeHeader, "scope-header", "", "with --fragment: as given to xds")
	f.Uint32Var(&o.TrustedHops, "trusted-hops", 0, "proxies in front of this Envoy that may say who the client is (x-forwarded-for, x-forwarded-proto)")
	f.StringVar(&tls.CA, "ca", "", "PEM file, on Envoy's machine, that verifies the control plane's certificate")
	f.StringVar(&tls.Cert, "cert", "", "PEM file, on Envoy's machine, with Envoy's own certificate")
	f.StringVar(&tls.Key, "key", "", "PEM file, on Envoy's machine, with its key")
	f.StringVar(&sidecars.CA, "sidecar-ca", "", "PEM file, on Envoy's machine, that verifies sidecars with TLS; their certificates carry the DNS name "+envoy.SidecarName)
	f.StringVar(&sidecars.Cert, "sidecar-cert", "", "PEM file, on Envoy's machine, with the certificate that it shows to sidecars that want one")
	f.StringVar(&sidecars.Key, "sidecar-key", "", "PEM file, on Envoy's machine, with its key")
	return cmd
}

func usage(err error) error { return &controlplane.UsageError{Err: err} }

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(fmt.Errorf("%s takes no argument, got %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath()))
	}
	return nil
}
