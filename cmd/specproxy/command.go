package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/specproxy/specproxy/internal/sidecar"
	"github.com/specproxy/specproxy/internal/sidecar/agent"
	"github.com/specproxy/specproxy/internal/sidecar/gate"
	"github.com/specproxy/specproxy/internal/signing"
	"github.com/specproxy/specproxy/internal/versions"
)

// guardCommand is the hidden command by which specproxy starts itself as the guard of its agent.
const guardCommand = "agent-guard"

// usageError is an error of the command line.
type usageError struct{ error }

func (usageError) Code() int { return 2 }

func (e usageError) Unwrap() error { return e.error }

// command builds the command line; run gets validated options.
func command(version string, signals <-chan os.Signal, run func(context.Context, sidecar.Options) error) *cobra.Command {
	o := sidecar.Options{Version: version, Signals: signals, Stdout: os.Stdout, Stderr: os.Stderr}
	var spec, level, access string
	var tools map[string]string
	var keys []string
	c := &cobra.Command{
		Use:   "specproxy --control HOST:PORT --spec NAME:VERSION (--upstream URL | -- COMMAND [ARG...])",
		Short: "Run one instance of a spec version: pull and verify it, start its agent, keep its executions",
		Example: `  specproxy --control 127.0.0.1:18000 --spec customer-service:2.0.3 -- ./agent
  specproxy --control 127.0.0.1:18000 --spec customer-service:2.0.3 --listen 0.0.0.0:9000 --advertise 10.0.0.5:9000 --upstream http://127.0.0.1:8000`,
		Version: version, SilenceErrors: true, SilenceUsage: true,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 && c.ArgsLenAtDash() != 0 {
				return usageError{fmt.Errorf("unexpected %q: write the agent's command after --", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			o.Command = args
			o.Runtime.Tools = tools
			var err error
			if o.RequireKeys, err = readKeys(keys); err != nil {
				return usageError{err}
			}
			log, err := complete(&o, spec, level)
			if err != nil {
				return usageError{err}
			}
			defer func() { _ = log.Sync() }() // standard error cannot always be synced
			closeAccess, err := openAccess(&o, access)
			if err != nil {
				return usageError{err}
			}
			defer closeAccess()
			return run(c.Context(), o)
		},
	}
	c.CompletionOptions.DisableDefaultCmd = true
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := c.Flags()
	f.StringSliceVar(&o.Controls, "control", nil, "the control plane's `addresses` for sidecars, host:port; a session is kept with each")
	f.StringVar(&spec, "spec", "", "the spec version to run, `name:version`")
	f.StringVar(&o.Listen, "listen", "127.0.0.1:0", "`address` for requests from Envoy and other sidecars, or unix:/path; port 0 takes the one it had before, or a free one")
	f.StringVar(&o.Advertise, "advertise", "", "`address` under which they reach --listen (default: the address listened on)")
	f.StringVar(&o.LocalAPI, "local-api", "127.0.0.1:0", "loopback `address` of the agent's API ($SPECPROXY_URL), or unix:/path")
	f.StringVar(&o.Admin, "admin", "127.0.0.1:0", "loopback `address` of a page with /metrics, /healthz, /readyz and /debug/pprof/; empty for none")
	f.StringVar(&o.Traces, "otlp-endpoint", os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), "`URL` of a collector that gets a span of every request by OTLP/gRPC, such as http://127.0.0.1:4317 (default: $OTEL_EXPORTER_OTLP_ENDPOINT, else nothing is traced)")
	f.StringVar(&access, "access-log", "", "`file` that gets a line of JSON for every request, - for standard output (default: none)")
	f.StringVar(&o.Upstream, "upstream", "", "`URL` of an agent that something else starts: http://host:port, https://host:port or unix:/path")
	f.StringVar(&o.UpstreamCA, "upstream-ca", "", "`file` with the PEM certificates of the authority of an https --upstream (default: the system's)")
	f.StringVar(&o.Probe, "probe", "", "how to ask the agent whether it is ready: a `path` such as /healthz, grpc or grpc:SERVICE (default: it accepts connections)")
	f.StringVar(&o.CacheDir, "cache-dir", defaultCache(), "`directory` of the verified local copies of spec versions")
	f.StringVar(&o.StateDir, "state-dir", "", "`directory` of this sidecar's journal and last known state (default: below --cache-dir)")
	f.StringVar(&o.Instance, "instance", "", "`id` of this instance, a DNS label, unique for the life of the process (default: made up)")
	f.StringVar(&o.TokenFile, "token-file", "", "`file` with the token for the control plane")
	f.StringVar(&o.CAFile, "ca", "", "`file` with the PEM certificates of the control plane's authority; turns TLS on")
	f.StringVar(&o.Runtime.Image, "runtime-image", "", "OCI image `digest` of what runs the version, sha256:<hex>")
	f.StringVar(&o.Runtime.Model, "runtime-model", "", "`id` of the model that runs the version")
	f.StringToStringVar(&tools, "runtime-tool", nil, "`name=version` of a tool the agent uses; may be repeated")
	f.StringSliceVar(&keys, "require-key", nil, "PEM `file` with a public key that must have signed the version, or its agent is not started; one of several is enough")
	f.StringVar(&level, "log-level", "info", "least `level` to log: debug, info, warn or error")
	f.DurationVar(&o.DrainTimeout, "drain-timeout", sidecar.DefaultDrainTimeout, "how long executions may run on after SIGTERM before they are cut with the retry signal")
	limitFlags(f, &o)
	tlsFlags(f, &o)
	c.AddCommand(&cobra.Command{
		Use: guardCommand, Hidden: true, DisableFlagParsing: true, SilenceErrors: true, SilenceUsage: true,
		RunE: func(_ *cobra.Command, args []string) error { return agent.Guard(os.Stdin, args...) },
	})
	return c
}

// limitFlags are those of what callers can make the sidecar hold.
func limitFlags(f *pflag.FlagSet, o *sidecar.Options) {
	f.IntVar(&o.Limits.Connections, "max-connections", gate.DefaultConnections, "`connections` at a time; more are closed as they come")
	f.IntVar(&o.Limits.Streams, "max-streams", gate.DefaultStreams, "`requests` at a time on one HTTP/2 connection")
	f.IntVar(&o.Limits.HeaderBytes, "max-header-bytes", gate.DefaultHeaderBytes, "most `bytes` of a request's line and headers")
	f.DurationVar(&o.Limits.HeaderTimeout, "header-timeout", gate.DefaultHeaderTimeout, "how long a request's headers may take")
	f.DurationVar(&o.Limits.BodyTimeout, "body-timeout", gate.DefaultBodyTimeout, "how long a client may pause within a request's body of stated length")
	f.DurationVar(&o.Limits.IdleTimeout, "idle-timeout", gate.DefaultIdleTimeout, "how long a connection may wait for a request; Envoy's own must be shorter (it is set to 1m)")
	f.Int64Var(&o.BufferTotal, "max-buffer-bytes", sidecar.DefaultBufferTotal, "most `bytes` of request bodies kept for hand-overs, all together")
}

// tlsFlags are those of TLS on the data path. Files that change are read again.
func tlsFlags(f *pflag.FlagSet, o *sidecar.Options) {
	f.StringVar(&o.TLS.Cert, "tls-cert", "", "PEM `file` with the certificate that --listen shows; it carries the DNS name specproxy-sidecar (default: --listen takes plain HTTP)")
	f.StringVar(&o.TLS.Key, "tls-key", "", "PEM `file` with its key")
	f.StringVar(&o.TLS.ClientCA, "tls-client-ca", "", "PEM `file` of the authority of callers, Envoys and other sidecars, which must then show a certificate")
	f.StringVar(&o.TLS.PeerCA, "tls-peer-ca", "", "PEM `file` of the authority of other sidecars with TLS, for what is forwarded to them (default: --tls-client-ca)")
}

// complete fills in what needs parsing and validates the whole.
func complete(o *sidecar.Options, spec, level string) (*zap.Logger, error) {
	if spec == "" {
		return nil, errors.New("--spec is required: the version to run, such as --spec customer-service:2.0.3")
	}
	var err error
	if o.Ref, err = versions.ParseRef(spec); err != nil {
		return nil, fmt.Errorf("--spec %w\n(a sidecar takes a plain version, since every instance of a pool must run the same one; specctl show says which one another name means)", err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find specproxy's own executable, which also guards the agent: %w", err)
	}
	o.Guard = []string{self, guardCommand}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Log, err = newLogger(level); err != nil {
		return nil, err
	}
	return o.Log, nil
}

// readKeys reads public keys from their files.
func readKeys(files []string) ([]signing.PublicKey, error) {
	var keys []signing.PublicKey
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--require-key: %w", err)
		}
		key, err := signing.ParsePublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("--require-key %s: %w", file, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func newLogger(level string) (*zap.Logger, error) {
	at, err := zapcore.ParseLevel(strings.ToLower(level))
	if err != nil {
		return nil, fmt.Errorf("--log-level %q: write debug, info, warn or error", level)
	}
	config := zap.NewProductionConfig()
	config.Level = zap.NewAtomicLevelAt(at)
	config.Sampling = nil
	config.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	config.EncoderConfig.TimeKey = "time"
	config.DisableCaller, config.DisableStacktrace = true, true
	return config.Build()
}

// defaultCache is empty where the user has no cache directory: the flag is required there.
func defaultCache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "specproxy")
}
