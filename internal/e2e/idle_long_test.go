//go:build long

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// idleStreams over HTTP/1.1 are two connections each at the sidecar.
	idleStreams = 10_000
	// idleMemory is what docs/sidecar.md states for all of them together, in MiB of resident memory.
	idleMemory = 900
)

// TestLongTenThousandIdleStreamsStayUnderTheStatedMemory opens SSE streams on the sidecar as it is shipped, each with one event, and leaves them.
func TestLongTenThousandIdleStreamsStayUnderTheStatedMemory(t *testing.T) {
	streams := idleStreams
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	// Each process may open so many files; the sidecar needs two for each stream, and so does this one.
	if most := int(limit.Max)/2 - 200; most < streams {
		streams = most
	}
	binary := filepath.Join(t.TempDir(), "specproxy")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "../../cmd/specproxy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	agent := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: hello\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})}
	go func() { _ = agent.Serve(l) }()
	t.Cleanup(func() { agent.Close() })
	const spec = "idle"
	w := startPlane(t, nil)
	w.publish(spec, older, completeContract)
	address := freeAddress(t)
	p := start(t, nil, binary, "--control", w.grpc, "--spec", spec+":"+older, "--listen", address, "--upstream", "http://"+l.Addr().String(), "--cache-dir", t.TempDir())
	w.ready(spec, older, 1)
	before := resident(t, p.cmd.Process.Pid)
	for i := range streams {
		if err := openStream(t, address); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
	after := resident(t, p.cmd.Process.Pid)
	t.Logf("%d idle streams: %d MiB resident, %d MiB before; %d KiB each", streams, after>>20, before>>20, (after-before)>>10/streams)
	if most := idleMemory * streams / idleStreams; after>>20 > most {
		t.Errorf("%d idle streams take %d MiB, more than the %d MiB that are stated", streams, after>>20, most)
	}
}

// openStream waits for the first event.
func openStream(t *testing.T, address string) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: idle.agents\r\n\r\n"); err != nil {
		return err
	}
	in := bufio.NewReaderSize(conn, 1024)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.HasPrefix(line, "data: hello") {
			return nil
		}
		if strings.HasPrefix(line, "HTTP/1.1") && !strings.Contains(line, "200") {
			return errors.New(line)
		}
	}
}

// resident is a process's memory in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
