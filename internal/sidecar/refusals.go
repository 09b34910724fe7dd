package sidecar

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/specproxy/specproxy/internal/sidecar/gate"
)

// refusalMetrics reads what the data path's door has refused, by a fixed set of reasons.
type refusalMetrics struct{ refusals *gate.Refusals }

var descRefused = describe("specproxy_refused_total", "What callers sent and the data path did not take, by the reason.", "reason")

// Describe implements prometheus.Collector.
func (refusalMetrics) Describe(out chan<- *prometheus.Desc) { out <- descRefused }

// Collect implements prometheus.Collector.
func (m refusalMetrics) Collect(out chan<- prometheus.Metric) {
	m.refusals.Each(func(reason string, count uint64) {
		out <- prometheus.MustNewConstMetric(descRefused, prometheus.CounterValue, float64(count), reason)
	})
}
