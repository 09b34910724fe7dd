//go:build unix

package main

import "syscall"

// ownGroup puts a process into a group of its own.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// killGroup kills a process and all that is left of its group.
func killGroup(pid int) error { return syscall.Kill(-pid, syscall.SIGKILL) }
