// Package telemetry is what a process shows of itself: its registry of Prometheus metrics, its local admin page and its tracer.
//
// Invariants: one registry per process, made in main's reach and passed down by constructors; nothing is registered globally. Label values are
// taken from sets that are known when the program is built, never from requests, so the number of series does not grow with traffic.
//
// A package that has something to count keeps it in its own metrics.go: a struct of collectors made by newMetrics(reg), where reg is the
// prometheus.Registerer of its options. With promauto.With(reg) a nil reg makes collectors that count and are shown nowhere, which is what
// most tests want.
package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry makes the registry of this process, with the metrics of the Go runtime, of the process (Linux) and of the build.
func NewRegistry(program, version string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "specproxy_build_info", Help: "Always 1; the labels say which program of which version this is.",
		ConstLabels: prometheus.Labels{"program": program, "version": version},
	})
	build.Set(1)
	reg.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}
