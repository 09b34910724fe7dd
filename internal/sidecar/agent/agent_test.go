package agent_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/specproxy/specproxy/internal/sidecar/agent"
)

const patience = time.Minute

// The test binary plays the agent's guard, the agent, and a parent that can be killed.
func TestMain(m *testing.M) {
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	switch role {
	case "play-guard":
		if err := agent.Guard(os.Stdin, os.Args[2:]...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "play-stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Fprintln(os.Stdout, os.Getpid())
		select {}
	case "play-parent":
		playParent()
	}
	os.Exit(m.Run())
}

func guard() []string { return []string{os.Args[0], "play-guard"} }

// shell starts a command line whose output the test reads.
func shell(t *testing.T, script string) (*agent.Process, func() string) {
	t.Helper()
	return start(t, "sh", "-c", script)
}

func start(t *testing.T, args ...string) (*agent.Process, func() string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	t.Cleanup(func() { _ = r.Close() })
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	p, err := agent.Start(agent.Command{Args: args, Env: os.Environ(), Stdout: w, Stderr: os.Stderr, Guard: guard()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(syscall.SIGKILL, patience) })
	in := bufio.NewReader(r)
	return p, func() string {
		t.Helper()
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("the agent's output: %v", err)
		}
		return strings.TrimSpace(line)
	}
}

func done(t *testing.T, p *agent.Process) error {
	t.Helper()
	select {
	case <-p.Done():
		return p.Err()
	case <-time.After(patience):
		t.Fatal("the agent does not end")
		return nil
	}
}

// dead waits until a process is gone that is no child of this one.
func dead(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000); n == 1 || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
	t.Errorf("process %d lives on", pid)
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestExitStatus(t *testing.T) {
	for script, want := range map[string]int{"exit 7": 7, "exit 0": 1, "kill -9 $$": 137} {
		p, _ := shell(t, script)
		var exit *agent.ExitError
		if err := done(t, p); !errors.As(err, &exit) || exit.Code() != want {
			t.Errorf("%s: %v", script, err)
		}
	}
}

func TestWhatTheAgentStartedEndsWithIt(t *testing.T) {
	p, line := shell(t, "sleep 600 & echo $!; sleep 600 & echo $!; exit 3")
	first, second := number(t, line()), number(t, line())
	_ = done(t, p)
	dead(t, first)
	dead(t, second)
}

func TestStopAsksAndThenKills(t *testing.T) {
	p, line := shell(t, "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.01; done")
	line()
	p.Stop(syscall.SIGTERM, patience)
	if got := line(); got != "asked" {
		t.Errorf("got %q", got)
	}
	stubborn, line := start(t, os.Args[0], "play-stubborn")
	pid := number(t, line())
	stubborn.Stop(syscall.SIGTERM, 20*time.Millisecond)
	dead(t, pid)
	stubborn.Signal(syscall.SIGTERM) // after the end: nothing happens
	stubborn.Stop(syscall.SIGTERM, patience)
}

func TestSignalReachesAnAgentBehindAShell(t *testing.T) {
	p, line := shell(t, `trap : HUP; sh -c 'trap "echo reloaded" HUP; echo up; while :; do sleep 0.01; done' & wait; wait`)
	line()
	p.Signal(syscall.SIGHUP)
	if got := line(); got != "reloaded" {
		t.Errorf("got %q", got)
	}
}

// playParent starts an agent with a child and waits to be killed.
func playParent() {
	_, err := agent.Start(agent.Command{
		Args: []string{"sh", "-c", "sleep 600 & echo $$ $!; wait"}, Env: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr, Guard: guard(),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, "guarded")
	select {}
}

func TestNothingOutlivesAKilledParent(t *testing.T) {
	parent := exec.Command(os.Args[0], "play-parent")
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	// The agent's line and the parent's come in any order; a parent that dies before both has not told the guard yet.
	lines, said := bufio.NewReader(out), []string{}
	for range 2 {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, strings.TrimSuffix(line, "guarded\n"))
	}
	line := strings.Join(said, "")
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	for _, pid := range strings.Fields(line) {
		dead(t, number(t, pid))
	}
}

// TestNothingOutlivesAParentKilledAtAnyMoment kills parents while they start an agent that has a child as soon as it runs. Whoever is left
// holds the other end of a pipe.
func TestNothingOutlivesAParentKilledAtAnyMoment(t *testing.T) {
	for i := range 25 {
		parent := exec.Command(os.Args[0], "play-parent")
		ours, theirs, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		parent.Stdout, parent.Stderr = theirs, os.Stderr
		if err := parent.Start(); err != nil {
			t.Fatal(err)
		}
		_ = theirs.Close()
		// From before it has begun until after its agent's first line.
		moment := time.NewTimer(time.Duration(i) * 2 * time.Millisecond)
		<-moment.C
		_ = parent.Process.Kill()
		_ = parent.Wait()
		_ = ours.SetReadDeadline(time.Now().Add(patience))
		if said, err := io.ReadAll(ours); err != nil {
			t.Errorf("killed after %d ms: something lives on, having said %q: %v", 2*i, said, err)
		}
		_ = ours.Close()
	}
}

func TestGuardKillsNothingWithoutOrders(t *testing.T) {
	for _, in := range []string{"", "done\n", "1\n", "0\n", "-5\n", "x\n"} {
		if err := agent.Guard(strings.NewReader(in)); (err != nil) != (in != "" && in != "done\n") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestCommandThatCannotStart(t *testing.T) {
	if _, err := agent.Start(agent.Command{Args: []string{"no-such-agent"}, Guard: guard()}); err == nil || !strings.Contains(err.Error(), `"no-such-agent"`) {
		t.Errorf("got %v", err)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("not a program"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Start(agent.Command{Args: []string{plain}, Guard: guard()}); err == nil || !strings.Contains(err.Error(), "after --") {
		t.Errorf("got %v", err)
	}
}

func TestParseEndpoint(t *testing.T) {
	for s, want := range map[string]agent.Endpoint{
		"http://127.0.0.1:8000":    {Network: "tcp", Address: "127.0.0.1:8000"},
		"http://localhost":         {Network: "tcp", Address: "localhost:80"},
		"https://[::1]/base/":      {TLS: true, Network: "tcp", Address: "[::1]:443", Path: "/base"},
		"unix:/run/agent.sock":     {Network: "unix", Address: "/run/agent.sock"},
		"http://127.0.0.1:8000/v1": {Network: "tcp", Address: "127.0.0.1:8000", Path: "/v1"},
	} {
		got, err := agent.ParseEndpoint(s)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
		if again, err := agent.ParseEndpoint(got.String()); err != nil || again != want {
			t.Errorf("%s: written %s and read %+v, %v", s, got, again, err)
		}
	}
	for _, s := range []string{"", "127.0.0.1:8000", "ftp://x", "http://", "http://u:p@h", "http://h?q", "unix:", "unix://h/p"} {
		if got, err := agent.ParseEndpoint(s); err == nil {
			t.Errorf("%s is read as %+v", s, got)
		}
	}
}

func TestWatchTellsOfChanges(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan bool, 10)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		agent.Endpoint{Network: "tcp", Address: l.Addr().String()}.Watch(ctx, agent.Health{Interval: 10 * time.Millisecond, Timeout: patience}, func(answers bool, err error) {
			if answers != (err == nil) {
				t.Errorf("answers %v, %v", answers, err)
			}
			told <- answers
		})
	}()
	expect := func(want bool) {
		t.Helper()
		select {
		case got := <-told:
			if got != want {
				t.Errorf("told %v", got)
			}
		case <-time.After(patience):
			t.Fatal("not told")
		}
	}
	expect(true)
	_ = l.Close()
	expect(false)
	if l, err = net.Listen("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	expect(true)
	cancel()
	<-ended
}

func TestBinaryDigest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := agent.BinaryDigest(path); err != nil || got != "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := agent.BinaryDigest(path + "missing"); err == nil {
		t.Error("a missing file has a digest")
	}
}
