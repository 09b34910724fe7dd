package cli_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/controlplane"
)

// The scripts under testdata/archive run against a real control plane: what they show is what is stored, signed and refused, not what a fake
// makes of it. Two control planes are there, SPECPROXY_SERVER and OTHER_SERVER.
func TestArchiveScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "archive"),
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			tb := env.T().(testing.TB)
			for server, dir := range map[string]string{"SPECPROXY_SERVER": "data", "OTHER_SERVER": "other"} {
				env.Setenv(server, control(tb, filepath.Join(env.WorkDir, dir)))
			}
			env.Setenv("COLUMNS", "")
			env.Setenv("NO_COLOR", "1")
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// control starts a control plane in dir and ends it with the test; it returns its URL.
func control(t testing.TB, dir string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	bound, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- controlplane.Run(ctx, controlplane.Options{
			DataDir: dir, API: net.JoinHostPort("127.0.0.1", "0"), GRPC: net.JoinHostPort("127.0.0.1", "0"), Log: zap.NewNop(),
			Listening: func(api, _ string) { bound <- api },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("control plane in %s: %v", dir, err)
		}
	})
	select {
	case api := <-bound:
		return "http://" + api
	case err := <-ended:
		ended <- nil
		t.Fatalf("control plane in %s: %v", dir, err)
	}
	return ""
}
