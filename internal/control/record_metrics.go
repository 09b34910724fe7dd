package control

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
)

// records shows what the post-mortems come to, from the view of the moment.
type records struct {
	store                          *store.Store
	head, opened, open, overridden *prometheus.Desc
	// What specctl stats says, of all time.
	deploys, failed, caught, closed *prometheus.Desc
	detect, restore, close          *prometheus.Desc
}

// NewRecordMetrics is the collector of the post-mortems' metrics. The head of their chain is one of them, so that whoever scrapes keeps it where
// nobody who alters the records can reach it.
func NewRecordMetrics(s *store.Store) prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &records{
		store:      s,
		head:       desc("specproxy_postmortem_chain_events", "Events in the chain of all post-mortems, with the link of the newest.", "link"),
		opened:     desc("specproxy_postmortem_records_total", "Post-mortems that rollbacks of a spec have opened.", "spec"),
		open:       desc("specproxy_postmortem_records_open", "Post-mortems of a spec that nobody has closed.", "spec"),
		overridden: desc("specproxy_postmortem_overrides_total", "Deploys of a spec in spite of an open post-mortem.", "spec"),
		deploys:    desc("specproxy_deploys_total", "Generations that gave a version of a spec its first weight.", "spec"),
		failed:     desc("specproxy_deploys_failed_total", "Those whose version was rolled back later.", "spec"),
		caught:     desc("specproxy_rollbacks_caught_total", "Versions that were rolled back, by where they were caught: as a canary, or in production, with all the traffic.", "spec", "in"),
		closed:     desc("specproxy_postmortem_records_closed", "Closed post-mortems of a spec, by their cause.", "spec", "cause"),
		detect:     desc("specproxy_time_to_detect_seconds", "From a version's first weight to its rollback.", "spec"),
		restore:    desc("specproxy_time_to_restore_seconds", "From the commit of a rollback to the proof of its effect.", "spec"),
		close:      desc("specproxy_time_to_close_seconds", "From the opening of a post-mortem to its closing.", "spec"),
	}
}

// Describe implements prometheus.Collector.
func (r *records) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{r.head, r.opened, r.open, r.overridden, r.deploys, r.failed, r.caught, r.closed, r.detect, r.restore, r.close} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (r *records) Collect(out chan<- prometheus.Metric) {
	view := r.store.View()
	head := view.ChainHead()
	out <- prometheus.MustNewConstMetric(r.head, prometheus.CounterValue, float64(head.Seq), head.Link)
	of := map[string][]postmortem.Record{}
	for _, record := range view.PostMortems() {
		for _, spec := range record.Specs {
			of[spec] = append(of[spec], record)
		}
	}
	for _, spec := range view.Specs() {
		r.stats(out, postmortem.Count(spec, view.History(spec), of[spec], time.Time{}))
	}
}

func (r *records) stats(out chan<- prometheus.Metric, s postmortem.Stats) {
	if s.First.IsZero() {
		return // never deployed
	}
	count := func(d *prometheus.Desc, n int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), append([]string{s.Spec}, labels...)...)
	}
	count(r.opened, s.Rollbacks)
	out <- prometheus.MustNewConstMetric(r.open, prometheus.GaugeValue, float64(s.Open), s.Spec)
	count(r.overridden, s.Overrides)
	count(r.deploys, s.Deploys)
	count(r.failed, s.Failed)
	count(r.caught, s.CanaryCatches, "canary")
	count(r.caught, s.ProductionCatches, "production")
	for _, cause := range slices.Sorted(maps.Keys(s.Causes)) {
		out <- prometheus.MustNewConstMetric(r.closed, prometheus.GaugeValue, float64(s.Causes[cause]), s.Spec, string(cause))
	}
	for d, all := range map[*prometheus.Desc][]time.Duration{r.detect: s.Detect, r.restore: s.Restore, r.close: s.Close} {
		var sum time.Duration
		for _, took := range all {
			sum += took
		}
		out <- prometheus.MustNewConstSummary(d, uint64(len(all)), sum.Seconds(), nil, s.Spec)
	}
}
