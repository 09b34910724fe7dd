package main

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script writes a shell script and returns its path.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script.sh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func noFailure(t *testing.T) func(error) {
	return func(err error) { t.Errorf("reported as failed: %v", err) }
}

func TestProcessSaysWhenItIsReadyAndEndsWhenAsked(t *testing.T) {
	program := script(t, `trap 'echo leaving; exit 0' TERM; echo '{"listen":"127.0.0.1:1"}'; while :; do sleep 0.05; done`)
	logs := t.TempDir()
	p, err := start(logs, "one", []string{"A=b"}, noFailure(t), program)
	if err != nil {
		t.Fatal(err)
	}
	var at struct{ Listen string }
	if err := p.ready(&at, 10*time.Second); err != nil || at.Listen != "127.0.0.1:1" {
		t.Errorf("ready with %+v and %v", at, err)
	}
	if err := p.stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(filepath.Join(logs, "one.log"))
	if err != nil || !strings.Contains(string(text), "listen") || !strings.Contains(string(text), "leaving") {
		t.Errorf("log is %q (%v)", text, err)
	}
}

// What ignores SIGTERM is killed, with what it started.
func TestStubbornProcessIsKilledWithItsChildren(t *testing.T) {
	program := script(t, `trap '' TERM; sleep 1000 & echo $!; while :; do sleep 0.05; done`)
	p, err := start(t.TempDir(), "stubborn", nil, noFailure(t), program)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(<-p.first)))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stop(50 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("error %v does not say that it was killed", err)
	}
	// An orphan's entry stays until its new parent has collected it: dead means gone or a zombie.
	for deadline := time.Now().Add(10 * time.Second); alive(child); {
		if time.Now().After(deadline) {
			t.Fatalf("child %d lives on", child)
		}
	}
}

func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	return err == nil && !bytes.Contains(status, []byte("State:\tZ"))
}

func TestProcessThatEndsByItselfIsAFailure(t *testing.T) {
	failed := make(chan error, 1)
	p, err := start(t.TempDir(), "weak", nil, func(err error) { failed <- err }, script(t, "exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !strings.Contains(err.Error(), "weak ended by itself: exit status 3") {
		t.Errorf("error %v does not say who ended and how", err)
	}
	if err := p.ready(new(struct{}), 10*time.Second); err == nil {
		t.Error("ready although it had ended")
	}
	if err := stopAll([]*process{p}); err == nil {
		t.Error("stopping what had failed says nothing")
	}
}

func TestVersionsOfTheStory(t *testing.T) {
	specs := filepath.Join("..", "specs")
	changed := filepath.Join(t.TempDir(), "changed")
	if err := withLimit(filepath.Join(specs, badFolder), changed, 250); err != nil {
		t.Fatal(err)
	}
	for folder, limit := range map[string]int{
		filepath.Join(specs, goodFolder): 500, filepath.Join(specs, badFolder): 100, filepath.Join(specs, fixedFolder): 100, changed: 250,
	} {
		v, err := readVersion(folder)
		if err != nil {
			t.Fatal(err)
		}
		if v.limit != limit || v.name != "customer-service" || v.version == "" {
			t.Errorf("%s reads as %+v, want limit %d", folder, v, limit)
		}
	}
	if err := withLimit(t.TempDir(), filepath.Join(t.TempDir(), "x"), 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder without limits: %v", err)
	}
}

func TestLimitThatWouldBeRightIsRefused(t *testing.T) {
	for _, text := range []string{"-1", "0", "500", "501", "2.5", "much"} {
		if _, err := parseLimit(text); err == nil {
			t.Errorf("limit %s was taken", text)
		}
	}
	if limit, err := parseLimit("250"); err != nil || limit != 250 {
		t.Errorf("limit 250 became %d and %v", limit, err)
	}
}

func TestMarginKeepsLinesWhole(t *testing.T) {
	var out bytes.Buffer
	m := &margin{out: &out, margin: "| "}
	for _, part := range []string{"one\ntw", "o", "\n\nthree"} {
		if _, err := m.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	m.end()
	var lines []string
	for s := bufio.NewScanner(&out); s.Scan(); {
		lines = append(lines, s.Text())
	}
	if got := strings.Join(lines, "/"); got != "| one/| two/|/| three" {
		t.Errorf("printed %q", got)
	}
	if m.all.String() != "one\ntwo\n\nthree" {
		t.Errorf("kept %q", m.all.String())
	}
}
