package drain_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/bench/drain"
)

// A stream that is refused is an error that says so, and not a wait for a signal that never comes.
func TestClientSaysThatAStreamWasRefused(t *testing.T) {
	gone := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-gone }))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 10}
	server.Start()
	defer server.Close()
	defer close(gone)
	var out strings.Builder
	address := strings.TrimPrefix(server.URL, "http://")
	if err := drain.Child(t.Context(), []string{"client", "true", "30", address}, strings.NewReader(""), &out); err != nil {
		t.Fatal(err)
	}
	if said := out.String(); !strings.HasPrefix(said, "open\n") || !strings.Contains(said, "REFUSED_STREAM") || !strings.Contains(said, "--max-streams") {
		t.Errorf("the client said %q", said)
	}
}

// What ends without the signal is told of over HTTP/1.1 as well.
func TestClientSaysWhatItGotInsteadOfTheSignal(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusTeapot)
	}))
	defer server.Close()
	var out strings.Builder
	if err := drain.Child(t.Context(), []string{"client", "false", "3", strings.TrimPrefix(server.URL, "http://")}, strings.NewReader(""), &out); err != nil {
		t.Fatal(err)
	}
	if said := out.String(); !strings.Contains(said, "418") {
		t.Errorf("the client said %q", said)
	}
}
