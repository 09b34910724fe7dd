//go:build unix && !linux

package agent

import (
	"os/exec"
	"syscall"
)

// Without PDEATHSIG the guard alone sees to it that nothing outlives the sidecar.
func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// reap waits for the leader's end and then kills what is left of its group, whose number is still taken if anything is.
func (p *Process) reap(cmd *exec.Cmd) error {
	err := cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaped = true
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	return err
}
