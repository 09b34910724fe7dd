package control

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/routing"
)

// metrics of what this replica was told to do. What is stored is counted when somebody looks, the same at every replica.
type metrics struct {
	changes    *prometheus.CounterVec
	effects    *prometheus.HistogramVec
	rehearsals *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, c *Controller) *metrics {
	m := &metrics{
		changes: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
			Name: "specproxy_route_changes_total", Help: "Route generations that this replica committed, by what they turned out to be: deploy, weights, rollback, undo.",
		}, []string{"kind"}),
		effects: promauto.With(reg).NewHistogramVec(prometheus.HistogramOpts{
			Name: "specproxy_route_effect_seconds", Help: "From the commit of a route generation until this replica saw it effective, of those that were committed while it ran and that somebody asked about; rollbacks always.",
			Buckets: []float64{.002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"kind"}),
	}
	m.rehearsals = promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "specproxy_rehearsals_total", Help: "Rehearsals of a canary's way back that this replica concluded, by result: proven, unproven, and skipped, which a person wanted.",
	}, []string{"result"})
	if reg != nil {
		reg.MustRegister(storeMetrics{c})
	}
	return m
}

// seen notes when a generation was first seen effective. Of one that is older than this process nothing is known.
func (m *metrics) seen(route routing.Route, at, started time.Time) {
	if route.At.After(started) {
		m.effects.WithLabelValues(string(route.Kind)).Observe(at.Sub(route.At).Seconds())
	}
}

// storeMetrics reads what the replica's view of the store shows.
type storeMetrics struct{ c *Controller }

var (
	descPostMortems = prometheus.NewDesc("specproxy_postmortems_open", "Post-mortems that nobody has closed.", nil, nil)
	descUnproven    = prometheus.NewDesc("specproxy_rollbacks_unproven", "Rollbacks of open post-mortems that are committed and not known to be effective.", nil, nil)
	descLaggards    = prometheus.NewDesc("specproxy_rollback_laggards", "Proxies and instances that have not confirmed a rollback of an open post-mortem.", nil, nil)
	descDrains      = prometheus.NewDesc("specproxy_drains", "Drains in which executions may still run, by what ordered them.", []string{"kind"}, nil)
	descDrained     = prometheus.NewDesc("specproxy_drain_executions", "Executions of these drains that have ended, by what became of them, and that are held.", []string{"disposition"}, nil)
)

// Describe implements prometheus.Collector.
func (storeMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPostMortems, descUnproven, descLaggards, descDrains, descDrained} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m storeMetrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	view := m.c.store.View()
	open := view.OpenPostMortems()
	var unproven, laggards int
	for _, record := range open {
		for _, r := range record.Rollbacks {
			if r.Effect != nil {
				laggards += len(r.Effect.Laggards)
				continue
			}
			unproven++
			if e, err := m.c.Effect(r.Spec, r.Generation); err == nil {
				laggards += len(e.Laggards)
			}
		}
	}
	gauge(descPostMortems, float64(len(open)))
	gauge(descUnproven, float64(unproven))
	gauge(descLaggards, float64(laggards))
	kinds := map[drain.Kind]int{drain.KindRollback: 0, drain.KindPromote: 0}
	var counts drain.Counts
	for _, d := range view.UnfinishedDrains("") {
		kind := d.Kind
		if kind == "" {
			kind = drain.KindRollback
		}
		kinds[kind]++
		counts = counts.Plus(d.Counts)
	}
	for kind, n := range kinds {
		gauge(descDrains, float64(n), string(kind))
	}
	gauge(descDrained, float64(counts.Completed), string(drain.Complete))
	gauge(descDrained, float64(counts.HandedOver), string(drain.Handover))
	gauge(descDrained, float64(counts.Cancelled), string(drain.Cancel))
	gauge(descDrained, float64(counts.Held), string(drain.Hold))
}
