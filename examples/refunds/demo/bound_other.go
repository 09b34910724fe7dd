//go:build unix && !linux

package main

import "syscall"

// bound is ownGroup: here the kernel offers nothing that would end a process with the one that started it.
func bound() *syscall.SysProcAttr { return ownGroup() }
