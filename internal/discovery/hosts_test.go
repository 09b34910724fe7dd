package discovery_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/specproxy/specproxy/internal/envoytest"
)

// hosts that no spec has, as an HTTP/1.1 Host or an HTTP/2 :authority.
var strangeHosts = []string{
	"", ":", ":80", " ", ".", "..", "nobody.agents", "customer-service.agents.", "CUSTOMER-SERVICE.AGENTS", "x.customer-service.agents", "*", "*.agents", "[::1]:80",
	"user@customer-service.agents", "customer-service.agents/x", "\x7f", "ä.agents", strings.Repeat("a", 5000),
}

// Whatever host a client asks for, Envoy answers or refuses it, and lives.
func TestStrangeHostsAreAnswered(t *testing.T) {
	spec, _, _ := twoVersions(t)
	cp := serve(t, newSource(spec), "", routeWait)
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	requests := []string{"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nHost: nobody.agents\r\n\r\n", "GET http://nobody.agents/ HTTP/1.1\r\nHost: customer-service.agents\r\n\r\n"}
	for _, host := range strangeHosts {
		requests = append(requests, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n", "POST / HTTP/1.1\r\nHost: "+host+"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
	}
	for _, request := range requests {
		conn := dialed(t, e)
		_, _ = io.WriteString(conn, request)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || res.StatusCode < 400 || res.StatusCode > 499 {
			t.Errorf("%.80q: %v, %v", request, res, err)
		}
		conn.Close()
	}
	for _, host := range append([]string{"(none)"}, strangeHosts...) {
		if status := overHTTP2(t, e, host); status != "reset" && !strings.HasPrefix(status, "4") {
			t.Errorf("HTTP/2, %.80q: %s", host, status)
		}
	}
	select {
	case <-e.Done():
		t.Fatal("Envoy has died")
	default:
	}
	served(t, e, shopHost)
}

func dialed(t *testing.T, e *envoytest.Envoy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", e.Address)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// overHTTP2 asks with an :authority that no client library would send, and returns the status, or "reset".
func overHTTP2(t *testing.T, e *envoytest.Envoy, host string) string {
	t.Helper()
	conn := dialed(t, e)
	defer conn.Close()
	_, _ = io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/"}, {Name: ":authority", Value: host}} {
		if f.Value != "(none)" {
			_ = encoder.WriteField(f)
		}
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return "reset"
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return "reset"
		}
	}
}
