// Command bench runs the benchmarks, writes their reports to out/bench and prints all reports found there as a table.
// `make bench` builds what it measures and puts Envoy on PATH.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/specproxy/specproxy/bench/archive"
	"github.com/specproxy/specproxy/bench/drain"
	"github.com/specproxy/specproxy/bench/edge"
	"github.com/specproxy/specproxy/bench/evidence"
	"github.com/specproxy/specproxy/bench/fanout"
	"github.com/specproxy/specproxy/bench/flip"
	"github.com/specproxy/specproxy/bench/hop"
	"github.com/specproxy/specproxy/bench/report"
	"github.com/specproxy/specproxy/bench/storm"
	"github.com/specproxy/specproxy/bench/swarm"
)

// outDir is where reports are kept, below the working directory.
const outDir = "out/bench"

// benchmark measures in dir and returns its samples; summarise computes their summary.
type benchmark struct {
	name      string
	run       func(ctx context.Context, dir string, progress io.Writer) (samples any, err error)
	summarise report.Summarise
	// fair, if set, refuses a comparison with something that is not what it should be; the report is there all the same.
	fair func([]report.Row) error
}

func all() []benchmark {
	return []benchmark{{
		name: "flip",
		run: func(ctx context.Context, dir string, progress io.Writer) (any, error) {
			return flip.Run(ctx, flip.Options{Xds: program("xds"), Specproxy: program("specproxy"), Dir: dir, Progress: progress})
		},
		summarise: flip.Summarise,
		fair:      flip.Fair,
	}, {
		name: "edge",
		run: func(ctx context.Context, dir string, progress io.Writer) (any, error) {
			return edge.Run(ctx, edge.Options{Xds: program("xds"), Dir: dir, Progress: progress})
		},
		summarise: edge.Summarise,
	}, {
		name: "fanout",
		run: func(ctx context.Context, dir string, progress io.Writer) (any, error) {
			self, err := os.Executable()
			if err != nil {
				return nil, err
			}
			return fanout.Run(ctx, fanout.Options{Xds: program("xds"), Self: self, Dir: dir, Progress: progress})
		},
		summarise: fanout.Summarise,
		fair:      fanout.Fair,
	}, {
		name: "storm",
		run: func(ctx context.Context, dir string, progress io.Writer) (any, error) {
			self, err := os.Executable()
			if err != nil {
				return nil, err
			}
			return storm.Run(ctx, storm.Options{Xds: program("xds"), Self: self, Dir: dir, Progress: progress})
		},
		summarise: storm.Summarise,
	}, {
		name: "archive",
		run: func(ctx context.Context, dir string, progress io.Writer) (any, error) {
			return archive.Run(ctx, archive.Options{Xds: program("xds"), Dir: dir, Progress: progress})
		},
		summarise: archive.Summarise,
	}, {
		name: "drain",
		run: func(ctx context.Context, dir string, progress io.Writer) (any, error) {
			self, err := os.Executable()
			if err != nil {
				return nil, err
			}
			return drain.Run(ctx, drain.Options{Xds: program("xds"), Specproxy: program("specproxy"), Self: self, Dir: dir, Progress: progress})
		},
		summarise: drain.Summarise,
	}, {
		name: "evidence",
		run: func(ctx context.Context, _ string, progress io.Writer) (any, error) {
			return evidence.Run(ctx, evidence.Options{Progress: progress})
		},
		summarise: evidence.Summarise,
	}, {
		name: "hop",
		run: func(ctx context.Context, dir string, progress io.Writer) (any, error) {
			self, err := os.Executable()
			if err != nil {
				return nil, err
			}
			return hop.Run(ctx, hop.Options{Xds: program("xds"), Specproxy: program("specproxy"), Self: self, Dir: dir, Progress: progress})
		},
		summarise: hop.Summarise,
	}}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	if len(os.Args) > 1 && os.Args[1] == "child" { // a benchmark started this program again, as a part of what it measures
		err = child(ctx, os.Args[2:])
	} else {
		err = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func child(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "hop", "httputil":
			return hop.Child(ctx, args, os.Stdout, os.Stderr)
		case "swarm":
			return swarm.Child(ctx, args[1:], os.Stdout)
		case "fanout":
			return fanout.Child(ctx, args[1:], os.Stdout)
		}
	}
	return drain.Child(ctx, args, os.Stdin, os.Stdout)
}

// run runs the named benchmarks, or all, and prints the table.
func run(ctx context.Context, names []string, out, progress io.Writer) error {
	chosen, err := choose(all(), names)
	if err != nil {
		return err
	}
	machine := describe(ctx)
	for _, b := range chosen {
		if err := b.measure(ctx, machine, progress); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	reports, err := report.ReadAll(outDir)
	if err != nil {
		return err
	}
	for _, r := range reports {
		if err := verify(r); err != nil {
			return err
		}
	}
	return report.Table(out, reports)
}

func choose(from []benchmark, names []string) ([]benchmark, error) {
	if len(names) == 0 {
		return from, nil
	}
	var chosen []benchmark
	for _, name := range names {
		b, ok := find(from, name)
		if !ok {
			known := make([]string, 0, len(from))
			for _, b := range from {
				known = append(known, b.name)
			}
			return nil, fmt.Errorf("no benchmark is called %q: there is %s", name, strings.Join(known, ", "))
		}
		chosen = append(chosen, b)
	}
	return chosen, nil
}

func find(from []benchmark, name string) (benchmark, bool) {
	for _, b := range from {
		if b.name == name {
			return b, true
		}
	}
	return benchmark{}, false
}

// verify recomputes a report's summary.
func verify(r report.Report) error {
	b, ok := find(all(), r.Bench)
	if !ok {
		return fmt.Errorf("%s holds a report of %q, which is no benchmark any more: delete it", outDir, r.Bench)
	}
	return r.Verify(b.summarise)
}

// measure runs one benchmark in a directory of its own, which is kept if it fails.
func (b benchmark) measure(ctx context.Context, m machine, progress io.Writer) error {
	dir, err := os.MkdirTemp("", "specproxy-bench-"+b.name+"-")
	if err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	measured, err := b.run(ctx, dir, progress)
	if err != nil {
		return errors.Join(err, fmt.Errorf("what ran has left its logs in %s", dir))
	}
	samples, err := json.Marshal(measured)
	if err != nil {
		return fmt.Errorf("samples: %w", err)
	}
	rows, err := b.summarise(samples)
	if err != nil {
		return err
	}
	path, err := report.Report{Bench: b.name, Commit: m.commit, Machine: m.words, Summary: rows, Samples: samples}.Write(outDir)
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "%s: wrote %s\n", b.name, path)
	if err := os.RemoveAll(dir); err != nil || b.fair == nil {
		return err
	}
	return b.fair(rows)
}

// program is the absolute path of one that make has built.
func program(name string) string {
	path, err := filepath.Abs(filepath.Join("bin", name))
	if err != nil {
		return filepath.Join("bin", name) // The start of it will say what is wrong.
	}
	return path
}

// tool returns the first line that a command prints, or "unknown": a report is worth having without it.
func tool(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if err != nil || line == "" {
		return "unknown"
	}
	return line
}
