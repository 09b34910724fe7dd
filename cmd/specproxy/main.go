// Command specproxy runs beside an agent: it gives the agent its verified spec version and keeps its executions.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/specproxy/specproxy/internal/sidecar"
)

// version is set by the linker.
var version = "dev"

func main() {
	// SIGTERM and SIGINT end the sidecar in order; the others are the agent's.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	// A sidecar's live heap is a few MiB, and the collector would run after every few MiB of garbage. This counts as live and is never touched,
	// so it takes no memory; the collector waits for as much garbage.
	floor := make([]byte, heapFloor)
	code := exitCode(command(version, signals, sidecar.Run).ExecuteContext(context.Background()))
	runtime.KeepAlive(floor)
	os.Exit(code)
}

// heapFloor is in bytes; as much garbage may come between two collections.
const heapFloor = 32 << 20

// exitCode says an error and maps it: the agent's own status if it died, 2 for wrong usage, 1 for the rest.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "specproxy:", err)
	var status interface{ Code() int }
	if errors.As(err, &status) {
		return status.Code()
	}
	return 1
}
