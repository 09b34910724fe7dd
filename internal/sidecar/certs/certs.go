// Package certs keeps a sidecar's TLS: the certificate that it shows, and whom it believes.
//
// Invariants:
//   - files that have changed are in force for the next handshake, at most a second later, without a restart;
//   - files that cannot be used change nothing: what was in force stays, and the reason is logged once;
//   - the callee of every handshake is a sidecar: its certificate carries ServerName.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// ServerName is the DNS name in every sidecar's certificate: callers know sidecars by addresses that come and go.
const ServerName = "specproxy-sidecar"

// lookEvery is how often files are looked at, if there are handshakes at all.
const lookEvery = time.Second

// Files are PEM files; empty ones are not there.
type Files struct {
	// Cert and Key are shown to callers, and to other sidecars that want a certificate. Both or none.
	Cert, Key string
	// ClientCA vouches for callers, which then must show a certificate.
	ClientCA string
	// PeerCA vouches for other sidecars; empty: ClientCA does.
	PeerCA string
}

// Check says which file is missing.
func (f Files) Check() error {
	switch {
	case (f.Cert == "") != (f.Key == ""):
		return errors.New("--tls-cert and --tls-key go together")
	case f.ClientCA != "" && f.Cert == "":
		return errors.New("--tls-client-ca: a sidecar asks for certificates only where it shows one: give --tls-cert and --tls-key too")
	}
	return nil
}

// Listens says that requests are taken over TLS.
func (f Files) Listens() bool { return f.Cert != "" }

// Keeper holds what is in the files. It may be used from many goroutines.
type Keeper struct {
	files Files
	log   *zap.Logger
	now   func() time.Time

	mu     sync.Mutex
	looked time.Time
	stamps map[string]stamp
	server *tls.Config // nil: requests are taken plainly
	client *tls.Config // nil: nobody vouches for other sidecars
}

// stamp tells one content of a file from another.
type stamp struct {
	size int64
	at   time.Time
}

// Open reads the files.
func Open(f Files, log *zap.Logger) (*Keeper, error) {
	k := &Keeper{files: f, log: log, now: time.Now}
	k.looked, k.stamps = k.now(), k.look()
	var err error
	k.server, k.client, err = f.read()
	return k, err
}

// Server is how requests are taken over TLS, HTTP/2 and HTTP/1.1 by ALPN; nil: they are not.
func (k *Keeper) Server() *tls.Config {
	if !k.files.Listens() {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			server, _ := k.current()
			return server, nil
		},
	}
}

// Client is how another sidecar is spoken to that takes requests over TLS.
func (k *Keeper) Client() (*tls.Config, error) {
	if _, client := k.current(); client != nil {
		return client, nil
	}
	return nil, errors.New("nobody vouches for sidecars that take requests over TLS: give --tls-peer-ca")
}

// current is what the files say now, or said when they last made sense.
func (k *Keeper) current() (server, client *tls.Config) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if now.Sub(k.looked) < lookEvery {
		return k.server, k.client
	}
	k.looked = now
	stamps, changed := k.look(), false
	for name, s := range stamps {
		changed = changed || k.stamps[name] != s
	}
	if !changed {
		return k.server, k.client
	}
	k.stamps = stamps
	server, client, err := k.files.read()
	if err != nil {
		k.log.Error("changed TLS files cannot be used; what they held before stays in force", zap.Error(err))
		return k.server, k.client
	}
	k.server, k.client = server, client
	k.log.Info("changed TLS files are in force")
	return k.server, k.client
}

func (k *Keeper) look() map[string]stamp {
	stamps := map[string]stamp{}
	for _, name := range []string{k.files.Cert, k.files.Key, k.files.ClientCA, k.files.PeerCA} {
		if info, err := os.Stat(name); err == nil {
			stamps[name] = stamp{info.Size(), info.ModTime()}
		}
	}
	return stamps
}

// read makes the configurations that the files stand for.
func (f Files) read() (server, client *tls.Config, err error) {
	var own []tls.Certificate
	if f.Listens() {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, nil, fmt.Errorf("--tls-cert %s, --tls-key %s: %w", f.Cert, f.Key, err)
		}
		if err := pair.Leaf.VerifyHostname(ServerName); err != nil {
			return nil, nil, fmt.Errorf("--tls-cert %s: callers would refuse it, make one with the DNS name %s: %w", f.Cert, ServerName, err)
		}
		own = []tls.Certificate{pair}
		server = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: own, NextProtos: []string{"h2", "http/1.1"}}
	}
	if f.ClientCA != "" {
		if server.ClientCAs, err = Roots("--tls-client-ca", f.ClientCA); err != nil {
			return nil, nil, err
		}
		server.ClientAuth = tls.RequireAndVerifyClientCert
		server.SessionTicketsDisabled = true // every handshake is to see the authorities of its day
	}
	peers, roots := "--tls-peer-ca", f.PeerCA
	if roots == "" {
		peers, roots = "--tls-client-ca", f.ClientCA
	}
	if roots == "" {
		return server, nil, nil
	}
	client = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: own, ServerName: ServerName}
	if client.RootCAs, err = Roots(peers, roots); err != nil {
		return nil, nil, err
	}
	return server, client, nil
}

// Roots reads PEM certificates from the file that a flag names.
func Roots(flag, file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s %s: there is no PEM certificate in it", flag, file)
	}
	return roots, nil
}
