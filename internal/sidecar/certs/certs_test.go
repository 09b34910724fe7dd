package certs_test

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/sidecar/certs"
	"github.com/specproxy/specproxy/internal/sidecar/certs/certstest"
)

const patience = time.Minute

// serve echoes over TLS and returns where.
func serve(t *testing.T, k *certs.Keeper) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for secured := tls.NewListener(l, k.Server()); ; {
			c, err := secured.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// echo says something and wants it back; it returns the serial number of the server's certificate.
func echo(at string, config *tls.Config) (serial int64, err error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", at, config)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		return 0, err
	}
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !check(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("in vain: " + what)
		}
	}
}

func TestChangedFilesAreInForceWithoutARestart(t *testing.T) {
	a := certstest.New(t)
	certFile, keyFile := a.Pair(t, certs.ServerName)
	k, err := certs.Open(certs.Files{Cert: certFile, Key: keyFile, ClientCA: a.File}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	at, client := serve(t, k), a.Client(t, certs.ServerName)
	if serial, err := echo(at, client); err != nil || serial != 2 {
		t.Fatalf("serial %d, %v", serial, err)
	}
	a.Issue(t, certFile, keyFile, certs.ServerName, 3)
	eventually(t, "the new certificate", func() bool { serial, err := echo(at, client); return err == nil && serial == 3 })

	// What cannot be used changes nothing.
	if err := os.WriteFile(certFile, []byte("half a certifi"), 0o600); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		if serial, err := echo(at, client); err != nil || serial != 3 {
			t.Fatalf("serial %d, %v", serial, err)
		}
	}

	// Another authority for callers: who came by the old one is refused, who comes by the new one is not.
	b := certstest.New(t)
	b.Issue(t, certFile, keyFile, certs.ServerName, 4)
	raw, err := os.ReadFile(b.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.File, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	theirs := b.Client(t, certs.ServerName)
	eventually(t, "the new authority", func() bool { serial, err := echo(at, theirs); return err == nil && serial == 4 })
	client.RootCAs = theirs.RootCAs
	if _, err := echo(at, client); err == nil {
		t.Error("a caller of the old authority's is let in")
	}
	theirs.Certificates = nil
	if _, err := echo(at, theirs); err == nil {
		t.Error("a caller without a certificate is let in")
	}
	peers, err := k.Client()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := echo(at, peers); err != nil {
		t.Errorf("a sidecar does not get through to its like: %v", err)
	}
}

func TestFilesThatCannotBeUsedAreNamed(t *testing.T) {
	a := certstest.New(t)
	certFile, keyFile := a.Pair(t, certs.ServerName)
	other, otherKey := a.Pair(t, "somebody.else")
	for _, c := range []struct {
		files certs.Files
		want  string
	}{
		{certs.Files{Cert: certFile}, "--tls-key"},
		{certs.Files{ClientCA: a.File}, "--tls-cert"},
		{certs.Files{Cert: certFile, Key: otherKey}, "--tls-key " + otherKey},
		{certs.Files{Cert: other, Key: otherKey}, "specproxy-sidecar"},
		{certs.Files{Cert: certFile, Key: keyFile, ClientCA: keyFile}, "no PEM certificate"},
		{certs.Files{PeerCA: "/nowhere"}, "--tls-peer-ca"},
	} {
		err := c.files.Check()
		if err == nil {
			_, err = certs.Open(c.files, zap.NewNop())
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want it to name %s", c.files, err, c.want)
		}
	}
	k, err := certs.Open(certs.Files{}, zap.NewNop())
	if err != nil || k.Server() != nil {
		t.Errorf("without files requests are taken over TLS, or %v", err)
	}
	if _, err := k.Client(); err == nil || !strings.Contains(err.Error(), "--tls-peer-ca") {
		t.Errorf("%v", err)
	}
}
