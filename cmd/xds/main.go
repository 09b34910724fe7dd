// Command xds is specproxy's control plane: the xDS server, the sidecars' counterpart and the operator API.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/specproxy/specproxy/internal/controlplane"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command(version, os.Stdout).ExecuteContext(ctx)
	stop()
	os.Exit(exitCode(err))
}

// exitCode says an error and maps it: 2 for wrong usage, 1 for everything else.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "xds:", err)
	if _, ok := errors.AsType[*controlplane.UsageError](err); ok {
		return 2
	}
	return 1
}
