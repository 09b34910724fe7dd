package registry_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/registrytest"
)

// bcrypt, at its lowest cost, of "secret" and "renewed".
const (
	secretLine  = "ci:$2a$04$6KVUJHjt50jX/v96smRJBumi8Q6LxT6tkFjiATjp39Yl3Yhn.HiMe\n"
	renewedLine = "ci:$2a$04$FTUCPG3in96PpfUg5BYMiOPmrfMG1oUuUl.tFnnLDtlUVeauyDda.\n"
)

// login writes a Docker configuration, and makes it the one that is found.
func login(t *testing.T, host, password string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	auths := map[string]any{}
	if password != "" {
		auths[host] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("ci:" + password))}
	}
	data, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCredentialsComeFromTheDockerConfiguration(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{Htpasswd: secretLine})
	p := pack(t, "1.0.0", "be kind")
	for password, want := range map[string]string{
		"":      "the Docker configuration has none for " + r.Host + ": docker login " + r.Host,
		"wrong": "it refuses the credentials that the Docker configuration has for " + r.Host,
	} {
		login(t, r.Host, password)
		var away *archive.Unreachable
		if err := open(t, r.Host, 0).Put(t.Context(), p); !errors.As(err, &away) || !strings.Contains(err.Error(), want) {
			t.Errorf("password %q: %v, want %q", password, err, want)
		}
	}
	login(t, r.Host, "secret")
	a := open(t, r.Host, 0)
	put(t, a, p)
	checkHolds(t, open(t, r.Host, 0), p)

	// The password is renewed, on both sides, while the program runs.
	r.Stop()
	renewed := registrytest.Start(t, registrytest.Options{Htpasswd: renewedLine, Dir: r.Dir, Host: r.Host})
	login(t, renewed.Host, "renewed")
	put(t, a, pack(t, "1.1.0", "be brief"))
}

// tokenServer demands bearer tokens before a registry and gives out such as serve only so many requests, then counts as expired.
type tokenServer struct {
	mu     sync.Mutex
	host   string
	uses   int
	left   map[string]int
	issued int
}

func (s *tokenServer) before(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path == "/token" {
		if user, password, ok := r.BasicAuth(); !ok || user != "ci" || password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		s.issued++
		token := fmt.Sprintf("token-%d", s.issued)
		s.left[token] = s.uses
		_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300}) // it will be wrong about that
		return true
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if s.left[token] > 0 {
		s.left[token]--
		r.Header.Del("Authorization")
		return false
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="tests",scope="repository:%s:pull,push"`, s.host, repository))
	w.WriteHeader(http.StatusUnauthorized)
	return true
}

func TestTokensThatExpireAreRenewed(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	proxy := registrytest.StartProxy(t, r.Host)
	tokens := &tokenServer{host: proxy.Host, uses: 3, left: map[string]int{}}
	proxy.Before(tokens.before)
	login(t, proxy.Host, "secret")
	a, p, q := open(t, proxy.Host, 0), pack(t, "1.0.0", "be kind"), pack(t, "1.1.0", "be brief")
	put(t, a, p, q)
	b := open(t, proxy.Host, 0)
	checkHolds(t, b, p)
	if held, err := b.Held(t.Context()); err != nil || len(held) != 2 {
		t.Errorf("holds %v, %v", held, err)
	}
	tokens.mu.Lock()
	defer tokens.mu.Unlock()
	if tokens.issued < 5 {
		t.Errorf("only %d tokens were asked for: none can have expired in use", tokens.issued)
	}
}
