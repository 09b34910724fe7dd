package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// fakeWorld is a guard and a payment process that remember what they were asked.
type fakeWorld struct {
	mu       sync.Mutex
	refuse   bool
	calls    []string
	outcomes chan string
	paying   chan struct{} // receives when a payment has come in
	release  chan struct{} // a payment waits for it where it is not nil
}

func (f *fakeWorld) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var fields map[string]any
	_ = json.Unmarshal(body, &fields)
	f.mu.Lock()
	f.calls = append(f.calls, r.URL.Path)
	refuse := f.refuse
	f.mu.Unlock()
	switch r.URL.Path {
	case "/v1/effects":
		if refuse || fields["executionId"] != "x-1" || fields["tool"] != "refund.issue" || fields["class"] != "irreversible" || fields["key"] != "o-1" {
			w.WriteHeader(http.StatusConflict)
		}
	case "/v1/outcome":
		f.outcomes <- fields["outcome"].(string) + ": " + fields["reason"].(string)
		w.WriteHeader(http.StatusNoContent)
	case "/payments":
		f.paying <- struct{}{}
		if f.release != nil {
			<-f.release
		}
		answer := refund.Answer{Decision: refund.Paid}
		if refund.AccountClosed(fields["customer"].(string)) {
			answer = refund.Answer{Decision: refund.Refused, Reason: "account closed"}
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
		_ = json.NewEncoder(w).Encode(answer)
	}
}

func (f *fakeWorld) asked() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.calls, " ")
}

// stage is one agent with its world.
type stage struct {
	world   *fakeWorld
	url     string
	journal string
	// stop tells the agent to leave; settle waits until no request is in hand.
	stop, settle func()
}

func newStage(t *testing.T, limits Limits) *stage {
	t.Helper()
	world := &fakeWorld{outcomes: make(chan string, 8), paying: make(chan struct{}, 8)}
	outside := httptest.NewServer(world)
	journal := filepath.Join(t.TempDir(), "journal.jsonl")
	log, err := refund.OpenLog(journal)
	if err != nil {
		t.Fatal(err)
	}
	stopping := make(chan struct{})
	agent := &Agent{
		Limits: limits, World: newWorld(outside.URL, outside.URL), Journal: log, Instance: "i", Seed: 1, ParkFor: time.Hour, Stopping: stopping, Log: zap.NewNop(),
	}
	inside := httptest.NewServer(agent.Handler())
	settle := sync.OnceFunc(inside.Close)
	t.Cleanup(func() { settle(); outside.Close(); log.Close() })
	return &stage{world: world, url: inside.URL, journal: journal, stop: sync.OnceFunc(func() { close(stopping) }), settle: settle}
}

func (s *stage) send(ctx context.Context, t *testing.T, cents int, customer string) (*http.Response, error) {
	t.Helper()
	body, _ := json.Marshal(refund.Request{RefundID: "rf-1", Order: "o-1", Customer: customer, AmountCents: cents})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/refunds", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(refund.HeaderExecution, "x-1")
	request.Header.Set(refund.HeaderVersion, "customer-service:9.9.9")
	response, err := http.DefaultClient.Do(request)
	if err == nil {
		response.Body.Close()
	}
	return response, err
}

// steps reads the journal once no request is in hand.
func (s *stage) steps(t *testing.T) string {
	t.Helper()
	s.settle()
	lines, err := refund.ReadLog[refund.JournalLine](s.journal)
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	for _, l := range lines {
		if l.Version != "customer-service:9.9.9" || l.ExecutionID != "x-1" || l.RefundID != "rf-1" {
			t.Errorf("journal line %+v does not name its work", l)
		}
		steps = append(steps, string(l.Step))
	}
	return strings.Join(steps, " ")
}

func TestAgentPaysOnceAfterAsking(t *testing.T) {
	for _, c := range []struct {
		name     string
		limits   Limits
		cents    int
		customer string
		refuse   bool
		status   int
		outcome  string
		asked    string
	}{
		{"within the limit", Limits{Limit: 100}, 10_000, "c-0001", false, 200, "success", "/v1/effects /payments"},
		{"by the exception", Limits{Limit: 100, Exception: &Exception{UpTo: 500, Requires: OrderNumber}}, 49_999, "c-0001", false, 200, "success", "/v1/effects /payments"},
		{"closed account", Limits{Limit: 100}, 10_000, "c-0107", false, 422, `failure; reason="account closed"`, "/v1/effects /payments"},
		{"guard refuses", Limits{Limit: 100}, 10_000, "c-0001", true, 409, `failure; reason="the guard refused: this execution was decided to end"`, "/v1/effects"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, c.limits)
			s.world.refuse = c.refuse
			response, err := s.send(t.Context(), t, c.cents, c.customer)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != c.status || response.Header.Get(refund.HeaderOutcome) != c.outcome {
				t.Errorf("answered %d with outcome %q, want %d with %q", response.StatusCode, response.Header.Get(refund.HeaderOutcome), c.status, c.outcome)
			}
			if got := s.world.asked(); got != c.asked {
				t.Errorf("the agent asked %q, want %q", got, c.asked)
			}
		})
	}
}

func TestAgentParksWhatIsOverTheLimit(t *testing.T) {
	s := newStage(t, Limits{Limit: 100})
	answered := make(chan *http.Response, 1)
	go func() {
		response, err := s.send(t.Context(), t, 10_001, "c-0001")
		if err != nil {
			t.Error(err)
		}
		answered <- response
	}()
	if got, want := <-s.world.outcomes, "failure: over the limit of $100: queued for a supervisor"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	select {
	case r := <-answered:
		t.Fatalf("answered %d although no supervisor came", r.StatusCode)
	default:
	}
	s.stop()
	if r := <-answered; r.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("a stopping agent answered %d, want 504", r.StatusCode)
	}
	if got := s.world.asked(); got != "/v1/outcome" {
		t.Errorf("the agent asked %q although it may not pay", got)
	}
}

func TestAgentStopsWhenItsRequestIsCut(t *testing.T) {
	s := newStage(t, Limits{Limit: 100})
	ctx, cut := context.WithCancel(t.Context())
	sent := make(chan error, 1)
	go func() { _, err := s.send(ctx, t, 10_001, "c-0001"); sent <- err }()
	<-s.world.outcomes
	cut()
	if err := <-sent; err == nil {
		t.Error("a cut request was answered")
	}
	if got := s.steps(t); got != "began parked stopped" {
		t.Errorf("journal is %q, want %q", got, "began parked stopped")
	}
	if got := s.world.asked(); got != "/v1/outcome" {
		t.Errorf("after the cut the agent had asked %q", got)
	}
}

func TestGrantedPaymentOutlivesItsRequest(t *testing.T) {
	s := newStage(t, Limits{Limit: 100})
	s.world.release = make(chan struct{})
	ctx, cut := context.WithCancel(t.Context())
	sent := make(chan error, 1)
	go func() { _, err := s.send(ctx, t, 5_000, "c-0001"); sent <- err }()
	<-s.world.paying
	cut()
	if err := <-sent; err == nil {
		t.Error("a cut request was answered")
	}
	close(s.world.release)
	if got := s.steps(t); got != "began answered" {
		t.Errorf("journal is %q, want %q", got, "began answered")
	}
	if got := s.world.asked(); got != "/v1/effects /payments" {
		t.Errorf("the agent asked %q, want one grant and one payment", got)
	}
}

func TestReadLimits(t *testing.T) {
	for _, c := range []struct {
		name, text, want, fails string
	}{
		{name: "plain", text: "refund:\n  limit: 500\n", want: "up to $500"},
		{
			name: "exception", text: "refund:\n  limit: 100\n  exception: {upTo: 500, requires: order-number}\n",
			want: "up to $100, and up to $500 with the order-number",
		},
		{name: "no limit", text: "refund: {}\n", fails: "refund.limit"},
		{name: "typo", text: "refund:\n  limt: 100\n", fails: "line 2"},
		{name: "pointless exception", text: "refund: {limit: 500, exception: {upTo: 100, requires: order-number}}\n", fails: "allows anyway"},
		{name: "unknown requirement", text: "refund: {limit: 100, exception: {upTo: 500, requires: moonlight}}\n", fails: "moonlight"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), limitsFile)
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			limits, err := readLimits(path)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("error %v does not say %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := limits.String(); got != c.want {
				t.Errorf("limits are %q, want %q", got, c.want)
			}
		})
	}
}

func TestSpecsOfTheExample(t *testing.T) {
	refunds := map[string]int{"$99": 9_900, "$101": 10_100, "$500": 50_000, "$501": 50_100}
	for version, allowed := range map[string]string{
		"2.0.3": "$101 $500 $99", "2.1.0": "$99", "2.2.0": "$101 $500 $99",
	} {
		limits, err := readLimits(filepath.Join("..", "specs", version, limitsFile))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for name, cents := range refunds {
			if limits.Allow(refund.Request{Order: "o-1", AmountCents: cents}) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != allowed {
			t.Errorf("%s allows %v, want %s", version, got, allowed)
		}
	}
}
