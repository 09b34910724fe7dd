package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// The agent's process finds these beyond its standard files until it has become the agent.
const (
	leaveFile   = 3 // a byte comes when it may
	failureFile = 4 // why it could not; closed without a word when it could
)

// become waits for leave and then makes this process the agent: args[0] is the executable, the rest is its command line. It returns only if
// that failed, or the sidecar has died.
func become(args []string) error {
	leave, failure := os.NewFile(leaveFile, "leave"), os.NewFile(failureFile, "failure")
	if len(args) < 2 || leave == nil || failure == nil {
		return errors.New("agent guard: it is started by specproxy alone")
	}
	syscall.CloseOnExec(leaveFile)
	syscall.CloseOnExec(failureFile)
	if _, err := io.ReadFull(leave, make([]byte, 1)); err != nil {
		return nil // the sidecar is gone, and nothing has begun
	}
	err := syscall.Exec(args[0], args[1:], os.Environ())
	_, _ = fmt.Fprint(failure, err)
	return err
}

// leave is the sidecar's end of the two files.
type leave struct {
	ours, theirs []*os.File
}

// prepare gives cmd the two files.
func prepare(cmd *exec.Cmd) (*leave, error) {
	wait, give, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	hear, tell, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, wait.Close(), give.Close())
	}
	cmd.ExtraFiles = []*os.File{wait, tell}
	return &leave{ours: []*os.File{give, hear}, theirs: cmd.ExtraFiles}, nil
}

// give lets the process become the agent and returns once it has, or why it could not.
func (l *leave) give() error {
	for _, f := range l.theirs {
		_ = f.Close()
	}
	if _, err := l.ours[0].Write([]byte{1}); err != nil {
		return err
	}
	switch why, err := io.ReadAll(l.ours[1]); {
	case err != nil:
		return err
	case len(why) > 0:
		return errors.New(string(why))
	}
	return nil
}

// abandon closes what is left; a process that still waits ends.
func (l *leave) abandon() {
	for _, f := range append(l.ours, l.theirs...) {
		_ = f.Close()
	}
}
