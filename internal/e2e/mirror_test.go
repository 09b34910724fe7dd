package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// mirror is an agent that does what each request asks for: it echoes, redirects, answers early, or waits until it is cut. It keeps every
// request that has reached it.
type mirror struct {
	testgrpc.UnimplementedTestServiceServer
	version, url string

	mu    sync.Mutex
	seen  map[string][]http.Header // by the request's name
	moved chan struct{}
}

func startMirror(t *testing.T, version string) *mirror {
	t.Helper()
	m := &mirror{version: version, seen: map[string][]http.Header{}, moved: make(chan struct{})}
	gs := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(gs, m)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.url = "http://" + l.Addr().String()
	hs := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.note(r)
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			gs.ServeHTTP(w, r)
			return
		}
		m.serve(w, r)
	})}
	hs.Protocols.SetHTTP1(true)
	hs.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() { defer close(done); _ = hs.Serve(l) }()
	t.Cleanup(func() {
		hs.Close()
		gs.Stop()
		<-done
	})
	return m
}

// What a request asks for, in headers that no proxy touches.
const (
	askName   = "X-Ask-Name"   // by which the agents' books know it
	askHold   = "X-Ask-Hold"   // wait, at this version, until the request is cut
	askStatus = "X-Ask-Status" // answer with this status, before the request is read
	askTo     = "X-Ask-To"     // and with this Location
)

func (m *mirror) note(r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := r.Header.Get(askName)
	m.seen[name] = append(m.seen[name], r.Header.Clone())
	close(m.moved)
	m.moved = make(chan struct{})
}

// requests are those of one name.
func (m *mirror) requests(name string) []http.Header {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[name]
}

// names is how many different requests have come.
func (m *mirror) names() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.seen)
}

func (m *mirror) holds(h http.Header) bool { return h.Get(askHold) == m.version }

func (m *mirror) serve(w http.ResponseWriter, r *http.Request) {
	if status, err := strconv.Atoi(r.Header.Get(askStatus)); err == nil {
		if to := r.Header.Get(askTo); to != "" {
			w.Header().Set("Location", to)
		}
		w.WriteHeader(status)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if m.holds(r.Header) {
		<-r.Context().Done()
		return
	}
	fmt.Fprintf(w, "%s %s %s", m.version, r.RequestURI, sum(body))
}

// sum names a body.
func sum(body []byte) string { return fmt.Sprintf("%d bytes, %.8x", len(body), sha256.Sum256(body)) }

// held waits at the version that was asked to.
func (m *mirror) held(ctx context.Context) error {
	in, _ := metadata.FromIncomingContext(ctx)
	if asked := in.Get(askHold); len(asked) == 0 || asked[0] != m.version {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (m *mirror) UnaryCall(ctx context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	return &testgrpc.SimpleResponse{Payload: in.GetPayload()}, m.held(ctx)
}

// StreamingInputCall counts the bytes of the whole stream.
func (m *mirror) StreamingInputCall(stream grpc.ClientStreamingServer[testgrpc.StreamingInputCallRequest, testgrpc.StreamingInputCallResponse]) error {
	size := 0
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		size += len(in.GetPayload().GetBody())
	}
	if err := m.held(stream.Context()); err != nil {
		return err
	}
	return stream.SendAndClose(&testgrpc.StreamingInputCallResponse{AggregatedPayloadSize: int32(size)})
}
