package envoytest

import "syscall"

// dieWithParent ends Envoy with a test binary that was killed. The kernel sends the signal when the starting thread ends, and Go ends
// threads only where a goroutine locked one, which no test does.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
