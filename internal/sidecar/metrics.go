package sidecar

import (
	"github.com/prometheus/client_golang/prometheus"
)

// ledgerMetrics reads the ledger's own counts when somebody looks: they cost an execution nothing, and are the ones that the control plane gets.
type ledgerMetrics struct{ s *sidecar }

var (
	descStarted = describe("specproxy_executions_started_total", "Executions that began here.")
	descEnded   = describe("specproxy_executions_ended_total", "Executions that have ended, by the outcome that the agent stated.", "outcome")
	descDecided = describe("specproxy_executions_decided_total", "Ended executions over which an order had decided, by what became of them.", "disposition")
	descArrived = describe("specproxy_executions_arrived_total", "Executions that came by a hand-over from another version.")
	descPassed  = describe("specproxy_requests_passed_on_total", "Requests that landed on this fenced instance and were passed on to the version that takes over.")
	descRunning = describe("specproxy_executions_in_flight", "Executions that run now.")
	descHeld    = describe("specproxy_executions_held", "Executions past a deadline after which the contract never cuts.")
	descReady   = describe("specproxy_ready", "1 while the instance takes work.")
	descFenced  = describe("specproxy_fenced", "1 while the version is abandoned, and new work is passed on.")
	descControl = describe("specproxy_control_planes_connected", "Control-plane replicas that this sidecar has a session with.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (ledgerMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descStarted, descEnded, descDecided, descArrived, descPassed, descRunning, descHeld, descReady, descFenced, descControl,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m ledgerMetrics) Collect(out chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64) { out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	t := m.s.ledger.Totals()
	count(descStarted, t.Started)
	count(descEnded, t.Succeeded, "success")
	count(descEnded, t.Failed, "failure")
	count(descEnded, t.Unknown, "unknown")
	count(descDecided, t.Completed, "complete")
	count(descDecided, t.HandedOver, "handover")
	count(descDecided, t.Cancelled, "cancel")
	count(descArrived, t.Arrived)
	count(descPassed, m.s.proxy.PassedOn())
	gauge(descRunning, float64(t.InFlight))
	gauge(descHeld, float64(t.Held))
	_, fenced := m.s.ledger.Fenced()
	gauge(descReady, truth(m.s.ready() == nil))
	gauge(descFenced, truth(fenced))
	gauge(descControl, float64(m.s.group.Connected()))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
