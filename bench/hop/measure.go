package hop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/specproxy/specproxy/bench/report"
)

const (
	// rounds in which every proxy is put under every load.
	rounds = 3
	// warmUp goes before each measured span.
	warmUp, span = 400 * time.Millisecond, 2 * time.Second
	// connections of HTTP/1.1 loads, and of HTTP/2 ones with so many streams each.
	connections, multiplexed, streams = 32, 8, 8
	// delayConnections, each with one request in every delayEvery: far from what any proxy can bear.
	delayConnections, delayEvery = 8, 16 * time.Millisecond
	// eventStreams, each with an event in every eventEvery.
	eventStreams, eventEvery = 100, 10 * time.Millisecond
	idleStreams              = 10_000
	limit                    = 8 * time.Minute
)

// load is one kind of work. It returns how much was done from begin to end, and the delays if it measures any.
type load struct {
	name string
	run  func(ctx context.Context, address string, begin, end time.Time) (count int, delays []time.Duration, err error)
}

func loads() []load {
	return []load{
		{"http1", func(ctx context.Context, address string, begin, end time.Time) (int, []time.Duration, error) {
			return http1(ctx, address, connections, small, 0, begin, end)
		}},
		{"http2", func(ctx context.Context, address string, begin, end time.Time) (int, []time.Duration, error) {
			return http2Load(ctx, address, plainCall, begin, end)
		}},
		{"grpc", func(ctx context.Context, address string, begin, end time.Time) (int, []time.Duration, error) {
			return http2Load(ctx, address, grpcCall, begin, end)
		}},
		{"sse", events},
		{"big", func(ctx context.Context, address string, begin, end time.Time) (int, []time.Duration, error) {
			return http1(ctx, address, 4, big, 0, begin, end)
		}},
		{"delay", func(ctx context.Context, address string, begin, end time.Time) (int, []time.Duration, error) {
			return http1(ctx, address, delayConnections, small, delayEvery, begin, end)
		}},
	}
}

// measure runs on processor 1, with everything but the proxies.
func measure(ctx context.Context, o Options) ([]Sample, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done after %s", limit))
	defer cancel()
	backend, err := startBackend(ctx)
	if err != nil {
		return nil, err
	}
	defer backend.stop()
	proxies, stop, err := startProxies(ctx, o, backend.address)
	defer stop()
	if err != nil {
		return nil, err
	}
	var samples []Sample
	for round := range rounds {
		fmt.Fprintf(o.Progress, "hop: round %d of %d\n", round+1, rounds)
		for _, l := range loads() {
			if len(o.Loads) > 0 && !slices.Contains(o.Loads, l.name) {
				continue
			}
			for i := range proxies {
				p := proxies[(i+round)%len(proxies)]
				s, err := p.under(ctx, l)
				if err != nil {
					return nil, fmt.Errorf("%s under %s: %w", p.name, l.name, err)
				}
				s.Round = round
				samples = append(samples, s)
			}
		}
	}
	if len(o.Loads) > 0 && !slices.Contains(o.Loads, "idle") {
		return samples, nil
	}
	fmt.Fprintf(o.Progress, "hop: %d idle streams\n", idleStreams)
	for _, p := range proxies {
		if p.process == nil {
			continue
		}
		s, err := p.idle(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s with idle streams: %w", p.name, err)
		}
		samples = append(samples, s)
	}
	return samples, nil
}

// under puts one proxy under one load.
func (p proxy) under(ctx context.Context, l load) (Sample, error) {
	begin := time.Now().Add(warmUp)
	end := begin.Add(span)
	used := make(chan result[time.Duration], 1)
	go func() { used <- p.usage(ctx, begin, end) }()
	count, delays, err := l.run(ctx, p.address, begin, end)
	cpu := <-used
	if err != nil {
		return Sample{}, err
	}
	if cpu.err != nil {
		return Sample{}, cpu.err
	}
	if count == 0 {
		return Sample{}, errors.New("nothing was answered")
	}
	us := make([]float64, len(delays))
	for i, d := range delays {
		us[i] = float64(d.Nanoseconds()) / 1e3
	}
	return Sample{
		Proxy: p.name, Load: l.name, Count: count, Seconds: span.Seconds(), CPUSeconds: cpu.value.Seconds(),
		P50Us: report.Median(us), P99Us: report.Percentile(us, 99),
	}, nil
}

type result[T any] struct {
	value T
	err   error
}

// usage is the processor time that the proxy uses from begin to end.
func (p proxy) usage(ctx context.Context, begin, end time.Time) (r result[time.Duration]) {
	if p.process == nil {
		return r
	}
	var at [2]time.Duration
	for i, when := range []time.Time{begin, end} {
		if r.err = until(ctx, when); r.err != nil {
			return r
		}
		if _, at[i], r.err = p.process.Usage(); r.err != nil {
			return r
		}
	}
	r.value = at[1] - at[0]
	return r
}

func until(ctx context.Context, when time.Time) error {
	timer := time.NewTimer(time.Until(when))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// idle opens streams that say one word and then nothing, and looks at the proxy's memory.
func (p proxy) idle(ctx context.Context) (Sample, error) {
	before, _, err := p.process.Usage()
	if err != nil {
		return Sample{}, err
	}
	closeAll, err := openIdle(ctx, p.address, idleStreams)
	defer closeAll()
	if err != nil {
		return Sample{}, err
	}
	after, _, err := p.process.Usage()
	return Sample{Proxy: p.name, Load: "idle", Count: idleStreams, ResidentBytes: after - before}, err
}
