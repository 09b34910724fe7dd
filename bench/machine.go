package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// machine says what was measured, and on what.
type machine struct{ commit, words string }

func describe(ctx context.Context) machine {
	// Envoy prints "envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL".
	envoy := "unknown"
	if parts := strings.Split(tool(ctx, "envoy", "--version"), "/"); len(parts) > 1 {
		envoy = parts[1]
	}
	return machine{
		commit: tool(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12", "--match="),
		words:  fmt.Sprintf("%s/%s, %d processors (%s), %s, Envoy %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), processor(), runtime.Version(), envoy),
	}
}

// processor is the name that Linux has for it.
func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(info)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return "unknown"
}
