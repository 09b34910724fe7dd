package sidecar

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/auth"
	"github.com/specproxy/specproxy/internal/sidecar/agent"
	"github.com/specproxy/specproxy/internal/sidecar/certs"
	"github.com/specproxy/specproxy/internal/sidecar/execid"
	"github.com/specproxy/specproxy/internal/sidecar/gate"
	"github.com/specproxy/specproxy/internal/sidecar/session"
	"github.com/specproxy/specproxy/internal/signing"
	"github.com/specproxy/specproxy/internal/telemetry"
	"github.com/specproxy/specproxy/internal/versions"
)

// Options is what a sidecar is told. The zero value of a timing is its default.
type Options struct {
	// Controls are host:port of every control-plane replica.
	Controls []string
	Ref      versions.Ref
	// Listen is host:port for the data path, or unix:/path of a socket. Port 0 takes the port that the sidecar before this one had, if it is
	// free, else any.
	Listen string
	// Advertise is host:port or unix:/path where Envoy and other sidecars reach Listen; empty: the address it really listens on.
	Advertise string
	// TLS are the files by which Listen speaks TLS, and other sidecars are spoken to that do.
	TLS certs.Files
	// Limits bound what callers can make the sidecar hold.
	Limits gate.Limits
	// BufferTotal bounds, in bytes, all request bodies together that are kept for a hand-over; 0: DefaultBufferTotal.
	BufferTotal int64
	// LocalAPI is host:port for the agent's API, on loopback, or unix:/path of a socket. Default 127.0.0.1:0.
	LocalAPI string
	// Admin is host:port, on loopback, of the page with metrics, health and profiles; empty: none.
	Admin string
	// Access gets a line for every request; nil: none is written.
	Access *zap.Logger
	// Traces is where spans go, http://host:port or https://host:port of an OTLP/gRPC collector; empty: nothing is traced.
	Traces string
	// Command starts the agent; else Upstream says where it already runs.
	Command  []string
	Upstream string
	// UpstreamCA is a PEM file with the authorities that may vouch for an Upstream that speaks TLS; empty: the system's.
	UpstreamCA string
	// Probe is how the agent is asked whether it is ready: a path, "grpc" or "grpc:SERVICE"; empty: by connecting.
	Probe string
	// CacheDir holds the local copies of versions; StateDir this sidecar's journal and last known State, empty: below CacheDir.
	CacheDir, StateDir string
	// Instance is this process's id, a DNS label; empty: made up.
	Instance string
	// TokenFile and CAFile authenticate the sidecar to the control plane and the control plane to the sidecar.
	TokenFile, CAFile string
	// RequireKeys are the keys one of which must have signed the version, or its agent is not started, whatever the control plane says.
	RequireKeys []signing.PublicKey
	// Runtime is what the command line says about what runs the version. Binary is found out.
	Runtime versions.Runtime
	// DrainTimeout is how long a leaving sidecar lets executions run.
	DrainTimeout time.Duration
	// Version of this program.
	Version string
	// Guard is the command line of the agent's guard process: this program with the arguments that make it call agent.Guard.
	Guard []string
	// Signals ends the sidecar in order (SIGTERM, SIGINT; the second one at once) or is passed on to the agent (all others). May be nil.
	Signals <-chan os.Signal
	// Stdout and Stderr are the agent's.
	Stdout, Stderr *os.File
	Log            *zap.Logger

	Timing Timing
}

// Timing is how long things may take; zero fields are defaults.
type Timing struct {
	// MaxBackoff bounds the pause between attempts to reach a replica. Default 2 s.
	MaxBackoff time.Duration
	// Away is how long a replica may be silent at the start before the last known State counts. Default 2 s.
	Away time.Duration
	// Patience is how long a version is asked for that has no local copy. Default 5 s.
	Patience time.Duration
	// Probe is the interval at which the agent is looked at. Default 1 s.
	Probe time.Duration
	// ProbeTimeout bounds one look. Default 2 s.
	ProbeTimeout time.Duration
	// Stall is how long requests wait, while nothing comes from the agent, before it must show that it lives. Default 1 min.
	Stall time.Duration
	// Sign is how long it may take for that. Default 10 s.
	Sign time.Duration
	// Leave is how long proxies are waited for when the sidecar leaves. Default 2 s.
	Leave time.Duration
	// Stop is how long the agent gets to end. Default 10 s.
	Stop time.Duration
	// Report is the least time between two reports. Default 100 ms.
	Report time.Duration
	// Confirm is how long after it was sent a report counts as received. Default 30 s.
	Confirm time.Duration
}

func (t Timing) withDefaults() Timing {
	or := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	or(&t.MaxBackoff, session.DefaultMaxBackoff)
	or(&t.Away, 2*time.Second)
	or(&t.Patience, 5*time.Second)
	or(&t.Probe, time.Second)
	or(&t.ProbeTimeout, 2*time.Second)
	or(&t.Stall, time.Minute)
	or(&t.Sign, 10*time.Second)
	or(&t.Leave, 2*time.Second)
	or(&t.Stop, 10*time.Second)
	or(&t.Report, session.DefaultInterval)
	or(&t.Confirm, session.DefaultConfirmAfter)
	return t
}

// DefaultBufferTotal bounds all request bodies together that are kept for a hand-over.
const DefaultBufferTotal = 256 << 20

// probeFailures in a row make an agent that answered count as silent.
const probeFailures = 3

// DefaultDrainTimeout is how long a leaving sidecar lets executions run.
const DefaultDrainTimeout = 30 * time.Second

// Validate says what is wrong with the options and which flag mends it. It looks at no file but resolves no name either.
func (o Options) Validate() error {
	return errors.Join(o.validateControls(), o.validateAddresses(), o.TLS.Check(), o.validateAgent(), o.validateIdentity(), o.validateLimits())
}

func (o Options) validateControls() error {
	if len(o.Controls) == 0 {
		return errors.New("--control is required: the control plane's address for sidecars, such as 127.0.0.1:18000; separate several by commas")
	}
	for _, c := range o.Controls {
		host, port, err := net.SplitHostPort(c)
		if err != nil || host == "" || port == "" {
			return fmt.Errorf("--control %q: write host:port, such as 127.0.0.1:18000", c)
		}
		if !isLoopback(host) && (o.CAFile == "" || o.TokenFile == "") {
			return fmt.Errorf("--control %s is not on this machine: give --ca FILE (its certificate authority) and --token-file FILE, "+
				"since specs and execution keys travel over this connection", c)
		}
	}
	return nil
}

func (o Options) validateAddresses() error {
	if path, ok := strings.CutPrefix(o.Listen, unixPrefix); ok {
		if !isSocketPath(path) {
			return fmt.Errorf("--listen %q: write unix: and an absolute path of at most %d bytes, such as unix:/run/specproxy/data.sock", o.Listen, maxSocketPath)
		}
	} else {
		host, _, err := net.SplitHostPort(o.Listen)
		if err != nil {
			return fmt.Errorf("--listen %q: write host:port, such as 127.0.0.1:0, or unix:/path: %w", o.Listen, err)
		}
		if o.Advertise == "" && isUnspecified(host) {
			return fmt.Errorf("--listen %s is every address of this machine: say with --advertise host:port under which one Envoy reaches it", o.Listen)
		}
	}
	if o.Admin != "" {
		if err := auth.CheckLocal("admin", o.Admin); err != nil {
			return err
		}
	}
	if o.Traces != "" {
		if err := telemetry.CheckEndpoint("otlp-endpoint", o.Traces); err != nil {
			return err
		}
	}
	return errors.Join(o.validateAdvertise(), o.validateLocalAPI())
}

func (o Options) validateAdvertise() error {
	if path, ok := strings.CutPrefix(o.Advertise, unixPrefix); o.Advertise == "" || ok && isSocketPath(path) {
		return nil
	}
	host, port, err := net.SplitHostPort(o.Advertise)
	if err != nil || isUnspecified(host) || port == "" || port == "0" {
		return fmt.Errorf("--advertise %q: write the host:port or unix:/path under which Envoy reaches this sidecar, such as 10.0.0.5:9000", o.Advertise)
	}
	return nil
}

func (o Options) validateLimits() error {
	if l := o.Limits; l.Connections < 0 || l.Streams < 0 || l.HeaderBytes < 0 || l.HeaderTimeout < 0 || l.BodyTimeout < 0 || l.IdleTimeout < 0 || o.BufferTotal < 0 {
		return errors.New("--max-connections, --max-streams, --max-header-bytes, --max-buffer-bytes, --header-timeout, --body-timeout, --idle-timeout: a limit cannot be negative")
	}
	if err := agent.CheckProbe(o.Probe); err != nil {
		return fmt.Errorf("--%w", err)
	}
	return nil
}

func isSocketPath(path string) bool { return filepath.IsAbs(path) && len(path) <= maxSocketPath }

// unixPrefix marks the path of a Unix socket, in --local-api and in SPECPROXY_URL.
const unixPrefix = "unix:"

// maxSocketPath is how long a socket's path may be, sun_path less its final zero (unix(7)).
const maxSocketPath = 107

func (o Options) validateLocalAPI() error {
	if path, ok := strings.CutPrefix(o.LocalAPI, unixPrefix); ok {
		if !isSocketPath(path) {
			return fmt.Errorf("--local-api %q: write unix: and an absolute path of at most %d bytes, such as unix:/run/specproxy/agent.sock", o.LocalAPI, maxSocketPath)
		}
		return nil
	}
	if host, _, err := net.SplitHostPort(o.LocalAPI); err != nil || !isLoopback(host) {
		return fmt.Errorf("--local-api %q: write a loopback host:port, such as 127.0.0.1:0, or unix:/path: only the agent beside the sidecar may use it", o.LocalAPI)
	}
	return nil
}

func (o Options) validateAgent() error {
	switch {
	case len(o.Command) > 0 && o.Upstream != "":
		return errors.New("give either --upstream URL or -- COMMAND, not both: the sidecar starts the agent or finds it running")
	case len(o.Command) == 0 && o.Upstream == "":
		return errors.New("say how to reach the agent: -- COMMAND args starts it (it must listen on $PORT), --upstream http://127.0.0.1:8000 finds it running")
	case o.Upstream != "":
		_, err := agent.ParseEndpoint(o.Upstream)
		return err
	}
	_, err := agent.Resolve(o.Command[0])
	return err
}

func (o Options) validateIdentity() error {
	if err := o.Ref.Check(); err != nil {
		return fmt.Errorf("--spec %s: %w", o.Ref, err)
	}
	if o.Instance != "" {
		if err := execid.CheckInstance(o.Instance); err != nil {
			return fmt.Errorf("--instance: %w", err)
		}
	}
	if o.DrainTimeout < 0 {
		return fmt.Errorf("--drain-timeout %s: it cannot be negative", o.DrainTimeout)
	}
	if o.CacheDir == "" {
		return errors.New("--cache-dir is required where the user has no cache directory")
	}
	return nil
}

// dialing reads the files that the connection to the control plane needs.
func (o Options) dialing() (session.Dialing, error) {
	d := session.Dialing{MaxBackoff: o.Timing.MaxBackoff}
	if o.CAFile != "" {
		roots, err := certs.Roots("--ca", o.CAFile)
		if err != nil {
			return d, err
		}
		d.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	if o.TokenFile != "" {
		token, err := os.ReadFile(o.TokenFile)
		if err != nil {
			return d, fmt.Errorf("--token-file: %w", err)
		}
		if d.Token = strings.TrimSpace(string(token)); d.Token == "" {
			return d, fmt.Errorf("--token-file %s is empty", o.TokenFile)
		}
	}
	return d, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func isUnspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}
