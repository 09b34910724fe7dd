package synthetic_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/synthetic"
)

// Who answers is told apart from what cannot be spoken to and from what fails.
func TestSend(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   synthetic.Met
		shut   bool
		err    string
	}{
		{"a sidecar by the rehearsal's route", func(w http.ResponseWriter, r *http.Request) {
			if r.Host != "refunds.agents" || r.Header.Get("X-Spec-Pin") != "secret" || r.Header.Get("X-Host") != "refunds.agents" || r.URL.Path != "/there" {
				t.Errorf("it asked %s for %s with %v", r.Host, r.URL, r.Header)
			}
			w.Header().Set("X-Spec-Version", "refunds:1.0.0")
			w.Header().Set("X-Spec-Rehearsal", "2")
			w.WriteHeader(http.StatusNoContent)
		}, synthetic.Met{Version: "refunds:1.0.0", Round: "2"}, false, ""},
		{"a sidecar by another route", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Spec-Version", "refunds:1.0.0")
			w.WriteHeader(http.StatusNoContent)
		}, synthetic.Met{Version: "refunds:1.0.0"}, false, ""},
		{"no pool behind it", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, synthetic.Met{}, false, "503"},
		{"no route in time", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestTimeout) }, synthetic.Met{}, false, "408"},
		{"authorization in front", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, synthetic.Met{}, true, "403"},
		{"a redirect is not followed", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/")
			w.WriteHeader(http.StatusFound)
		}, synthetic.Met{}, true, "302"},
		{"an agent", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Spec-Version", "refunds:1.0.0") }, synthetic.Met{}, true, "200"},
		{"nobody", nil, synthetic.Met{}, true, "refused"},
	} {
		address := closed.Addr().String()
		if c.answer != nil {
			server := httptest.NewServer(c.answer)
			t.Cleanup(server.Close)
			address = server.Listener.Addr().String()
		}
		met, err := synthetic.Send(t.Context(), synthetic.Route{
			Address: address, Path: "/there", Host: "refunds.agents", ScopeHeader: "X-Host", Pin: "secret",
			PinHeader: "x-spec-pin", VersionHeader: "x-spec-version", RoundHeader: "x-spec-rehearsal",
		})
		var shut *synthetic.Closed
		if met != c.want || errors.As(err, &shut) != c.shut || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, %v (closed: %t)", c.name, met, err, errors.As(err, &shut))
		}
	}
}

// What speaks TLS only is closed to us; that says nothing about it.
func TestSendToTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	_, err := synthetic.Send(t.Context(), synthetic.Route{Address: server.Listener.Addr().String(), Path: "/", PinHeader: "x-spec-pin", VersionHeader: "x-spec-version", RoundHeader: "r"})
	var shut *synthetic.Closed
	if !errors.As(err, &shut) {
		t.Errorf("%v", err)
	}
}
