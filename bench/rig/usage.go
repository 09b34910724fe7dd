package rig

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of processor times in /proc on Linux, whatever the kernel's own.
const clockTick = time.Second / 100

// Usage is the process's resident memory in bytes and the processor time that it has used, without its children. Linux only.
func (p *Process) Usage() (resident int64, cpu time.Duration, err error) {
	if resident, err = p.memory("VmRSS:"); err != nil {
		return 0, 0, err
	}
	dir := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return 0, 0, fmt.Errorf("processor time of %s: %w", p.name, err)
	}
	// The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field after it.
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, 0, fmt.Errorf("processor time of %s: %q is not what /proc says elsewhere", p.name, stat)
	}
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("processor time of %s: %w", p.name, err)
		}
		cpu += time.Duration(ticks) * clockTick
	}
	return resident, cpu, nil
}

// Anonymous is the part of the process's resident memory that is no file's. Linux only.
func (p *Process) Anonymous() (int64, error) { return p.memory("RssAnon:") }

// memory reads a line of /proc in bytes; 0 if the process has ended.
func (p *Process) memory(name string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("memory of %s: %w", p.name, err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("memory of %s: %w", p.name, err)
			}
			return kb << 10, nil
		}
	}
	return 0, nil
}
