package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// patience is how long a process may take to end after SIGTERM.
const patience = 5 * time.Second

// process is one that the demo started. Its output goes to a log file.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
	// first delivers the first line of standard output, and is closed after it.
	first chan []byte
	// done is closed when the process has ended; err is set by then.
	done chan struct{}
	err  error
	// leaving is closed when it was asked to end: then its end is no failure.
	leaving chan struct{}
	leave   func()
}

// start starts a process in a group of its own, so that what it starts itself can be ended with it, and bound to this one's life. When it
// ends without having been asked to, fail is told.
func start(logs, name string, env []string, fail func(error), program string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(logs, name+".log"))
	if err != nil {
		return nil, err
	}
	p := &process{name: name, log: log, first: make(chan []byte, 1), done: make(chan struct{}), leaving: make(chan struct{})}
	p.leave = sync.OnceFunc(func() { close(p.leaving) })
	p.cmd = exec.Command(program, args...) // ended by stop, which is gentler than a context
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = log
	p.cmd.SysProcAttr = bound()
	// A pipe of our own, not StdoutPipe: Wait would close that one under the reader.
	reader, writer, err := os.Pipe()
	if err != nil {
		log.Close()
		return nil, err
	}
	p.cmd.Stdout = writer
	started := make(chan error)
	go func() {
		// The kernel ends the process with the thread that started it, so the thread has to stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		writer.Close()
		started <- err
		if err == nil {
			p.follow(reader, fail)
		}
	}()
	if err := <-started; err != nil {
		reader.Close()
		log.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// follow copies the output and waits for the end.
func (p *process) follow(output *os.File, fail func(error)) {
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		defer close(p.first)
		lines := bufio.NewReader(output)
		line, err := lines.ReadBytes('\n')
		_, _ = p.log.Write(line)
		if err == nil {
			p.first <- line
		}
		_, _ = io.Copy(p.log, lines)
	}()
	p.err = p.cmd.Wait()
	select {
	case <-p.leaving:
	default:
		fail(fmt.Errorf("%s ended by itself: %s; see %s", p.name, p.cmd.ProcessState, p.log.Name()))
	}
	// What the process left running may hold the pipe open: end it.
	_ = killGroup(p.cmd.Process.Pid)
	<-copied
	output.Close()
	p.log.Close()
	close(p.done)
}

// ready reads the first line, a JSON object, into v.
func (p *process) ready(v any, within time.Duration) error {
	select {
	case line, ok := <-p.first:
		if !ok {
			return fmt.Errorf("%s ended before it was ready; see %s", p.name, p.log.Name())
		}
		if err := json.Unmarshal(line, v); err != nil {
			return fmt.Errorf("%s said %q when it was ready: %w", p.name, line, err)
		}
		return nil
	case <-time.After(within):
		return fmt.Errorf("%s was not ready within %v; see %s", p.name, within, p.log.Name())
	}
}

// stop asks the process to end and waits. It returns an error if it had to be killed or ended badly.
func (p *process) stop(within time.Duration) error {
	p.leave()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(within):
		_ = killGroup(p.cmd.Process.Pid)
		<-p.done
		return fmt.Errorf("%s did not end within %v and was killed; see %s", p.name, within, p.log.Name())
	}
	if p.err != nil {
		return fmt.Errorf("%s ended badly: %w; see %s", p.name, p.err, p.log.Name())
	}
	return nil
}

// stopAll stops processes side by side.
func stopAll(processes []*process) error {
	errs := make([]error, len(processes))
	var all sync.WaitGroup
	for i, p := range processes {
		all.Go(func() { errs[i] = p.stop(patience) })
	}
	all.Wait()
	return errors.Join(errs...)
}
