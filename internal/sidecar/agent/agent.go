// Package agent runs one agent process and leaves nothing of it behind.
//
// Invariants:
//   - the agent is the leader of its own process group, and when Done is closed no process of that group is left;
//   - if the sidecar dies, SIGKILL included, the agent dies with it: the kernel kills the leader (PDEATHSIG), and a guard process that holds
//     the other end of a pipe kills the group. The agent's process begins as one of ours and becomes the agent only when the guard knows its
//     group, so there is no moment at which a child of the agent could be left behind;
//   - whoever called Start gets the agent's exit status from Err, once Done is closed.
package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Command says how to start an agent.
type Command struct {
	// Args is the command line; Args[0] is looked up in PATH.
	Args []string
	// Env is the whole environment.
	Env            []string
	Stdout, Stderr *os.File
	// Guard is the command line of a process that calls Guard with its standard input and the arguments that follow.
	Guard []string
}

// ExitError is how an agent ended that nobody had asked to stop.
type ExitError struct {
	Args  []string
	State *os.ProcessState
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("agent %q ended by itself: %s; its own output says why", e.Args, e.State)
}

// Code is the exit status for the sidecar: the agent's own, 128 plus the signal that killed it, and 1 if it ended with 0, since an agent
// that is gone is a failure whatever it says.
func (e *ExitError) Code() int {
	if status, ok := e.State.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return max(1, e.State.ExitCode())
}

// Process is a running agent.
type Process struct {
	args  []string
	pid   int
	done  chan struct{}
	guard *guardian

	mu     sync.Mutex // orders signals before the leader is reaped, after which its number may belong to another process
	reaped bool
	err    error
}

// Start starts the agent. The error names the command.
func Start(c Command) (*Process, error) {
	path, err := Resolve(c.Args[0])
	if err != nil {
		return nil, err
	}
	g, err := startGuardian(c.Guard)
	if err != nil {
		return nil, fmt.Errorf("start the agent's guard: %w", err)
	}
	cmd := exec.Command(c.Guard[0], append(append(c.Guard[1:len(c.Guard):len(c.Guard)], path), c.Args...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = c.Env, c.Stdout, c.Stderr, sysProcAttr()
	p := &Process{args: c.Args, done: make(chan struct{}), guard: g}
	started := make(chan error)
	go p.run(cmd, started)
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("start agent %q: %w; check the command after --", c.Args, err)
	}
	return p, nil
}

// Resolve finds the executable that a command line's first word names, as an absolute path.
func Resolve(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("agent command %q: %w; check the command after --", name, err)
	}
	return filepath.Abs(path)
}

// run owns the process and its guard. It stays on one thread: the kernel sends PDEATHSIG when the thread ends that started the child, not the
// process.
func (p *Process) run(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	defer p.guard.stop()
	leave, err := prepare(cmd)
	if err != nil {
		started <- err
		return
	}
	if err := cmd.Start(); err != nil {
		leave.abandon()
		started <- err
		return
	}
	p.pid = cmd.Process.Pid
	if err = p.guard.watch(p.pid); err == nil {
		err = leave.give()
	}
	leave.abandon()
	if err != nil {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	}
	started <- err
	waitErr := p.reap(cmd)
	if exit := (*exec.ExitError)(nil); waitErr == nil || errors.As(waitErr, &exit) {
		waitErr = &ExitError{Args: p.args, State: cmd.ProcessState}
	}
	p.mu.Lock()
	p.err = waitErr
	p.mu.Unlock()
}

// Done is closed when the agent and its whole group are gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the agent ended, an *ExitError as a rule; nil before Done is closed.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Signal sends a signal to the agent's group: behind a shell the agent is not the leader.
func (p *Process) Signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = syscall.Kill(-p.pid, sig) // ESRCH: it is gone already
	}
}

// Stop asks the agent to end, and kills its group if it has not after grace. It returns when the group is gone.
func (p *Process) Stop(sig syscall.Signal, grace time.Duration) {
	p.Signal(sig)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.Signal(syscall.SIGKILL)
		<-p.done
	}
}
