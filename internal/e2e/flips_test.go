package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/specproxy/specproxy/internal/controlplane"
	"github.com/specproxy/specproxy/internal/discovery"
)

// completeContract lets everything that runs end under the abandoned version.
const completeContract = "default: {onRollback: complete, within: 5m, then: cancel}"

// traffic sends a mix of unary, SSE and gRPC requests at a fixed rate through one Envoy. Clients never retry. Every answer is checked.
type traffic struct {
	host, envoy string
	flips       *flips
	conn        *grpc.ClientConn
	http        *http.Client

	routed func(from, to int) []string // versions that held weight between two flip counts

	wg    sync.WaitGroup
	mu    sync.Mutex
	sent  map[string]int
	fails []string
}

// kinds of requests, in the order they are sent; streams are few because each lives for a flip or more.
var kinds = []string{"unary", "unary", "grpc-unary", "unary", "sse", "unary", "unary", "grpc-unary", "unary", "grpc-bidi"}

func newTraffic(t *testing.T, host, envoy string, f *flips, routed func(from, to int) []string) *traffic {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+envoy, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(host), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &traffic{host: host, envoy: envoy, flips: f, conn: conn, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, routed: routed, sent: map[string]int{}}
}

// run sends rate requests a second until ctx ends, then waits for the answers.
func (tr *traffic) run(ctx context.Context, rate int) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			kind := kinds[i%len(kinds)]
			tr.wg.Go(func() { tr.one(kind, fmt.Sprintf("%s-%d", kind, i)) })
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
	if err != nil {
		tr.fails = append(tr.fails, fmt.Sprintf("%s (flips %d to %d): %v", id, before, after, err))
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
	if _, err := stream.Recv(); err != io.EOF {
		return "", fmt.Errorf("after the last message: %v, want the end", err)
	}
	return version, nil
}

// flipUnderLoad deploys 1.1.0 and rolls back to 1.0.0 in turn, n flips in all, under traffic. Every cycle-th round trip, the pool that lost
// the traffic is replaced by a new one, so that its cluster leaves the proxies and comes back.
func flipUnderLoad(t *testing.T, order discovery.Order, n, cycle int) *traffic {
	const spec = "shop"
	w := startPlane(t, func(o *controlplane.Options) { o.Discovery = func(d *discovery.Options) { d.Order = order } })
	f := newFlips()
	old, next := startAgent(t, "1.0.0", f), startAgent(t, "1.1.0", f)
	w.publish(spec, "1.0.0", completeContract)
	w.publish(spec, "1.1.0", completeContract)
	for range 2 {
		w.sidecar(spec+":1.0.0", old.url)
	}
	pool := []*process{w.sidecar(spec+":1.1.0", next.url), w.sidecar(spec+":1.1.0", next.url)}
	w.ready(spec, "1.0.0", 2)
	w.ready(spec, "1.1.0", 2)
	w.deploy(spec, "1.0.0")
	envoy := w.envoy("edge-1")
	versions := []string{"1.0.0"} // that hold weight after each flip; guarded by mu
	var mu sync.Mutex
	tr := newTraffic(t, spec+".agents", envoy.Address, f, func(from, to int) []string {
		mu.Lock()
		defer mu.Unlock()
		// A flip takes effect before it is counted, and a command takes its time.
		return versions[from:min(to+2, len(versions))]
	})
	eventually(t, "first answer", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := tr.unary(ctx, "warm-up")
		return err
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); tr.run(ctx, 200) }()
	flip := func(version string, command func()) {
		mu.Lock()
		versions = append(versions, version)
		mu.Unlock()
		command()
		f.add()
	}
	for i := range n / 2 {
		flip("1.1.0", func() { w.deploy(spec, "1.1.0") })
		flip("1.0.0", func() {
			change := w.rollback(spec)
			w.closePostMortem(change.GetPostmortem(), "false-alarm")
		})
		if cycle > 0 && (i+1)%cycle == 0 {
			for _, p := range pool {
				p.terminate() // it stays until its last stream has ended, which may take one more flip
			}
			w.ready(spec, "1.1.0", 0)
			pool = []*process{w.sidecar(spec+":1.1.0", next.url), w.sidecar(spec+":1.1.0", next.url)}
			w.ready(spec, "1.1.0", 2)
		}
	}
	stop()
	f.add() // lets the last streams end
	<-done
	return tr
}

func TestAHundredFlipsUnderMixedTrafficLoseNothing(t *testing.T) {
	tr := flipUnderLoad(t, discovery.MakeBeforeBreak, 100, 10)
	t.Logf("answered: %v", tr.sent)
	for _, kind := range kinds {
		if tr.sent[kind] == 0 {
			t.Errorf("no %s was sent", kind)
		}
	}
	for i, fail := range tr.fails {
		t.Errorf("%s", fail)
		if i == 20 {
			t.Fatalf("and %d more", len(tr.fails)-i)
		}
	}
}

func TestRemovingTheClusterFirstIsSeenByTheSameTraffic(t *testing.T) {
	tr := flipUnderLoad(t, discovery.RemoveFirst, 10, 1)
	if len(tr.fails) == 0 {
		t.Error("removing clusters before routes lost nothing: the traffic of these tests cannot see a wrong order")
	}
}
