package sidecar_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/sidecar/fakecontrol"
)

// TestAWedgedAgentLeavesThePoolAndComesBack stops the agent's process: the kernel goes on accepting its connections.
func TestAWedgedAgentLeavesThePoolAndComesBack(t *testing.T) {
	for name, probe := range map[string]string{"asked": "/about", "noticed by the requests that wait": ""} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, guarded)
			r.options.Probe = probe
			r.options.Timing.ProbeTimeout, r.options.Timing.Stall, r.options.Timing.Sign = 500*time.Millisecond, 300*time.Millisecond, 500*time.Millisecond
			r.run()
			addr := r.ready()
			_, body := fetch(t, addr, "/spawn")
			pid := decode[[]int](t, body)[0]
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
			stopped(t, pid)
			waiting := later(t, addr, "/about")
			v := r.control.Wait("unreadiness", func(v fakecontrol.View) bool { return !v.Status.GetReady() && v.Status.GetReason() != "" })
			if !strings.Contains(v.Status.GetReason(), "the agent does not answer") {
				t.Errorf("reason %q", v.Status.GetReason())
			}
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			r.control.Wait("readiness", func(v fakecontrol.View) bool { return v.Status.GetReady() })
			if res := get(t, "the answer", waiting); res.StatusCode != 200 {
				t.Errorf("the request that waited got %d", res.StatusCode)
			}
		})
	}
}

// stopped waits until every thread of a process has come to a halt: the signal alone has not done it yet.
func stopped(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(tasks) == 0 {
			t.Fatalf("no threads of process %d: %v", pid, err)
		}
		running := false
		for _, task := range tasks {
			stat, err := os.ReadFile(task)
			running = running || err == nil && !strings.Contains(string(stat), ") T ")
		}
		if !running {
			return
		}
	}
	t.Fatalf("process %d does not stop", pid)
}

func TestPortZeroIsTheSamePortAgain(t *testing.T) {
	r := newRig(t, guarded)
	r.run()
	addr := r.ready()
	r.signals <- syscall.SIGTERM
	if err := r.ended(); err != nil {
		t.Fatal(err)
	}
	r.run()
	v := r.control.Wait("the second", func(v fakecontrol.View) bool { return len(v.Hellos) == 2 && v.Connected == 1 })
	if got := v.Hellos[1].GetAddress(); got != addr {
		t.Errorf("the sidecar listened on %s and now does on %s", addr, got)
	}
}
