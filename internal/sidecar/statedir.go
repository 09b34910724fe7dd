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

// listened is the address that the sidecar before this one listened on; empty if that is not known.
func (d *stateDir) listened() string {
	was, _ := os.ReadFile(filepath.Join(d.path, "listened"))
	return string(was)
}

// listens stores the address for the one after it.
func (d *stateDir) listens(address string) error {
	if err := os.WriteFile(filepath.Join(d.path, "listened"), []byte(address), 0o600); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

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
	host, port := "", ""
	if !strings.HasPrefix(o.Listen, unixPrefix) {
		var err error
		if host, port, err = net.SplitHostPort(o.Listen); err != nil {
			return nil, err
		}
	}
	if port != "0" {
		plain := strings.NewReplacer(":", "_", "/", "_", "%", "_")
		name := plain.Replace(host) + "_" + port
		if path, ok := strings.CutPrefix(o.Listen, unixPrefix); ok {
			name = "unix" + plain.Replace(path)
		}
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
