package sidecar

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// maxSlots bounds how many sidecars of one version share a machine with --listen port 0.
const maxSlots = 4096

var errInUse = errors.New("in use by another sidecar")

// stateDir is a directory that one sidecar at a time has.
type stateDir struct {
	path string
	lock *os.File
}

func (d *stateDir) journal() string { return filepath.Join(d.path, "journal") }
func (d *stateDir) state() string   { return filepath.Join(d.path, "state") }
func (d *stateDir) specs() string   { return filepath.Join(d.path, "spec") }

// release lets another sidecar have it.
func (d *stateDir) release() error { return d.lock.Close() }

// openStateDir takes --state-dir, or the directory that belongs to this version and listen address. With port 0 there is no telling which
// earlier process this one follows, so it takes the first directory that is free: a journal that was left open is then read by the next
// sidecar of its version, whichever that is.
func openStateDir(o Options) (*stateDir, error) {
	if o.StateDir != "" {
		d, err := takeDir(o.StateDir)
		if errors.Is(err, errInUse) {
			return nil, fmt.Errorf("--state-dir %s is %w: give every sidecar its own", o.StateDir, err)
		}
		return d, err
	}
	base := filepath.Join(o.CacheDir, "state", o.Ref.Spec, o.Ref.Version)
	host, port, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, err
	}
	if port != "0" {
		name := strings.NewReplacer(":", "_", "/", "_", "%", "_").Replace(host) + "_" + port
		d, err := takeDir(filepath.Join(base, name))
		if errors.Is(err, errInUse) {
			return nil, fmt.Errorf("another sidecar of %s already has --listen %s on this machine: stop it or choose another port", o.Ref, o.Listen)
		}
		return d, err
	}
	for slot := range maxSlots {
		d, err := takeDir(filepath.Join(base, "slot-"+strconv.Itoa(slot)))
		if !errors.Is(err, errInUse) {
			return d, err
		}
	}
	return nil, fmt.Errorf("%d sidecars of %s run on this machine: give --state-dir", maxSlots, o.Ref)
}

// takeDir makes and locks a directory. The kernel drops the lock when the process dies, however it dies.
func takeDir(path string) (*stateDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a file descriptor is small
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errInUse
		}
		return nil, errors.Join(err, lock.Close())
	}
	return &stateDir{path: path, lock: lock}, nil
}
