package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/routing/envoy"
	"github.com/specproxy/specproxy/internal/sidecar/certs"
	"github.com/specproxy/specproxy/internal/sidecar/certs/certstest"
)

// secured is a sidecar's arguments for TLS, by a certificate of the authority's; callers must show one too.
func secured(t *testing.T, a *certstest.Authority) []string {
	t.Helper()
	cert, key := a.Pair(t, certs.ServerName)
	return []string{"--tls-cert", cert, "--tls-key", key, "--tls-client-ca", a.File}
}

// TestSidecarsWithTLS moves a pool from plain HTTP to mutual TLS and back, under traffic of all kinds, one sidecar after the other.
func TestSidecarsWithTLS(t *testing.T) {
	const spec = "shop"
	if envoy.SidecarName != certs.ServerName {
		t.Fatal("Envoy asks for another name than sidecars have")
	}
	authority := certstest.New(t)
	cert, key := authority.Pair(t, "envoy")
	w := startPlane(t, nil)
	f := newFlips()
	plainAgent, securedAgent := startAgent(t, older, f), startAgent(t, older, f)
	w.publish(spec, older, completeContract)
	plain := w.sidecar(spec+":"+older, plainAgent.url)
	w.ready(spec, older, 1)
	w.deploy(spec, older)
	edge := envoytest.Start(t, envoytest.Config{Servers: []string{w.grpc}, Sidecars: &envoy.BootstrapTLS{CA: authority.File, Cert: cert, Key: key}})
	unable := envoytest.Start(t, envoytest.Config{Node: "unable", Servers: []string{w.grpc}})
	tr := newTraffic(t, spec+".agents", edge.Address, f, func(int, int) []string { return []string{older} })
	tr.warm(t)
	newTraffic(t, spec+".agents", unable.Address, f, nil).warm(t)
	end := tr.begin(100)
	defer end()

	// Both at once: the one as the other gets its part.
	at := freeAddress(t)
	moved := w.sidecar(spec+":"+older, securedAgent.url, append(secured(t, authority), "--listen", at)...)
	w.ready(spec, older, 2)
	reaches := func(what string, a *agent) {
		t.Helper()
		before := len(a.ids())
		eventually(t, "requests of every kind "+what, func() error {
			f.add()
			if n := len(a.ids()) - before; n < 3*len(kinds) {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	}
	reaches("over TLS", securedAgent)
	reaches("in plain text beside it", plainAgent)
	plain.terminate()
	w.ready(spec, older, 1)
	reaches("over TLS alone", securedAgent)

	// An Envoy that was given no authority says so, and is not made to speak plainly to a sidecar with TLS.
	eventually(t, "refusal of the Envoy without an authority", func() error {
		if out, _ := w.specctl("proxies"); !strings.Contains(out, envoy.SecretSidecars) {
			return fmt.Errorf("%s", out)
		}
		return nil
	})

	// Back again, as when the certificates' maker is away.
	w.sidecar(spec+":"+older, plainAgent.url)
	w.ready(spec, older, 2)
	moved.terminate()
	w.ready(spec, older, 1)
	reaches("in plain text again", plainAgent)
	end()
	tr.report(t)
}

// TestASidecarWithTLSPassesWorkOnToItsLike asks a fenced one past Envoy, over both versions of HTTP.
func TestASidecarWithTLSPassesWorkOnToItsLike(t *testing.T) {
	const spec = "shop"
	authority := certstest.New(t)
	w := startPlane(t, nil)
	address := map[string]string{older: freeAddress(t), newer: freeAddress(t)}
	for _, v := range []string{older, newer} {
		w.publish(spec, v, completeContract)
		w.sidecar(spec+":"+v, says(t, v), append(secured(t, authority), "--listen", address[v])...)
		w.ready(spec, v, 1)
	}
	w.deploy(spec, older)
	w.deploy(spec, newer)
	ask := func(config *tls.Config, http2 bool) (string, error) {
		transport := &http.Transport{TLSClientConfig: config.Clone(), Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP1(!http2)
		transport.Protocols.SetHTTP2(http2)
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address[newer], strings.NewReader("body"))
		if err != nil {
			return "", err
		}
		res, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		if res.ProtoMajor == 2 != http2 {
			t.Errorf("answered by %s", res.Proto)
		}
		body, err := io.ReadAll(res.Body)
		return string(body), err
	}
	known := authority.Client(t, certs.ServerName)
	for _, http2 := range []bool{false, true} {
		if got, err := ask(known, http2); err != nil || got != newer {
			t.Errorf("HTTP/2 %t: %q, %v", http2, got, err)
		}
	}
	w.rollback(spec)
	for _, http2 := range []bool{false, true} {
		if got, err := ask(known, http2); err != nil || got != older {
			t.Errorf("HTTP/2 %t: the fenced sidecar passes work on to %q, %v", http2, got, err)
		}
	}
	stranger := known.Clone()
	stranger.Certificates = nil
	if got, err := ask(stranger, false); err == nil {
		t.Errorf("a caller without a certificate gets %q", got)
	}
	res, err := http.Get("http://" + address[newer])
	if err == nil {
		res.Body.Close()
		t.Errorf("a plain request is answered: %s", res.Status)
	}
}
