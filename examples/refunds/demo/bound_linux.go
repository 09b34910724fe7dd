package main

import "syscall"

// bound is ownGroup, and ends the process when the demo dies, SIGKILL included.
func bound() *syscall.SysProcAttr {
	attributes := ownGroup()
	attributes.Pdeathsig = syscall.SIGKILL
	return attributes
}
