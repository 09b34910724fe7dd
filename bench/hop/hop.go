// Package hop measures what one more hop costs: bin/specproxy beside Envoy, net/http/httputil.ReverseProxy and Caddy, each before the same agent.
//
// Invariants: every proxy runs alone on processor 0; the agent, the load generator and the control plane share processor 1; the proxies are
// measured in turns, so what slows the machine down slows all; an answer that is not the agent's fails the benchmark. Linux only.
package hop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
)

// Options says what to measure.
type Options struct {
	// Xds and Specproxy are the programs; Self is this one, which is started again.
	Xds, Specproxy, Self string
	// Dir is where they work.
	Dir string
	// Loads and Proxies, if not empty, are the only ones; a summary wants all.
	Loads, Proxies []string
	// Progress is told in words.
	Progress io.Writer `json:"-"`
}

// Sample is one load on one proxy.
type Sample struct {
	Round int `json:"round"`
	// Proxy is specproxy, envoy, httputil, caddy, or none: the agent itself, for the delay that a proxy adds.
	Proxy string `json:"proxy"`
	// Load is http1, http2, grpc, sse, big, delay or idle.
	Load string `json:"load"`
	// Count of what was done: requests, events, or streams that were held open.
	Count   int     `json:"count"`
	Seconds float64 `json:"seconds"`
	// CPUSeconds that the proxy used meanwhile, user and system.
	CPUSeconds float64 `json:"cpuSeconds"`
	// P50Us and P99Us are of a request's time (delay), or an event's from the agent's write to the client's read (sse), in microseconds.
	P50Us float64 `json:"p50Us"`
	P99Us float64 `json:"p99Us"`
	// ResidentBytes is the growth of the proxy's resident memory (idle).
	ResidentBytes int64 `json:"residentBytes"`
}

// Run starts itself again on processor 1, which measures.
func Run(ctx context.Context, o Options) ([]Sample, error) {
	if runtime.NumCPU() < 2 {
		return nil, errors.New("this needs two processors: one for the proxy, one for everything else")
	}
	options, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "taskset", "-c", "1", o.Self, "child", "hop", string(options))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, o.Progress
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("the measuring process: %w", err)
	}
	var samples []Sample
	if err := json.Unmarshal(out.Bytes(), &samples); err != nil {
		return nil, fmt.Errorf("the measuring process printed %.200q: %w", out.String(), err)
	}
	return samples, nil
}

// Child is what this program is when it was started again: the one that measures, or the plain reverse proxy, which listens where it is told and passes to the agent.
func Child(ctx context.Context, args []string, out, progress io.Writer) error {
	switch {
	case len(args) == 2 && args[0] == "hop":
		var o Options
		if err := json.Unmarshal([]byte(args[1]), &o); err != nil {
			return err
		}
		o.Progress = progress
		samples, err := measure(ctx, o)
		if err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(samples)
	case len(args) == 3 && args[0] == "httputil":
		return reverseProxy(ctx, args[1], args[2])
	}
	return fmt.Errorf("no such child: %q", args)
}
