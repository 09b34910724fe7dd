package webhook_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/webhook"
)

// A secret is written as receivers take it, and a signature covers the time.
func TestSecretAndSignature(t *testing.T) {
	c := webhook.New([]byte("\x30\x31\x32\x33\x34\x35\x36\x37\x38\x39\x61\x62\x63\x64\x65\x66\x30\x31\x32\x33\x34\x35\x36\x37"))
	if got := c.Secret(); got != "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3" {
		t.Errorf("secret %s", got)
	}
	a, b := c.Sign("msg_1", time.Unix(1614265330, 0), []byte(`{"test": 1}`)), c.Sign("msg_1", time.Unix(1614265331, 0), []byte(`{"test": 1}`))
	if !strings.HasPrefix(a, "v1,") || a == b || len(a) != len("v1,")+44 {
		t.Errorf("%s, %s", a, b)
	}
}

func TestOnlyAnAnswerIsAnAnswer(t *testing.T) {
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		case "/moved":
			http.Redirect(w, r, "/good", http.StatusTemporaryRedirect)
		case "/torn":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{"result":`)
		case "/good":
			fmt.Fprint(w, `{"result": "pass"}`)
		default:
			http.NotFound(w, r)
		}
	}))
	defer s.Close()
	defer close(hang)
	c := webhook.New([]byte("key"))
	for path, want := range map[string]string{
		"/slow": "no answer in time", "/moved": "answered 307", "/torn": "unexpected EOF", "/nowhere": "answered 404", "/good": "",
	} {
		timeout := time.Minute
		if path == "/slow" {
			timeout = 20 * time.Millisecond
		}
		var answer struct{ Result string }
		err := c.Post(t.Context(), s.URL+path, "1", timeout, map[string]int{"a": 1}, &answer)
		if want == "" && (err != nil || answer.Result != "pass") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, %v", path, err, answer)
		}
		if err != nil && strings.Contains(err.Error(), path) {
			t.Errorf("the error tells the URL: %v", err)
		}
	}
}
