package sidecar

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/sidecar/certs"
	"github.com/specproxy/specproxy/internal/sidecar/gate"
)

// listen opens the data path's door and the agent's API.
func (s *sidecar) listen(ctx context.Context) error {
	var err error
	if s.certs, err = certs.Open(s.TLS, s.Log); err != nil {
		return err
	}
	if s.data, err = s.openData(ctx); err != nil {
		return err
	}
	if s.api, err = s.open(ctx, "--local-api", s.LocalAPI); err != nil {
		return err
	}
	if path, ok := strings.CutPrefix(s.LocalAPI, unixPrefix); ok {
		// Whoever may use it can speak for the agent.
		if err := os.Chmod(path, 0o600); err != nil {
			return fmt.Errorf("--local-api %s: %w", s.LocalAPI, err)
		}
	}
	if s.Admin != "" {
		if s.admin, err = s.open(ctx, "--admin", s.Admin); err != nil {
			return err
		}
	}
	return nil
}

// openData opens --listen. With port 0 it takes the port that the sidecar before this one had, if it can: proxies that the control plane
// cannot reach now look for it there.
func (s *sidecar) openData(ctx context.Context) (l net.Listener, err error) {
	was := s.dir.listened()
	host, port, _ := net.SplitHostPort(s.Listen)
	if wasHost, _, err := net.SplitHostPort(was); port == "0" && err == nil && wasHost == host {
		var lc net.ListenConfig
		if l, err = lc.Listen(ctx, "tcp", was); err == nil {
			s.later(func() error { _ = l.Close(); return nil })
		}
	}
	if l == nil {
		if l, err = s.open(ctx, "--listen", s.Listen); err != nil {
			return nil, err
		}
	}
	address := addressOf(l)
	s.elsewhere = was != "" && was != address
	if s.Advertise == "" {
		s.Advertise = address
	}
	return l, s.dir.listens(address)
}

// open listens on host:port or unix:/path.
func (s *sidecar) open(ctx context.Context, flag, at string) (net.Listener, error) {
	network, address := "tcp", at
	if path, ok := strings.CutPrefix(at, unixPrefix); ok {
		network, address = "unix", path
		if err := removeStaleSocket(path); err != nil {
			return nil, fmt.Errorf("%s %s: %w", flag, at, err)
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w; choose another address", flag, at, err)
	}
	s.later(func() error { _ = l.Close(); return nil }) // its server has closed it as a rule
	return l, nil
}

// addressOf is host:port or unix:/path.
func addressOf(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return unixPrefix + l.Addr().String()
	}
	return l.Addr().String()
}

// dataListener is what the data path's server takes connections from.
func (s *sidecar) dataListener() net.Listener {
	l := s.data
	if config := s.certs.Server(); config != nil {
		l = tls.NewListener(l, config)
	}
	return gate.Listener(l, s.Limits, &s.refusals)
}

// transport is what callers are told of it, as a Hello has it.
func (s *sidecar) transport() string {
	switch {
	case s.TLS.ClientCA != "":
		return "mtls"
	case s.TLS.Listens():
		return "tls"
	}
	return ""
}

// warnElsewhere says that proxies which the control plane cannot reach do not find this sidecar.
func (s *sidecar) warnElsewhere() {
	if s.elsewhere {
		s.Log.Warn("the control plane is away and this sidecar listens elsewhere than the one before it, so proxies find it only when the control plane "+
			"is back; with a fixed port in --listen they would find it now", zap.String("advertise", s.Advertise))
	}
}

// removeStaleSocket removes a socket that an earlier process left and nobody listens on; anything else at the path is left alone.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("there is something that is no socket: choose another path")
	}
	if conn, err := net.Dial("unix", path); err == nil {
		return errors.Join(errors.New("another process listens there: choose another path"), conn.Close())
	}
	return os.Remove(path)
}
