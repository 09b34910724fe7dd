package proxy

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/specproxy/specproxy/internal/drain"
)

// What became of a request, for metrics, logs and traces: what an order decided over its execution, or that it was passed on to another version,
// or is a copy of one.
const (
	undecided = "none"
	passedOn  = "passed_on"
	shadowed  = "shadow"
)

var (
	dispositions = []string{undecided, passedOn, string(drain.Complete), string(drain.Handover), string(drain.Cancel), string(drain.Hold), shadowed}
	protocols    = []string{plainHTTP: "http", grpcCall: "grpc", upgrade: "upgrade"}
	// classes by the hundreds of the status; the first one is of requests that got no answer, as their clients had gone.
	classes = []string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}
)

// seconds are the buckets of durations: from a tool's answer to an agent that works for hours.
var seconds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400}

// metrics of requests. Their series are looked up once each, not with every request.
type metrics struct {
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	counters  [series]atomic.Pointer[prometheus.Counter]
	observers [7]atomic.Pointer[prometheus.Observer]
}

const series = 7 * 3 * 6 // dispositions, protocols, classes

func newMetrics(reg prometheus.Registerer) *metrics {
	factory := promauto.With(reg)
	return &metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "specproxy_requests_total",
			Help: "Requests by protocol, class of the answer's status (none: the client had gone), and what became of them (none: no order was decided over them).",
		}, []string{"protocol", "code", "disposition"}),
		durations: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name: "specproxy_request_duration_seconds", Buckets: seconds,
			Help: "How long requests took, from their headers to the end of the answer, by what became of them.",
		}, []string{"disposition"}),
	}
}

func (m *metrics) count(k kind, status int, disposition string, took float64) {
	d := 0
	for i, name := range dispositions {
		if name == disposition {
			d = i
		}
	}
	code := min(max(status/100, 0), len(classes)-1)
	at := (d*len(protocols)+int(k))*len(classes) + code
	counter := m.counters[at].Load()
	if counter == nil {
		c := m.requests.WithLabelValues(protocols[k], classes[code], dispositions[d])
		counter = &c
		m.counters[at].Store(counter)
	}
	(*counter).Inc()
	observer := m.observers[d].Load()
	if observer == nil {
		o := m.durations.WithLabelValues(dispositions[d])
		observer = &o
		m.observers[d].Store(observer)
	}
	(*observer).Observe(took)
}
