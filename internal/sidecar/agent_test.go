package sidecar_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/specproxy/specproxy/internal/sidecar/agent"
)

// The test binary plays every process: the tests, the agent, its child, its guard, and a sidecar that can be killed.
func TestMain(m *testing.M) {
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	switch role {
	case "play-agent":
		os.Exit(playAgent())
	case "play-bystander":
		select {}
	case "play-guard":
		if err := agent.Guard(os.Stdin, os.Args[2:]...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "play-sidecar":
		os.Exit(playSidecar(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// seen are the signals that the agent got.
type seen struct {
	mu      sync.Mutex
	signals []string
	more    chan struct{}
}

// playAgent is an agent as an application would write it: it reads its spec from SPEC_DIR, listens on PORT and asks before it acts.
func playAgent() int {
	signals := &seen{more: make(chan struct{}, 16)}
	caught := make(chan os.Signal, 16)
	signal.Notify(caught, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGHUP)
	go func() {
		for s := range caught {
			signals.mu.Lock()
			signals.signals = append(signals.signals, s.String())
			signals.mu.Unlock()
			signals.more <- struct{}{}
		}
	}()
	release := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/about", about)
	mux.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
			_, _ = io.WriteString(w, "released")
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/release", func(http.ResponseWriter, *http.Request) { close(release) })
	mux.HandleFunc("/fail", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Spec-Outcome", `failure; reason="no"`) })
	mux.HandleFunc("/act", func(w http.ResponseWriter, r *http.Request) {
		body := fmt.Sprintf(`{"executionId":%q,"tool":"refund.issue","class":"irreversible","key":"r-1"}`, r.Header.Get("X-Execution-Id"))
		res, err := http.Post(os.Getenv("SPECPROXY_URL")+"/v1/effects", "application/json", strings.NewReader(body))
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		defer res.Body.Close()
		w.WriteHeader(res.StatusCode)
		_, _ = io.Copy(w, res.Body)
		w.(http.Flusher).Flush()
		if r.FormValue("stay") != "" {
			<-r.Context().Done()
		}
	})
	mux.HandleFunc("/signals", func(w http.ResponseWriter, _ *http.Request) {
		<-signals.more
		signals.mu.Lock()
		defer signals.mu.Unlock()
		_ = json.NewEncoder(w).Encode(signals.signals)
	})
	mux.HandleFunc("/spawn", func(w http.ResponseWriter, _ *http.Request) {
		child := exec.Command(os.Args[0], "play-bystander")
		if err := child.Start(); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode([]int{os.Getpid(), child.Process.Pid})
	})
	mux.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		os.Exit(code)
	})
	err := http.ListenAndServe(net.JoinHostPort("127.0.0.1", os.Getenv("PORT")), mux)
	fmt.Fprintln(os.Stderr, "agent:", err)
	return 1
}

// aboutAgent is what the agent found when it started.
type aboutAgent struct {
	Version, Digest, URL, Dir string
	Files                     map[string]string
	Writable                  []string
	Headers                   http.Header
}

func about(w http.ResponseWriter, r *http.Request) {
	a := aboutAgent{
		Version: os.Getenv("SPEC_VERSION"), Digest: os.Getenv("SPEC_DIGEST"), URL: os.Getenv("SPECPROXY_URL"), Dir: os.Getenv("SPEC_DIR"),
		Files: map[string]string{}, Headers: r.Header,
	}
	_ = filepath.Walk(a.Dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(a.Dir, path)
		if info.Mode().Perm()&0o222 != 0 {
			a.Writable = append(a.Writable, name)
		}
		if !info.IsDir() {
			data, err := os.ReadFile(path)
			a.Files[name] = string(bytes.TrimSpace(data))
			return err
		}
		return nil
	})
	_ = json.NewEncoder(w).Encode(a)
}
