package drain

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/specproxy/specproxy/bench/rig"
	"github.com/specproxy/specproxy/internal/loopback"
)

// Peer is what ending the same exchanges takes where nothing stands behind them: net/http's server alone, without agents, ledgers or a control plane.
type Peer struct {
	Exchanges   int  `json:"exchanges"`
	Servers     int  `json:"servers"`
	Multiplexed bool `json:"multiplexed"`
	// LastMs is from the first order to end until the client had read the last signal.
	LastMs float64 `json:"lastMs"`
	// CPUMs is the processor time of all servers in that time.
	CPUMs float64 `json:"cpuMs"`
}

// Paths by which a bare server is asked how many exchanges are open, and told to end them.
const (
	peerOpen = "/open"
	peerEnd  = "/end"
)

// bare serves exchanges until it is told to end them, each with the retry signal that the client looks for.
func bare(ctx context.Context, address string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	var open atomic.Int64
	over := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+peerOpen, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, open.Load()) })
	mux.HandleFunc("GET "+peerEnd, func(http.ResponseWriter, *http.Request) { close(over) })
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		open.Add(1)
		select {
		case <-over:
		case <-r.Context().Done():
		}
		h := w.Header()
		if r.ProtoMajor == 1 {
			h.Set("X-Should-Retry", "true")
			h.Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", "10")
		h.Set("Grpc-Message", "measured 2.1.0 was rolled back to 2.0.0 while this ran; send the request again")
		h.Set("Grpc-Retry-Pushback-Ms", "1000")
	})
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 2 * streamsPerConnection},
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// peer measures the bare servers with the client that the sidecars were measured with.
func (l load) peer(ctx context.Context, o Options, dir string) (Peer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, openTimeout, fmt.Errorf("not done after %s", openTimeout))
	defer cancel()
	p := Peer{Exchanges: l.perSidecar() * l.sidecars, Servers: l.sidecars, Multiplexed: l.multiplexed}
	f := &fleet{load: l}
	defer f.stack.Stop()
	for i := range l.sidecars {
		address, err := loopback.Address()
		if err != nil {
			return p, err
		}
		server, err := rig.Start(dir, fmt.Sprint("bare-", i), o.Self, "child", "bare", address)
		if err != nil {
			return p, err
		}
		f.stack.Push(server.Stop)
		f.sidecars, f.addresses = append(f.sidecars, server), append(f.addresses, address)
		if err := until(ctx, address+" to serve", func() bool { _, err := get(ctx, address, peerOpen); return err == nil }); err != nil {
			return p, err
		}
	}
	err := l.client(ctx, o, filepath.Join(dir, "client-bare.log"), f.addresses, func(lines <-chan string) error {
		if line := <-lines; line != "open" {
			return fmt.Errorf("the client said %q instead of opening its exchanges", line)
		}
		if err := until(ctx, "open exchanges", func() bool { return f.bareOpen(ctx) == p.Exchanges }); err != nil {
			return err
		}
		if err := rig.Rest(ctx, settleFor); err != nil {
			return err
		}
		_, before, err := f.usage()
		if err != nil {
			return err
		}
		began := time.Now()
		for _, address := range f.addresses {
			if _, err := get(ctx, address, peerEnd); err != nil {
				return err
			}
		}
		got, err := outcome(<-lines, p.Exchanges)
		if err != nil {
			return err
		}
		_, after, err := f.usage()
		p.LastMs, p.CPUMs = ms(time.Unix(0, got.LastNano).Sub(began)), ms(after-before)
		return err
	})
	return p, err
}

func (f *fleet) bareOpen(ctx context.Context) (all int) {
	for _, address := range f.addresses {
		text, err := get(ctx, address, peerOpen)
		if err != nil {
			return -1
		}
		n, _ := strconv.Atoi(text)
		all += n
	}
	return all
}

func get(ctx context.Context, address, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return string(text), err
}

// until polls.
func until(ctx context.Context, what string, done func() bool) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}
