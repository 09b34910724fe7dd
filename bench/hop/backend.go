package hop

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// backend is the agent behind every proxy, in the measuring process.
type backend struct {
	address string
	server  *http.Server
	done    chan struct{}
}

func startBackend(ctx context.Context) (*backend, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/small", answerSmall)
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("/events", sendEvents)
	mux.HandleFunc("/hop.Echo/Unary", unary)
	b := &backend{address: l.Addr().String(), server: newServer(mux), done: make(chan struct{})}
	go func() {
		defer close(b.done)
		_ = b.server.Serve(l) // until it is closed
	}()
	return b, nil
}

func (b *backend) stop() {
	_ = b.server.Close()
	<-b.done
}

func newServer(h http.Handler) *http.Server {
	s := &http.Server{Handler: h, Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 250}}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	return s
}

var answer = []byte(strings.Repeat("y", 2*smallBody))

func answerSmall(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer)
}

// echo answers with as much as it has read, once it has read all.
func echo(w http.ResponseWriter, r *http.Request) {
	buffer := make([]byte, 64<<10)
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, buffer)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	for n > 0 {
		wrote, err := w.Write(buffer[:min(n, int64(len(buffer)))])
		if err != nil {
			return
		}
		n -= int64(wrote)
	}
}

// unary answers with the message that it got. It reads no protobuf: neither does a proxy.
func unary(w http.ResponseWriter, r *http.Request) {
	message, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Trailer", "Grpc-Status")
	_, _ = w.Write(message)
	h.Set("Grpc-Status", "0")
}

// sendEvents writes an event at once, after a pause, and then in every span, each with the time at which it was written.
func sendEvents(w http.ResponseWriter, r *http.Request) {
	every, err := time.ParseDuration(r.FormValue("every"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	after, _ := time.ParseDuration(r.FormValue("after"))
	w.Header().Set("Content-Type", "text/event-stream")
	padding := strings.Repeat("z", smallBody)
	send := func() bool {
		_, err := fmt.Fprintf(w, "data: %d %s\n\n", time.Now().UnixNano(), padding)
		return err == nil && http.NewResponseController(w).Flush() == nil
	}
	if !send() || until(r.Context(), time.Now().Add(after)) != nil {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if !send() {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// reverseProxy is httputil's as its documentation shows it, with HTTP/2 to the agent where the call is gRPC.
func reverseProxy(ctx context.Context, listen, agent string) error {
	target, err := url.Parse("http://" + agent)
	if err != nil {
		return err
	}
	plain := http.DefaultTransport.(*http.Transport).Clone()
	plain.MaxIdleConnsPerHost, plain.DisableCompression = 256, true
	rpc := plain.Clone()
	rpc.Protocols = new(http.Protocols)
	rpc.Protocols.SetUnencryptedHTTP2(true)
	s := newServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
				return rpc.RoundTrip(r)
			}
			return plain.RoundTrip(r)
		}),
	})
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
