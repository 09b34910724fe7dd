package cli_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/specproxy/specproxy/internal/cli"
)

var update = flag.Bool("update", false, "rewrite the golden output in testdata/script")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"specctl": specctl})
}

// specctl is the command as the scripts run it: in a process of its own, with the tests' clock.
func specctl() {
	width, _ := strconv.Atoi(os.Getenv("COLUMNS"))
	os.Exit(cli.Run(context.Background(), cli.Env{
		Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
		Now:      func() time.Time { return now },
		Terminal: width > 0, Width: width,
		Actor: "ada@laptop", Version: "v1.2.3",
	}, os.Args[1:]))
}

type fakeKey struct{}

// The scripts read like a session. `exits N COMMAND` runs a command and wants that exit code; `given WHAT` changes the world.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			f := inTrouble()
			env.Values[fakeKey{}] = f
			server := serve(env.T().(testing.TB), f)
			env.Setenv("SPECPROXY_SERVER", server.URL)
			env.Setenv("COLUMNS", "")
			env.Setenv("NO_COLOR", "1")
			// A program under the race detector otherwise takes a second to end.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"given": given,
			"asked": asked,
		},
	})
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s exited %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

func given(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value(fakeKey{}).(*fakeControl)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch what := strings.Join(args, " "); what {
	case "nothing":
		f.spec, f.history, f.executions, f.proxies = nil, nil, nil, nil
	case "a laggard":
		f.laggards = []string{"proxy edge-2: away since 14:03:32Z", "instance i-3 of 2.1.0: silent for 12s"}
	case "a refusal":
		f.refusals = []string{"proxy edge-2: Proto constraint validation failed"}
	case "an empty pool of 2.0.3":
		f.version("2.0.3").Pool.Ready = 0
		f.version("2.0.3").Pool.Instances = 0
		f.spec.Exit, f.spec.ExitReason = "", "2.0.3 is the last good version, but has no ready instance"
	case "no earlier good version":
		f.spec.Exit, f.spec.ExitReason = "", "no version was ever good"
	case "a trickle of traffic":
		f.trickle = true
	case "an Envoy that does not answer":
		f.hole = true
	case "a canary that is stepping", "a canary that is gated", "a canary that is failed":
		f.rollout = rolloutOf(args[len(args)-1], "it says why")
	case "a token":
		f.token = "s3cret"
	default:
		ts.Fatalf("given %s: not known", what)
	}
}

// asked wants exactly these methods to have been called since the last look.
func asked(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value(fakeKey{}).(*fakeControl)
	f.mu.Lock()
	defer f.mu.Unlock()
	if got, want := strings.Join(f.asked, " "), strings.Join(args, " "); got != want {
		ts.Fatalf("asked %q, want %q", got, want)
	}
	f.asked = nil
}
