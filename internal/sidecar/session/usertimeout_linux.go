package session

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// setUserTimeout makes TCP give up on data that stays without acknowledgement (RFC 5482).
func setUserTimeout(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(brokenAfter.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return failed
}
