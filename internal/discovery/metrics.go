package discovery

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of what proxies were sent and refused, by the type URL of the resources.
type metrics struct{ pushes, bytes, refusals map[string]prometheus.Counter }

func newMetrics(reg prometheus.Registerer, s *Server) *metrics {
	counters := func(name, help string) map[string]prometheus.Counter {
		vec := promauto.With(reg).NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"type"})
		out := make(map[string]prometheus.Counter, len(pushOrder))
		for _, typeURL := range pushOrder {
			out[typeURL] = vec.WithLabelValues(kindOf(typeURL))
		}
		return out
	}
	if reg != nil {
		reg.MustRegister(proxyMetrics{s})
	}
	return &metrics{
		pushes:   counters("specproxy_xds_pushes_total", "Responses sent to proxies, by type of resource."),
		bytes:    counters("specproxy_xds_pushed_bytes_total", "Bytes of these responses, without framing."),
		refusals: counters("specproxy_xds_refusals_total", "Responses that proxies refused (NACK), by type of resource; the proxy keeps what it had."),
	}
}

// kindOf shortens a type URL that is served: type.googleapis.com/envoy.config.cluster.v3.Cluster is Cluster.
func kindOf(typeURL string) string { return typeURL[strings.LastIndexByte(typeURL, '.')+1:] }

func (m *metrics) pushed(typeURL string, size int) {
	m.pushes[typeURL].Inc()
	m.bytes[typeURL].Add(float64(size))
}

func (m *metrics) refused(typeURL string) { m.refusals[typeURL].Inc() }

// proxyMetrics counts the proxies when somebody looks.
type proxyMetrics struct{ s *Server }

var (
	descProxies  = prometheus.NewDesc("specproxy_proxies", "Proxies seen within 24 hours, of all replicas: connected, or gone.", []string{"state"}, nil)
	descRefusing = prometheus.NewDesc("specproxy_proxies_refusing", "Connected proxies that keep an older configuration since they refused a newer one.", nil, nil)
)

// Describe implements prometheus.Collector.
func (proxyMetrics) Describe(out chan<- *prometheus.Desc) {
	out <- descProxies
	out <- descRefusing
}

// Collect implements prometheus.Collector.
func (m proxyMetrics) Collect(out chan<- prometheus.Metric) {
	var connected, gone, refusing int
	for _, p := range m.s.Proxies() {
		switch {
		case !p.Connected:
			gone++
		case p.Refusal != "":
			refusing++
			connected++
		default:
			connected++
		}
	}
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	gauge(descProxies, connected, "connected")
	gauge(descProxies, gone, "gone")
	gauge(descRefusing, refusing)
}
