package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// traffic sends a mix of unary, SSE and gRPC requests at a fixed rate through one Envoy. Clients never retry. Every answer is checked.
type traffic struct {
	host, envoy string
	flips       *flips
	conn        *grpc.ClientConn
	http        *http.Client

	routed func(from, to int) []string // versions that held weight between two flip counts

	prefix string // of the ids, so that agents can tell one run from another

	wg    sync.WaitGroup
	mu    sync.Mutex
	sent  map[string]int
	open  map[string]struct{} // ids sent and not answered yet
	fails []failure
}

// failure is one request that was not answered as it must be.
type failure struct{ id, why string }

func (f failure) String() string { return f.id + " " + f.why }

// kinds of requests, in the order they are sent; streams are few because each lives for a flip or more.
var kinds = []string{"unary", "unary", "grpc-unary", "unary", "sse", "unary", "unary", "grpc-unary", "unary", "grpc-bidi"}

func newTraffic(t *testing.T, host, envoy string, f *flips, routed func(from, to int) []string) *traffic {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+envoy, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(host), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &traffic{host: host, envoy: envoy, flips: f, conn: conn, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, routed: routed, sent: map[string]int{}, open: map[string]struct{}{}}
}

// begin sends rate requests a second until the function it returns is called, which also counts flips until the last stream has ended.
func (tr *traffic) begin(rate int) (end func()) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); tr.run(ctx, rate) }()
	return sync.OnceFunc(func() {
		stop()
		// A stream may have been sent a moment ago and not have reached its agent, which will wait for a flip after that.
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			tr.flips.add()
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
}

// warm waits until the first request is answered.
func (tr *traffic) warm(t *testing.T) {
	t.Helper()
	eventually(t, "first answer", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := tr.unary(ctx, "warm-up")
		return err
	})
}

// run sends rate requests a second until ctx ends, then waits for the answers.
func (tr *traffic) run(ctx context.Context, rate int) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			kind := kinds[i%len(kinds)]
			tr.wg.Go(func() { tr.one(kind, fmt.Sprintf("%s%s-%d", tr.prefix, kind, i)) })
		case <-ctx.Done():
			tr.wg.Wait()
			return
		}
	}
}

// one sends one request and checks its answer: complete, for this id, by a version that held weight while it ran.
func (tr *traffic) one(kind, id string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tr.mu.Lock()
	tr.open[id] = struct{}{}
	tr.mu.Unlock()
	before, _ := tr.flips.now()
	version, err := map[string]func(context.Context, string) (string, error){
		"unary": tr.unary, "sse": tr.sse, "grpc-unary": tr.grpcUnary, "grpc-bidi": tr.grpcBidi,
	}[kind](ctx, id)
	after, _ := tr.flips.now()
	if err == nil && !strings.Contains(strings.Join(tr.routed(before, after), " "), version) {
		err = fmt.Errorf("answered by %q, but only %v held weight", version, tr.routed(before, after))
	}
	if err == nil && (kind == "sse" || kind == "grpc-bidi") && after == before {
		err = fmt.Errorf("the stream spans no flip")
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.sent[kind]++
	delete(tr.open, id)
	if err != nil {
		tr.fails = append(tr.fails, failure{id, fmt.Sprintf("(flips %d to %d): %v", before, after, err)})
	}
}

// unanswered are the ids that wait for an answer now.
func (tr *traffic) unanswered() map[string]struct{} {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return maps.Clone(tr.open)
}

// failed are the failures so far.
func (tr *traffic) failed() []failure {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Clone(tr.fails)
}

// total is the number of requests that were answered or failed.
func (tr *traffic) total() int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	n := 0
	for _, sent := range tr.sent {
		n += sent
	}
	return n
}

// report fails the test with every failure, up to a number that can be read.
func (tr *traffic) report(t *testing.T) {
	t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	t.Logf("answered: %v", tr.sent)
	for i, fail := range tr.fails {
		t.Error(fail)
		if i == 20 {
			t.Fatalf("and %d more", len(tr.fails)-i)
		}
	}
}

func (tr *traffic) do(ctx context.Context, method, path, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+tr.envoy+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Host = tr.host
	res, err := tr.http.Do(req)
	if err == nil && res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		return nil, fmt.Errorf("%s: %s %v", res.Status, text, res.Header)
	}
	return res, err
}

func (tr *traffic) unary(ctx context.Context, id string) (string, error) {
	res, err := tr.do(ctx, http.MethodPost, "/unary", id)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	version, got, _ := strings.Cut(string(body), " ")
	if got != id {
		return "", fmt.Errorf("body %q is not for %s", body, id)
	}
	if h := res.Header.Get("X-Spec-Version"); !strings.HasSuffix(h, ":"+version) {
		return "", fmt.Errorf("x-spec-version %q on an answer by %s", h, version)
	}
	return version, nil
}

func (tr *traffic) sse(ctx context.Context, id string) (string, error) {
	res, err := tr.do(ctx, http.MethodGet, "/sse?id="+id, "")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var events []string
	for scan := bufio.NewScanner(res.Body); scan.Scan(); {
		if data, ok := strings.CutPrefix(scan.Text(), "data: "); ok {
			events = append(events, data)
		}
	}
	if len(events) != 2 {
		return "", fmt.Errorf("events %q, want a first and a last", events)
	}
	version, _, _ := strings.Cut(events[0], " ")
	if events[0] != version+" "+id+" first" || events[1] != version+" "+id+" last" {
		return "", fmt.Errorf("events %q", events)
	}
	return version, nil
}

func (tr *traffic) grpcUnary(ctx context.Context, id string) (string, error) {
	res, err := testgrpc.NewTestServiceClient(tr.conn).UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: &testgrpc.Payload{Body: []byte(id)}})
	if err != nil {
		return "", err
	}
	if got := string(res.GetPayload().GetBody()); got != id {
		return "", fmt.Errorf("body %q is not for %s", got, id)
	}
	return res.GetUsername(), nil
}

func (tr *traffic) grpcBidi(ctx context.Context, id string) (string, error) {
	stream, err := testgrpc.NewTestServiceClient(tr.conn).FullDuplexCall(ctx)
	if err != nil {
		return "", err
	}
	version := ""
	for i := range 2 {
		if err := stream.Send(&testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: []byte(id)}}); err != nil {
			return "", err
		}
		res, err := stream.Recv()
		if err != nil {
			return "", err
		}
		by, got, _ := strings.Cut(string(res.GetPayload().GetBody()), " ")
		if got != id || i > 0 && by != version {
			return "", fmt.Errorf("message %d is %q", i, res.GetPayload().GetBody())
		}
		version = by
	}
	if err := stream.CloseSend(); err != nil {
		return "", err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("after the last message: %w, want the end", err)
	}
	return version, nil
}
