package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/specproxy/specproxy/internal/store"
)

// openStore starts or joins etcd; grpc is where this process listens.
func (o Options) openStore(ctx context.Context, grpc net.Addr) (*store.Store, error) {
	secure, err := o.etcdTLS()
	if err != nil {
		return nil, &UsageError{err}
	}
	return store.Open(ctx, store.Options{
		DataDir: o.DataDir, Endpoints: o.EtcdEndpoints, TLS: secure, Name: o.replica(grpc), Log: o.Log.Named("store"),
	})
}

// etcdTLS is how the etcd cluster is spoken to; nil: without TLS, or there is none.
func (o Options) etcdTLS() (*tls.Config, error) {
	secure := slices.ContainsFunc(o.EtcdEndpoints, func(e string) bool { return strings.HasPrefix(e, "https://") })
	switch files := o.EtcdCA + o.EtcdCert + o.EtcdKey; {
	case (o.EtcdCert == "") != (o.EtcdKey == ""):
		return nil, errors.New("--etcd-cert and --etcd-key go together")
	case files != "" && len(o.EtcdEndpoints) == 0:
		return nil, errors.New("--etcd-ca, --etcd-cert and --etcd-key are for --etcd-endpoints, and none is given")
	case files != "" && !secure:
		return nil, errors.New("--etcd-endpoints are not https:// URLs, so --etcd-ca, --etcd-cert and --etcd-key would not be used; write https://HOST:PORT")
	case !secure:
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.EtcdCA != "" {
		pem, err := os.ReadFile(o.EtcdCA)
		if err != nil {
			return nil, fmt.Errorf("--etcd-ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--etcd-ca %s holds no PEM certificate", o.EtcdCA)
		}
	}
	if o.EtcdCert == "" {
		return config, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(o.EtcdCert, o.EtcdKey)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cert and --etcd-key: %w", err)
		}
		return &pair, nil
	}
	// Short-lived certificates are replaced while this process runs.
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	_, err := load()
	return config, err
}

// replica is this process's name; grpc is where it listens.
func (o Options) replica(grpc net.Addr) string {
	if o.Replica != "" {
		return o.Replica
	}
	_, port, err := net.SplitHostPort(grpc.String())
	host, nameless := os.Hostname()
	if err != nil || nameless != nil {
		return grpc.String()
	}
	return net.JoinHostPort(host, port)
}
