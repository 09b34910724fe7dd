// Package registrytest starts a real OCI registry for tests, and a proxy before it that can be made to lie, stall and forget.
//
// Invariants: everything listens on loopback and on ports the system chooses; what a test started has ended when the test has; a test
// without a registry fails and says how to get one, it is never skipped.
package registrytest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// startTimeout bounds the wait for a process that takes about 50 ms to listen.
const startTimeout = time.Minute

// Registry is a running process.
type Registry struct {
	// Host is its host:port.
	Host string
	// Dir holds its storage and configuration.
	Dir string

	program string
	cmd     *exec.Cmd
	drained chan struct{}
	stop    sync.Once
}

// Options of a registry.
type Options struct {
	// Htpasswd is the content of its password file (bcrypt); empty: everybody may.
	Htpasswd string
	// Dir is where it keeps everything; empty: a new directory.
	Dir string
	// Host to listen on; empty: any port of loopback.
	Host string
}

// Tool finds an executable that `make` installs: .tools/bin/NAME in this repository. The test fails without it.
func Tool(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		candidate := filepath.Join(dir, ".tools", "bin", name)
		if info, err := os.Stat(candidate); err == nil && info.Mode()&0o111 != 0 {
			return candidate
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatalf("this test needs .tools/bin/%s: run make oci-tools", name)
		}
		dir = parent
	}
}

// Start runs a registry until the test ends.
func Start(t testing.TB, o Options) *Registry {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Host == "" {
		o.Host = "127.0.0.1:0"
	}
	r := &Registry{Dir: o.Dir, program: Tool(t, "registry"), drained: make(chan struct{})}
	if err := os.WriteFile(r.config(), []byte(configuration(o)), 0o600); err != nil {
		t.Fatal(err)
	}
	if o.Htpasswd != "" {
		if err := os.WriteFile(filepath.Join(o.Dir, "htpasswd"), []byte(o.Htpasswd), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.cmd = exec.Command(r.program, "serve", r.config())
	r.cmd.Env = []string{"OTEL_TRACES_EXPORTER=none", "HOME=" + o.Dir}
	r.cmd.SysProcAttr = dieWithParent()
	out, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	host := make(chan string, 1)
	go r.read(out, host)
	select {
	case r.Host = <-host:
	case <-time.After(startTimeout):
	}
	if r.Host == "" {
		t.Fatalf("the registry does not listen; its configuration is\n%s", configuration(o))
	}
	return r
}

func (r *Registry) config() string { return filepath.Join(r.Dir, "config.yml") }

func configuration(o Options) string {
	c := fmt.Sprintf(`version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
  maintenance: {uploadpurging: {enabled: false}}
http: {addr: %q, secret: "only for tests"}
`, filepath.Join(o.Dir, "storage"), o.Host)
	if o.Htpasswd != "" {
		c += fmt.Sprintf("auth: {htpasswd: {realm: tests, path: %q}}\n", filepath.Join(o.Dir, "htpasswd"))
	}
	return c
}

var listening = regexp.MustCompile(`listening on (\S+?:\d+)`)

// read waits for the address in the log, and takes the rest so that the process never blocks on it.
func (r *Registry) read(log io.Reader, host chan<- string) {
	defer close(r.drained)
	defer close(host)
	lines := bufio.NewScanner(log)
	found := false
	for lines.Scan() {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil && !found {
			found = true
			host <- m[1]
		}
	}
}

// Stop ends the process; it may be repeated.
func (r *Registry) Stop() {
	r.stop.Do(func() {
		_ = r.cmd.Process.Kill() // an error means that it has ended
		<-r.drained
		_ = r.cmd.Wait()
	})
}

// CollectGarbage deletes what no tag keeps, as operators of registries do by night, and returns what the collector said. The registry must be
// stopped, or idle.
func (r *Registry) CollectGarbage(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, r.program, "garbage-collect", "--delete-untagged", r.config()).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("garbage-collect: %w\n%s", err, out)
	}
	return string(out), nil
}

// Blob is the file in which the registry keeps a blob or an image manifest.
func (r *Registry) Blob(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return filepath.Join(r.Dir, "storage", "docker", "registry", "v2", "blobs", "sha256", hex[:2], hex, "data")
}
