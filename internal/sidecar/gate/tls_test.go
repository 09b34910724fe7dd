package gate_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/sidecar/certs"
	"github.com/specproxy/specproxy/internal/sidecar/certs/certstest"
	"github.com/specproxy/specproxy/internal/sidecar/gate"
)

// openTLS is a door with TLS, and how its clients speak to it.
func openTLS(t *testing.T, l gate.Limits) (*door, *tls.Config) {
	t.Helper()
	authority := certstest.New(t)
	cert, key := authority.Pair(t, certs.ServerName)
	k, err := certs.Open(certs.Files{Cert: cert, Key: key}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	d := openOver(t, l, func(l net.Listener) net.Listener { return tls.NewListener(l, k.Server()) })
	return d, authority.Client(t, certs.ServerName)
}

func TestTheSameIsServedAndRefusedOverTLS(t *testing.T) {
	d, config := openTLS(t, gate.Limits{})
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		transport := &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: proto == "HTTP/2.0"}
		res, err := (&http.Client{Transport: transport, Timeout: patience}).Post("https://"+d.addr+"/x", "text/plain", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		transport.CloseIdleConnections()
		if res.Proto != proto || res.StatusCode != http.StatusOK {
			t.Errorf("%s %s, want %s", res.Proto, res.Status, proto)
		}
	}
	d.nothingRefused()

	c := tls.Client(d.dial(), config)
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != http.StatusBadRequest {
		t.Errorf("two lengths are answered %v, %v", res, err)
	}
	d.counted(gate.Framing, 1)

	// Who agreed on HTTP/2 has to speak it.
	config.NextProtos = []string{"h2"}
	c = tls.Client(d.dial(), config)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, _ := io.ReadAll(c); len(answer) > 0 {
		t.Errorf("answered %q", answer)
	}
	d.counted(gate.HTTP2, 1)
}

func TestWhoDoesNotShakeHandsIsRefused(t *testing.T) {
	d, _ := openTLS(t, gate.Limits{HeaderTimeout: 100 * time.Millisecond})
	plain, slow, looks := d.dial(), d.dial(), d.dial()
	if _, err := io.WriteString(plain, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Write([]byte{22, 3, 1, 0, 200, 1}); err != nil { // the beginning of a ClientHello
		t.Fatal(err)
	}
	_ = looks.Close()
	for _, c := range []net.Conn{plain, slow} {
		if answer, _ := io.ReadAll(c); strings.Contains(string(answer), "HTTP/") {
			t.Errorf("answered %q", answer)
		}
	}
	d.counted(gate.TLS, 2)
	if n := d.refusals.Of(gate.TLS); n != 2 || len(d.reached()) > 0 {
		t.Errorf("%d are counted", n)
	}
}
