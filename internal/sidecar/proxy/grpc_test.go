package proxy_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/specproxy/specproxy/internal/drain"
)

// grpcAgent is an agent that speaks gRPC: calls wait for leave, streams echo.
type grpcAgent struct {
	testgrpc.UnimplementedTestServiceServer
	reached chan metadata.MD
	proceed chan error
	cut     chan error
}

func newGRPCAgent() *grpcAgent {
	return &grpcAgent{reached: make(chan metadata.MD, 10), proceed: make(chan error, 10), cut: make(chan error, 10)}
}

func (a *grpcAgent) handler() http.Handler {
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, a)
	return s
}

func (a *grpcAgent) wait(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	a.reached <- md
	select {
	case err := <-a.proceed:
		return err
	case <-ctx.Done():
		a.cut <- ctx.Err()
		return ctx.Err()
	}
}

func (a *grpcAgent) UnaryCall(ctx context.Context, req *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	if err := a.wait(ctx); err != nil {
		return nil, err
	}
	if err := grpc.SetTrailer(ctx, metadata.Pairs("x-spec-outcome", "success", "x-own", "kept")); err != nil {
		return nil, err
	}
	return &testgrpc.SimpleResponse{Payload: req.GetPayload()}, nil
}

func (a *grpcAgent) StreamingOutputCall(req *testgrpc.StreamingOutputCallRequest, s grpc.ServerStreamingServer[testgrpc.StreamingOutputCallResponse]) error {
	for range req.GetResponseParameters() {
		if err := s.Send(&testgrpc.StreamingOutputCallResponse{Payload: req.GetPayload()}); err != nil {
			return err
		}
	}
	return a.wait(s.Context())
}

func (a *grpcAgent) FullDuplexCall(s grpc.BidiStreamingServer[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	a.reached <- md
	for {
		req, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			a.cut <- err
			return err
		}
		if err := s.Send(&testgrpc.StreamingOutputCallResponse{Payload: req.GetPayload()}); err != nil {
			return err
		}
	}
}

// grpcClient sends what our Envoy would send.
func grpcClient(t *testing.T, addr string) (testgrpc.TestServiceClient, context.Context) {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return testgrpc.NewTestServiceClient(conn), metadata.AppendToOutgoingContext(ctx, "x-spec-buffer", "1024", "x-spec-route", "9")
}

func payload(s string) *testgrpc.Payload { return &testgrpc.Payload{Body: []byte(s)} }

type unaryResult struct {
	body    string
	err     error
	trailer metadata.MD
	header  metadata.MD
}

func unary(ctx context.Context, c testgrpc.TestServiceClient, body string) <-chan unaryResult {
	done := make(chan unaryResult, 1)
	go func() {
		var r unaryResult
		res, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: payload(body)}, grpc.Trailer(&r.trailer), grpc.Header(&r.header))
		r.body, r.err = string(res.GetPayload().GetBody()), err
		done <- r
	}()
	return done
}

func one(md metadata.MD, key string) string {
	if v := md.Get(key); len(v) == 1 {
		return v[0]
	}
	return ""
}

func TestGRPCUnary(t *testing.T) {
	a := newGRPCAgent()
	r := newRig(t, completes, a.handler())
	c, ctx := grpcClient(t, r.addr)
	answered := unary(ctx, c, "hello")
	md := get(t, "call", a.reached)
	a.proceed <- nil
	res := get(t, "answer", answered)
	if res.err != nil || res.body != "hello" || one(res.trailer, "x-own") != "kept" || one(res.trailer, "x-spec-outcome") != "" {
		t.Fatalf("got %+v", res)
	}
	id := one(res.header, "x-execution-id")
	if id == "" || one(md, "x-execution-id") != id || one(md, "x-spec-version") != "customer-service:2.1.0" || one(md, "x-spec-buffer") != "" {
		t.Errorf("the agent got %v, the client %v", md, res.header)
	}
	if row := r.endedRow(); row.Outcome != drain.Success || row.RouteGeneration != 9 || row.Deadline.IsZero() {
		t.Errorf("ledger %+v", row)
	}
}

func TestGRPCStatusOtherThanOKIsAFailure(t *testing.T) {
	a := newGRPCAgent()
	r := newRig(t, completes, a.handler())
	c, ctx := grpcClient(t, r.addr)
	answered := unary(ctx, c, "hello")
	get(t, "call", a.reached)
	a.proceed <- status.Error(codes.InvalidArgument, "no such é")
	if res := get(t, "answer", answered); status.Code(res.err) != codes.InvalidArgument || status.Convert(res.err).Message() != "no such é" {
		t.Errorf("got %v", res.err)
	}
	if row := r.endedRow(); row.Outcome != drain.Failure || row.OutcomeReason != "gRPC status 3: no such é" {
		t.Errorf("ledger %+v", row)
	}
}

// checkSignal holds a gRPC error against what PROTOCOLS asks of a retry signal.
func checkSignal(t *testing.T, err error, trailer metadata.MD, code codes.Code, effects string, delay time.Duration) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != code {
		t.Errorf("code %s, want %s: %v", st.Code(), code, err)
	}
	var info *errdetails.ErrorInfo
	var retry *errdetails.RetryInfo
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = d
		}
	}
	if info.GetReason() != "SPEC_VERSION_ROLLED_BACK" || info.GetMetadata()["from"] != "2.1.0" || info.GetMetadata()["to"] != "2.0.3" || info.GetMetadata()["effects"] != effects {
		t.Errorf("error info %v", info)
	}
	if retry.GetRetryDelay().AsDuration() != delay || one(trailer, "grpc-retry-pushback-ms") == "" {
		t.Errorf("retry info %v, trailers %v", retry, trailer)
	}
}

func TestGRPCCancelBeforeHeaders(t *testing.T) {
	a := newGRPCAgent()
	r := newRig(t, cancels, a.handler())
	c, ctx := grpcClient(t, r.addr)
	answered := unary(ctx, c, "hello")
	get(t, "call", a.reached)
	r.fence()
	res := get(t, "answer", answered)
	checkSignal(t, res.err, res.trailer, codes.Aborted, "none", 2500*time.Millisecond)
	_ = get(t, "the agent's notice", a.cut)
}

// A client library with a retry policy obeys the signal by itself, since it is trailers-only.
func TestGRPCClientRetriesByItself(t *testing.T) {
	a := newGRPCAgent()
	short := cancels
	short.Default.RetryAfter = drain.Range{Min: 10 * time.Millisecond, Max: 10 * time.Millisecond}
	r := newRig(t, short, a.handler())
	conn, err := grpc.NewClient(r.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(
		`{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,"initialBackoff":"60s","maxBackoff":"60s","backoffMultiplier":1,"retryableStatusCodes":["ABORTED"]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	next := newGRPCAgent()
	other := serve(t, next.handler())
	answered := unary(ctx, testgrpc.NewTestServiceClient(conn), "hello")
	get(t, "call", a.reached)
	r.fence(other) // the repeat lands on the fenced sidecar and is forwarded
	get(t, "repeated call", next.reached)
	next.proceed <- nil
	if res := get(t, "answer", answered); res.err != nil || res.body != "hello" {
		t.Errorf("got %+v", res)
	}
}

func TestGRPCCancelInTheMiddleOfAStream(t *testing.T) {
	a := newGRPCAgent()
	r := newRig(t, cancels, a.handler())
	c, ctx := grpcClient(t, r.addr)
	s, err := c.StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{
		Payload: payload("x"), ResponseParameters: []*testgrpc.ResponseParameters{{}, {}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if m, err := s.Recv(); err != nil || string(m.GetPayload().GetBody()) != "x" {
			t.Fatal(m, err)
		}
	}
	get(t, "call", a.reached)
	r.fence()
	_, err = s.Recv()
	checkSignal(t, err, s.Trailer(), codes.Aborted, "none", 2500*time.Millisecond)
}

func TestGRPCBidirectional(t *testing.T) {
	a := newGRPCAgent()
	r := newRig(t, completes, a.handler())
	c, ctx := grpcClient(t, r.addr)
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"one", "two"} {
		if err := s.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload(body)}); err != nil {
			t.Fatal(err)
		}
		if m, err := s.Recv(); err != nil || string(m.GetPayload().GetBody()) != body {
			t.Fatal(m, err)
		}
		r.fence() // what runs goes on
	}
	_ = s.CloseSend()
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end: %v", err)
	}
	if row := r.endedRow(); row.Disposition != drain.Complete {
		t.Errorf("ledger %+v", row)
	}
}

func TestGRPCBidirectionalIsCancelledNotHandedOver(t *testing.T) {
	a := newGRPCAgent()
	r := newRig(t, handsOver, a.handler())
	c, ctx := grpcClient(t, r.addr)
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload("x")}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	r.fence()
	_, err = s.Recv()
	if status.Code(err) != codes.Aborted {
		t.Errorf("got %v", err)
	}
	_ = get(t, "the agent's notice", a.cut)
}

func TestGRPCHandOverIsForwarded(t *testing.T) {
	a, next := newGRPCAgent(), newGRPCAgent()
	r := newRig(t, handsOver, a.handler())
	other := serve(t, next.handler())
	c, ctx := grpcClient(t, r.addr)
	answered := unary(ctx, c, "hello")
	id := one(get(t, "call", a.reached), "x-execution-id")
	r.fence(other)
	md := get(t, "call of the target", next.reached)
	next.proceed <- nil
	if res := get(t, "answer", answered); res.err != nil || res.body != "hello" {
		t.Errorf("got %+v", res)
	}
	if one(md, "x-spec-origin") != id || one(md, "x-spec-hop") != "1" || one(md, "x-spec-deadline") == "" {
		t.Errorf("the target got %v", md)
	}
	if row := r.endedRow(); row.Disposition != drain.Handover {
		t.Errorf("ledger %+v", row)
	}
}

func TestGRPCNewWorkOnAFencedSidecar(t *testing.T) {
	next := newGRPCAgent()
	other := serve(t, next.handler())
	r := fencedRig(t, other)
	c, ctx := grpcClient(t, r.addr)
	answered := unary(ctx, c, "hello")
	get(t, "call of the target", next.reached)
	next.proceed <- nil
	if res := get(t, "answer", answered); res.err != nil || res.body != "hello" {
		t.Errorf("unary: %+v", res)
	}
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload("bidi")}); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Recv(); err != nil || string(m.GetPayload().GetBody()) != "bidi" {
		t.Fatalf("bidi: %v %v", m, err)
	}
	_ = s.CloseSend()
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end: %v", err)
	}

	r.state(nil)
	r.generation++
	bare := fencedRig(t)
	c, ctx = grpcClient(t, bare.addr)
	res := get(t, "answer", unary(ctx, c, "hello"))
	checkSignal(t, res.err, res.trailer, codes.Unavailable, "none", 3*time.Second)
}

func TestGRPCDeadlineTravelsWithAHandOver(t *testing.T) {
	a := newGRPCAgent()
	r := newRig(t, completes, a.handler())
	c, ctx := grpcClient(t, r.addr)
	deadline := time.Now().Add(100 * time.Millisecond)
	answered := unary(metadata.AppendToOutgoingContext(ctx, "x-spec-deadline", deadline.Format(time.RFC3339Nano)), c, "x")
	get(t, "call", a.reached)
	if res := get(t, "answer", answered); status.Code(res.err) != codes.DeadlineExceeded || time.Now().Before(deadline) {
		t.Errorf("got %v", res.err)
	}
	if err := get(t, "the agent's notice", a.cut); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		t.Errorf("the agent saw %v", err)
	}
}
