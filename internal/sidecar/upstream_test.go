package sidecar_test

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/loopback"
)

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// await returns when something listens.
func await(t *testing.T, addr string) {
	t.Helper()
	for deadline := time.Now().Add(patience); refused(addr); {
		if time.Now().After(deadline) {
			t.Fatalf("nothing listens on %s", addr)
		}
	}
}

// serveAt is an agent that something else started.
func serveAt(t *testing.T, addr string) (stop func()) { return serveOn(t, "tcp", addr) }

func serveOn(t *testing.T, network, addr string) (stop func()) {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "upstream") })}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	stop = func() {
		_ = server.Close()
		<-done
	}
	t.Cleanup(stop)
	return stop
}
