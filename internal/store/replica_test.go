package store_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
)

// named joins as a replica with a name and waits until it is a member.
func named(t *testing.T, address, name string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{Endpoints: []string{address}, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	member(t, s)
	return s
}

// member waits until the store is one and returns its id.
func member(t *testing.T, s *store.Store) string {
	t.Helper()
	for {
		id, changed := s.Self()
		if id != "" {
			return id
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatal("never became a member")
		}
	}
}

// until waits for a view.
func until(t *testing.T, s *store.Store, what string, ok func(*store.View) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		v := s.View()
		if ok(v) {
			return
		}
		if _, err := s.Wait(ctx, v.Revision()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// leads says who does, by name.
func leads(v *store.View) string {
	for _, r := range v.Replicas() {
		if r.Leader {
			return r.Name
		}
	}
	return ""
}

// office runs Lead until it is told to end, and tells when it leads.
type office struct {
	held  chan struct{} // one token each time that it begins to lead
	left  chan struct{} // and each time that it ends
	end   context.CancelFunc
	ended chan error
}

func stand(s *store.Store) *office {
	ctx, end := context.WithCancel(context.Background())
	o := &office{held: make(chan struct{}, 10), left: make(chan struct{}, 10), end: end, ended: make(chan error, 1)}
	go func() {
		o.ended <- s.Lead(ctx, func(ctx context.Context) error {
			o.held <- struct{}{}
			<-ctx.Done()
			o.left <- struct{}{}
			return ctx.Err()
		})
	}()
	return o
}

func TestOneReplicaLeadsAndAnotherFollowsIt(t *testing.T) {
	address, _ := etcd(t)
	wire := newWire(t, address)
	a, b := named(t, wire.address(), "a"), named(t, address, "b")
	first := stand(a)
	<-first.held
	second := stand(b)
	defer second.end()
	until(t, b, "a leads", func(v *store.View) bool { return len(v.Replicas()) == 2 && leads(v) == "a" })

	// What a told ends with its lease; b leads then, and a knows that it does not.
	id := member(t, a)
	if err := a.SaveAcks(t.Context(), id, []routing.Acks{{Spec: "s", Proxies: []routing.ProxyAck{{Node: "e", Generation: 3}}}}); err != nil {
		t.Fatal(err)
	}
	until(t, b, "what a told", func(v *store.View) bool { return len(v.Acks("s")) == 1 && v.Acks("s")[0].Replica == id })
	wire.cut()
	<-second.held
	<-first.left
	until(t, b, "a is dead", func(v *store.View) bool { return leads(v) == "b" && len(v.Replicas()) == 1 && len(v.Acks("")) == 0 })

	// It comes back as another member, and stands again.
	wire.mend()
	again := member(t, a)
	if again == id {
		t.Error("a is the same member as before, though it was taken for dead")
	}
	if err := a.SaveAcks(t.Context(), id, []routing.Acks{{Spec: "s"}}); err == nil {
		t.Error("it may still speak as the dead one")
	}
	until(t, b, "both", func(v *store.View) bool { return len(v.Replicas()) == 2 && leads(v) == "b" })
	second.end()
	if err := <-second.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the leader that was told to end: %v", err)
	}
	<-first.held // resigning hands over without waiting for a lease
	first.end()
	if err := <-first.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the next leader that was told to end: %v", err)
	}
}

func TestAReplicaThatClosesIsGoneAtOnce(t *testing.T) {
	address, _ := etcd(t)
	a := named(t, address, "a")
	b, err := store.Open(t.Context(), store.Options{Endpoints: []string{address}, Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	until(t, a, "both", func(v *store.View) bool { return len(v.Replicas()) == 2 })
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, a, "one", func(v *store.View) bool { return len(v.Replicas()) == 1 })
}

func TestWhatLeadsFailsWithItsError(t *testing.T) {
	address, _ := etcd(t)
	broken := errors.New("broken")
	if err := named(t, address, "a").Lead(t.Context(), func(context.Context) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("err = %v", err)
	}
}

func TestAnEtcdThatWantsCertificates(t *testing.T) {
	dir := t.TempDir()
	files := certificates(t, dir)
	c := embed.NewConfig()
	c.Dir = filepath.Join(dir, "etcd")
	c.ListenPeerUrls = nil
	c.ListenClientUrls = []url.URL{{Scheme: "https", Host: "127.0.0.1:0"}}
	c.ClientTLSInfo = transport.TLSInfo{CertFile: files.cert, KeyFile: files.key, TrustedCAFile: files.ca, ClientCertAuth: true}
	c.TickMs, c.ElectionMs = 10, 100
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	etcd, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	<-etcd.Server.ReadyNotify()
	address := "https://" + etcd.Clients[0].Addr().String()

	ca, err := os.ReadFile(files.ca)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	config.RootCAs.AppendCertsFromPEM(ca)
	brief, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if s, err := store.Open(brief, store.Options{Endpoints: []string{address}, TLS: config}); err == nil {
		s.Close()
		t.Error("a client without a certificate was let in")
	}
	pair, err := tls.LoadX509KeyPair(files.cert, files.key)
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{pair}
	s, err := store.Open(t.Context(), store.Options{Endpoints: []string{address}, TLS: config})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	update(t, s, func(tx *store.Tx) { tx.PutRoute(route("a", 1, "1.0.0")) })
	if !slices.Equal(s.View().Specs(), nil) {
		t.Errorf("specs: %v", s.View().Specs())
	}
}

type pemFiles struct{ ca, cert, key string }

// certificates writes a certificate for 127.0.0.1, for both ends, that is its own authority.
func certificates(t *testing.T, dir string) pemFiles {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := pemFiles{ca: filepath.Join(dir, "ca.pem"), cert: filepath.Join(dir, "ca.pem"), key: filepath.Join(dir, "key.pem")}
	for name, block := range map[string]*pem.Block{files.cert: {Type: "CERTIFICATE", Bytes: der}, files.key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files
}
