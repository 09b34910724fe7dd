// Package rig starts what a benchmark measures: the real programs, a real Envoy, a counting wire between them.
//
// Invariants: everything listens on loopback, on ports that the system chooses; what was started has ended when its Stop has returned.
package rig

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// patience is how long a process may take to end after SIGTERM.
const patience = 5 * time.Second

// Process is a running program. Its output goes to a log file.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	// first delivers the first line of standard output and is closed after it.
	first chan string
	// done is closed when the process has ended and its output was copied.
	done chan struct{}
}

// Start runs a program whose log is DIR/NAME.log.
func Start(dir, name, program string, args ...string) (*Process, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	p := &Process{name: name, log: log.Name(), first: make(chan string, 1), done: make(chan struct{})}
	// No context: Stop ends it, which asks first.
	p.cmd = exec.Command(program, args...)
	p.cmd.Stderr = log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w: run make build envoy", name, err), log.Close())
	}
	go func() {
		defer close(p.done)
		defer log.Close()
		p.copy(log, out)
		_ = p.cmd.Wait() // How it ended is in its log, and whoever asked it for something learns that it did.
	}()
	return p, nil
}

func (p *Process) copy(log io.Writer, out io.Reader) {
	defer close(p.first)
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	_, _ = io.WriteString(log, line)
	if err == nil {
		p.first <- line
	}
	_, _ = io.Copy(log, lines)
}

// FirstLine waits for the first line that the process prints.
func (p *Process) FirstLine(ctx context.Context) (string, error) {
	select {
	case line, ok := <-p.first:
		if !ok {
			return "", p.Ended()
		}
		return line, nil
	case <-ctx.Done():
		return "", fmt.Errorf("%s said nothing: %w; see %s", p.name, context.Cause(ctx), p.log)
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended is the error of who needs a process that is no more.
func (p *Process) Ended() error { return fmt.Errorf("%s has ended; see %s", p.name, p.log) }

// Stop asks the process to end, kills it and its group if it does not, and waits.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // An error means that it has ended.
	late := time.AfterFunc(patience, func() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) })
	<-p.done
	late.Stop()
}

// Stack stops what was started, last first.
type Stack struct{ stops []func() }

// Push adds what must be stopped before everything added earlier.
func (s *Stack) Push(stop func()) { s.stops = append(s.stops, sync.OnceFunc(stop)) }

// Stop stops everything. It may be called again.
func (s *Stack) Stop() {
	for i := len(s.stops) - 1; i >= 0; i-- {
		s.stops[i]()
	}
}

// Listen opens a listener on loopback, on a port that the system chooses.
func Listen(ctx context.Context) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	return l, nil
}
