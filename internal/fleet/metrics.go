package fleet

import "github.com/prometheus/client_golang/prometheus"

// fleetMetrics counts this replica's sidecars when somebody looks.
type fleetMetrics struct{ f *Fleet }

var descInstances = prometheus.NewDesc("specproxy_instances", "Instances by what this replica knows of their sidecars: ready, not_ready, leaving, or silent (no session).", []string{"state"}, nil)

// Describe implements prometheus.Collector.
func (fleetMetrics) Describe(out chan<- *prometheus.Desc) { out <- descInstances }

// Collect implements prometheus.Collector.
func (m fleetMetrics) Collect(out chan<- prometheus.Metric) {
	states := map[string]int{"ready": 0, "not_ready": 0, "leaving": 0, "silent": 0}
	m.f.mu.Lock()
	for _, s := range m.f.members {
		switch {
		case !s.connected:
			states["silent"]++
		case s.status.GetLeaving():
			states["leaving"]++
		case s.status.GetReady():
			states["ready"]++
		default:
			states["not_ready"]++
		}
	}
	m.f.mu.Unlock()
	for state, n := range states {
		out <- prometheus.MustNewConstMetric(descInstances, prometheus.GaugeValue, float64(n), state)
	}
}
