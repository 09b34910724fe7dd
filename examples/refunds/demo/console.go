package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// console is where the story is told: the clock, and the commands that people type.
type console struct {
	specctl string
	env     []string
	out     io.Writer
	began   time.Time
	clock   refund.Clock
}

// say prints one line of the story with the story's time, once it runs, and the real one.
func (c *console) say(format string, args ...any) {
	story := "     "
	if !c.clock.Start.IsZero() {
		m := int(c.clock.Story(time.Now()))
		story = fmt.Sprintf("%02d:%02d", m/60, m%60)
	}
	fmt.Fprintf(c.out, "%s %6d ms  %s\n", story, time.Since(c.began).Milliseconds(), fmt.Sprintf(format, args...))
}

// until waits for a time of the story, in minutes after its start.
func (c *console) until(ctx context.Context, minutes float64) error {
	timer := time.NewTimer(time.Until(c.clock.Real(float64(c.clock.StartMinute) + minutes)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// typed is what became of a command that somebody typed.
type typed struct {
	output string
	code   int
}

// typeIn runs specctl as a person would, shows the command and its output as it comes, and returns both.
func (c *console) typeIn(ctx context.Context, args ...string) (typed, error) {
	fmt.Fprintln(c.out, strings.TrimRight("                 $ specctl "+shellWords(args), " "))
	show := &margin{out: c.out, margin: "                 | "}
	cmd := c.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = show, show
	err := cmd.Run()
	show.end()
	result := typed{output: show.all.String(), code: cmd.ProcessState.ExitCode()}
	if _, exited := errors.AsType[*exec.ExitError](err); exited && ctx.Err() == nil {
		return result, nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return result, err
}

// must is typeIn for a command that has to succeed.
func (c *console) must(ctx context.Context, args ...string) error {
	result, err := c.typeIn(ctx, args...)
	if err == nil && result.code != 0 {
		err = fmt.Errorf("specctl %s ended with exit code %d", strings.Join(args, " "), result.code)
	}
	return err
}

// read asks quietly, with -o json.
func (c *console) read(ctx context.Context, answer proto.Message, args ...string) error {
	cmd := c.command(ctx, append(args, "-o", "json")...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("specctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(stdout.Bytes(), answer); err != nil {
		return fmt.Errorf("specctl %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (c *console) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.specctl, args...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.SysProcAttr = ownGroup() // Ctrl-C is for the demo, which passes it on
	return cmd
}

func shellWords(args []string) string {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = a
		if strings.ContainsAny(a, " $\"") {
			words[i] = "'" + a + "'"
		}
	}
	return strings.Join(words, " ")
}

// margin copies lines to out behind a margin, and keeps them all.
type margin struct {
	out    io.Writer
	margin string
	mu     sync.Mutex
	line   bytes.Buffer
	all    bytes.Buffer
}

func (m *margin) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all.Write(b)
	m.line.Write(b)
	for {
		line, err := m.line.ReadString('\n')
		if err != nil { // not whole yet
			m.line.WriteString(line)
			return len(b), nil
		}
		fmt.Fprint(m.out, strings.TrimRight(m.margin+line, " \n")+"\n")
	}
}

// end prints what came without a newline.
func (m *margin) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.line.Len() > 0 {
		fmt.Fprintln(m.out, m.margin+m.line.String())
		m.line.Reset()
	}
}
