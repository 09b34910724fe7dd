package control

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/specproxy/specproxy/internal/store"
)

// records shows what the post-mortems come to, from the view of the moment.
type records struct {
	store                          *store.Store
	head, opened, open, overridden *prometheus.Desc
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
	}
}

// Describe implements prometheus.Collector.
func (r *records) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{r.head, r.opened, r.open, r.overridden} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (r *records) Collect(out chan<- prometheus.Metric) {
	view := r.store.View()
	head := view.ChainHead()
	out <- prometheus.MustNewConstMetric(r.head, prometheus.CounterValue, float64(head.Seq), head.Link)
	type counts struct{ opened, open, overridden int }
	of := map[string]counts{}
	for _, record := range view.PostMortems() {
		for _, spec := range record.Specs {
			c := of[spec]
			c.opened++
			c.overridden += len(record.Overrides)
			if record.Open() {
				c.open++
			}
			of[spec] = c
		}
	}
	for spec, c := range of {
		out <- prometheus.MustNewConstMetric(r.opened, prometheus.CounterValue, float64(c.opened), spec)
		out <- prometheus.MustNewConstMetric(r.open, prometheus.GaugeValue, float64(c.open), spec)
		out <- prometheus.MustNewConstMetric(r.overridden, prometheus.CounterValue, float64(c.overridden), spec)
	}
}
