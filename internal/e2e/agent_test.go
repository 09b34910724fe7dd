package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// flips counts route changes and wakes those who wait for the next one.
type flips struct {
	mu    sync.Mutex
	count int
	moved chan struct{}
}

func newFlips() *flips { return &flips{moved: make(chan struct{})} }

func (f *flips) add() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	close(f.moved)
	f.moved = make(chan struct{})
}

func (f *flips) now() (int, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count, f.moved
}

// past returns once the count is beyond n.
func (f *flips) past(ctx context.Context, n int) error {
	for {
		count, moved := f.now()
		if count > n {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// agent speaks HTTP/1.1, SSE and gRPC on one port. Every answer names the agent's version and the request's id, and every stream stays open
// until at least one flip has happened since it began.
type agent struct {
	testgrpc.UnimplementedTestServiceServer
	version string
	flips   *flips
	url     string

	mu    sync.Mutex
	begun []string // ids, in the order in which the agent began them
}

func startAgent(t *testing.T, version string, f *flips) *agent {
	t.Helper()
	a := &agent{version: version, flips: f}
	gs := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(gs, a)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.url = "http://" + l.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("/unary", a.unary)
	mux.HandleFunc("/sse", a.sse)
	hs := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			gs.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
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
	return a
}

func (a *agent) begin(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.begun = append(a.begun, id)
}

// ids are those of the executions that the agent has begun, and how often.
func (a *agent) ids() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[string]int, len(a.begun))
	for _, id := range a.begun {
		out[id]++
	}
	return out
}

func (a *agent) unary(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	a.begin(string(body))
	w.Header().Set("X-Spec-Outcome", "success")
	fmt.Fprintf(w, "%s %s", a.version, body)
}

func (a *agent) sse(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	a.begin(id)
	began, _ := a.flips.now()
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprintf(w, "data: %s %s first\n\n", a.version, id)
	_ = http.NewResponseController(w).Flush()
	if a.flips.past(r.Context(), began) == nil {
		fmt.Fprintf(w, "data: %s %s last\n\n", a.version, id)
	}
}

func (a *agent) UnaryCall(_ context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	a.begin(string(in.GetPayload().GetBody()))
	return &testgrpc.SimpleResponse{Payload: in.GetPayload(), Username: a.version}, nil
}

// FullDuplexCall echoes what it gets, and its last message only after a flip.
func (a *agent) FullDuplexCall(stream grpc.BidiStreamingServer[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]) error {
	began, _ := a.flips.now()
	for first := true; ; first = false {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if first {
			a.begin(string(in.GetPayload().GetBody()))
		} else if err := a.flips.past(stream.Context(), began); err != nil {
			return err
		}
		body := append([]byte(a.version+" "), in.GetPayload().GetBody()...)
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: body}}); err != nil {
			return err
		}
	}
}
