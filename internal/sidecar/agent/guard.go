package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// guardDone is what the sidecar tells its guard when there is nothing left to kill.
const guardDone = "done"

// Guard is the whole of the guard process: it reads the number of a process group from the sidecar, waits, and kills the group if the pipe
// ends before the sidecar has said that it is done. A sidecar that is killed cannot say so.
//
// With args it is the agent's own process at its beginning: they are an executable and its command line, which it becomes when it may.
func Guard(in io.Reader, args ...string) error {
	if len(args) > 0 {
		return become(args)
	}
	lines := bufio.NewScanner(in)
	if !lines.Scan() || lines.Text() == guardDone {
		return lines.Err() // the sidecar died, or gave up, before there was an agent
	}
	pgid, err := strconv.Atoi(strings.TrimSpace(lines.Text()))
	if err != nil || pgid <= 1 {
		return fmt.Errorf("agent guard: %q is not a process group; the guard is started by specproxy alone", lines.Text())
	}
	if lines.Scan() && lines.Text() == guardDone {
		return nil
	}
	if err := syscall.Kill(-pgid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("agent guard: kill process group %d: %w", pgid, err)
	}
	return nil
}

// guardian is the sidecar's end of a guard process.
type guardian struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

func startGuardian(args []string) (*guardian, error) {
	if len(args) == 0 {
		return nil, errors.New("no command line for it")
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	cmd.Env = []string{}
	// Its own group: a Ctrl-C at the terminal must not end it before the sidecar.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, pipe.Close())
	}
	return &guardian{cmd: cmd, pipe: pipe}, nil
}

func (g *guardian) watch(pgid int) error {
	_, err := fmt.Fprintln(g.pipe, pgid)
	return err
}

// stop lets the guard go and waits for it. The group must be gone. A guard that somebody killed is no matter any more.
func (g *guardian) stop() {
	_, _ = fmt.Fprintln(g.pipe, guardDone)
	_ = g.pipe.Close()
	_ = g.cmd.Wait()
}
