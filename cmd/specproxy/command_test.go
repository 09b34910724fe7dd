package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/sidecar"
	"github.com/specproxy/specproxy/internal/sidecar/agent"
)

// parse runs the command line and returns the options that the sidecar would get.
func parse(t *testing.T, args ...string) (*sidecar.Options, error) {
	t.Helper()
	var got *sidecar.Options
	c := command("test", nil, func(_ context.Context, o sidecar.Options) error {
		got = &o
		return nil
	})
	c.SetArgs(args)
	c.SetOut(io.Discard)
	c.SetErr(io.Discard)
	return got, c.ExecuteContext(t.Context())
}

func TestOptions(t *testing.T) {
	o, err := parse(t, "--control", "127.0.0.1:18000,localhost:18001", "--spec", "customer-service:2.0.3", "--listen", "0.0.0.0:9000", "--advertise", "10.0.0.5:9000",
		"--runtime-model", "m-7", "--runtime-tool", "search=1.2", "--runtime-tool", "pay=3", "--drain-timeout", "5s", "--cache-dir", "/tmp/c", "--", "sh", "-c", "true", "--flag")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(o.Controls, []string{"127.0.0.1:18000", "localhost:18001"}) || o.Ref.String() != "customer-service:2.0.3" || o.Advertise != "10.0.0.5:9000" ||
		!slices.Equal(o.Command, []string{"sh", "-c", "true", "--flag"}) || o.Runtime.Model != "m-7" || o.Runtime.Tools["search"] != "1.2" || o.Runtime.Tools["pay"] != "3" ||
		o.DrainTimeout != 5*time.Second || o.CacheDir != "/tmp/c" || o.Log == nil || len(o.Guard) != 2 || o.Version != "test" {
		t.Errorf("got %+v", o)
	}
	o, err = parse(t, "--control", "127.0.0.1:18000", "--spec", "a:1.0.0", "--upstream", "unix:/run/a.sock")
	if err != nil || o.Upstream != "unix:/run/a.sock" || o.Listen != "127.0.0.1:0" || len(o.Command) != 0 || o.DrainTimeout != 30*time.Second {
		t.Errorf("got %+v, %v", o, err)
	}
}

// Each error names the flag to mend, and nothing is started.
func TestWrongUsage(t *testing.T) {
	const control, spec = "--control=127.0.0.1:18000", "--spec=a:1.0.0"
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"no control", []string{spec, "--", "sh"}, []string{"--control is required"}},
		{"bad control", []string{"--control=here", spec, "--", "sh"}, []string{`--control "here"`, "host:port"}},
		{"remote without TLS", []string{"--control=10.0.0.1:18000", spec, "--", "sh"}, []string{"10.0.0.1:18000", "--ca", "--token-file"}},
		{"remote without token", []string{"--control=10.0.0.1:18000", "--ca=x", spec, "--", "sh"}, []string{"--token-file"}},
		{"one of several remote", []string{"--control=127.0.0.1:1,control.example:2", spec, "--", "sh"}, []string{"control.example:2", "--ca"}},
		{"no spec", []string{control, "--", "sh"}, []string{"--spec is required"}},
		{"spec without version", []string{control, "--spec=a", "--", "sh"}, []string{"--spec", "name:version"}},
		{"a name for a version", []string{control, "--spec=a:latest-good", "--", "sh"}, []string{"--spec", "plain version", "specctl show"}},
		{"bad version", []string{control, "--spec=a:v1", "--", "sh"}, []string{"--spec", `"v1"`}},
		{"no agent", []string{control, spec}, []string{"--upstream", "-- COMMAND"}},
		{"two agents", []string{control, spec, "--upstream=http://127.0.0.1:1", "--", "sh"}, []string{"--upstream", "not both"}},
		{"command without --", []string{control, spec, "sh"}, []string{`"sh"`, "after --"}},
		{"unknown command", []string{control, spec, "--", "no-such-agent"}, []string{`"no-such-agent"`}},
		{"bad upstream", []string{control, spec, "--upstream=ftp://x"}, []string{"upstream", "ftp://x"}},
		{"every address", []string{control, spec, "--listen=0.0.0.0:0", "--", "sh"}, []string{"--listen", "--advertise"}},
		{"every address, no host", []string{control, spec, "--listen=:9000", "--", "sh"}, []string{"--advertise"}},
		{"bad listen", []string{control, spec, "--listen=9000", "--", "sh"}, []string{"--listen"}},
		{"bad advertise", []string{control, spec, "--advertise=0.0.0.0:1", "--", "sh"}, []string{"--advertise"}},
		{"advertise port 0", []string{control, spec, "--advertise=10.0.0.1:0", "--", "sh"}, []string{"--advertise"}},
		{"open local API", []string{control, spec, "--local-api=0.0.0.0:1", "--", "sh"}, []string{"--local-api", "loopback"}},
		{"open admin page", []string{control, spec, "--admin=0.0.0.0:1", "--", "sh"}, []string{"admin", "loopback"}},
		{"relative socket", []string{control, spec, "--local-api=unix:agent.sock", "--", "sh"}, []string{"--local-api", "absolute path"}},
		{"bad instance", []string{control, spec, "--instance=a.b", "--", "sh"}, []string{"--instance", "DNS label"}},
		{"bad level", []string{control, spec, "--log-level=loud", "--", "sh"}, []string{"--log-level", "debug"}},
		{"negative timeout", []string{control, spec, "--drain-timeout=-1s", "--", "sh"}, []string{"--drain-timeout"}},
		{"unknown flag", []string{control, spec, "--insecure", "--", "sh"}, []string{"--insecure"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := parse(t, c.args...)
			if err == nil || o != nil {
				t.Fatalf("it runs: %+v", o)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name %q", err, want)
				}
			}
			if code := exitCode(err); code != 2 {
				t.Errorf("exit %d", code)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	sh := exec.Command("sh", "-c", "exit 7")
	_ = sh.Run()
	for want, err := range map[int]error{0: nil, 1: errors.New("x"), 7: errors.Join(errors.New("x"), &agent.ExitError{State: sh.ProcessState})} {
		if got := exitCode(err); got != want {
			t.Errorf("%v: exit %d", err, got)
		}
	}
}

// The built command: errors go to standard error, and the guard is there but not shown.
func TestCommand(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "specproxy")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run := func(in string, args ...string) (int, string, string) {
		c := exec.Command(bin, args...)
		var out, errs bytes.Buffer
		c.Stdin, c.Stdout, c.Stderr = strings.NewReader(in), &out, &errs
		c.Env = append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir())
		_ = c.Run()
		return c.ProcessState.ExitCode(), out.String(), errs.String()
	}
	if code, out, errs := run("", "--control", "10.0.0.1:1", "--spec", "a:1.0.0", "--", "sh"); code != 2 || out != "" || !strings.HasPrefix(errs, "specproxy: --control 10.0.0.1:1") {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if code, _, errs := run("done\n", guardCommand); code != 0 || errs != "" {
		t.Errorf("guard: %d %q", code, errs)
	}
	if code, out, _ := run("", "--help"); code != 0 || strings.Contains(out, guardCommand) || !strings.Contains(out, "--drain-timeout") {
		t.Errorf("help: %d %q", code, out)
	}
}

// A sidecar runs beside every agent: it must stay small and quick to start.
func TestLinksNeitherStorageNorControlPlane(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "github.com/specproxy/specproxy/internal/sidecar/proxy") {
		t.Fatalf("the list is not this command's: %v", deps)
	}
	for _, dep := range deps {
		for _, banned := range []string{
			"go.etcd.io/", "github.com/hashicorp/", "github.com/envoyproxy/", "github.com/specproxy/specproxy/internal/store", "github.com/specproxy/specproxy/internal/control",
			"github.com/specproxy/specproxy/internal/discovery", "github.com/specproxy/specproxy/internal/fleet", "github.com/specproxy/specproxy/internal/api",
		} {
			if strings.HasPrefix(dep, banned) {
				t.Errorf("it links %s", dep)
			}
		}
	}
}
