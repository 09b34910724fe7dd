package auth_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/auth"
)

func TestReadable(t *testing.T) {
	const good, other = "a-token-of-enough-letters", "another-token-of-enough-letters"
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	open := auth.Readable(page, true, []string{"xds.internal"})
	closed := auth.Readable(page, false, []string{"xds.internal"}, auth.Token{}, auth.NewToken(other), auth.NewToken(good))
	for _, c := range []struct {
		name    string
		handler http.Handler
		host    string
		header  [2]string
		want    int
	}{
		{"open, by address", open, "127.0.0.1:18080", [2]string{}, 204},
		{"open, by a listed name", open, "xds.internal:18080", [2]string{}, 204},
		{"open, by a name that somebody else may serve", open, "evil.example", [2]string{}, 403},
		{"open, from another site's page", open, "127.0.0.1:18080", [2]string{"Origin", "http://evil.example"}, 403},
		{"closed, no token", closed, "10.0.0.1:18080", [2]string{}, 401},
		{"closed, wrong token", closed, "10.0.0.1:18080", [2]string{"Authorization", "Bearer wrong"}, 401},
		{"closed, empty token", closed, "10.0.0.1:18080", [2]string{"Authorization", "Bearer "}, 401},
		{"closed, first token", closed, "10.0.0.1:18080", [2]string{"Authorization", "Bearer " + other}, 204},
		{"closed, second token", closed, "10.0.0.1:18080", [2]string{"Authorization", "Bearer " + good}, 204},
		{"closed, no token, after somebody had one", closed, "10.0.0.1:18080", [2]string{}, 401},
		{"closed, token, wrong name", closed, "evil.example", [2]string{"Authorization", "Bearer " + good}, 403},
	} {
		r := httptest.NewRequest(http.MethodGet, "http://"+c.host+"/metrics", nil)
		if c.header[0] != "" {
			r.Header.Set(c.header[0], c.header[1])
		}
		w := httptest.NewRecorder()
		c.handler.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s: %d, want %d: %s", c.name, w.Code, c.want, w.Body)
		}
	}
}

func TestCheckLocal(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "localhost:9901", "[::1]:9901"} {
		if err := auth.CheckLocal("admin", address); err != nil {
			t.Error(err)
		}
	}
	for _, address := range []string{":9901", "0.0.0.0:9901", "10.0.0.1:9901", "host.example:1", "127.0.0.1"} {
		if err := auth.CheckLocal("admin", address); err == nil || !strings.Contains(err.Error(), "--admin") {
			t.Errorf("%s: %v", address, err)
		}
	}
}
