package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// answers is an Envoy that answers each refund's attempts by a script.
type answers struct {
	mu     sync.Mutex
	script []http.HandlerFunc
	seen   map[string][]time.Time
	bodies map[string][]refund.Request
	done   func() // called before each answer that ends a script
}

func (a *answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body refund.Request
	_ = json.NewDecoder(r.Body).Decode(&body)
	a.mu.Lock()
	key := r.Header.Get("Idempotency-Key")
	n := len(a.seen[key])
	a.seen[key] = append(a.seen[key], time.Now())
	a.bodies[key] = append(a.bodies[key], body)
	a.mu.Unlock()
	if r.Host != "customer-service.agents" || key != body.RefundID || n >= len(a.script) {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	if n == len(a.script)-1 {
		a.done()
	}
	a.script[n](w, r)
}

func retrySignal(afterMS string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(refund.HeaderShouldRetry, "true")
		w.Header().Set(refund.HeaderRollback, "from=2, to=1, effects=none")
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Retry-After-Ms", afterMS)
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func plain(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(refund.HeaderVersion, "customer-service:1")
		w.WriteHeader(status)
	}
}

// play runs the queue against the script until five refunds have come to its end.
func play(t *testing.T, script ...http.HandlerFunc) (*answers, []refund.Attempt) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := 0
	a := &answers{script: script, seen: map[string][]time.Time{}, bodies: map[string][]refund.Request{}}
	a.done = func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if ended++; ended == 5 {
			stop()
		}
	}
	one, two := httptest.NewServer(a), httptest.NewServer(a)
	defer one.Close()
	defer two.Close()
	path := filepath.Join(t.TempDir(), "client.jsonl")
	err := run(ctx, options{
		envoys: []string{one.URL, two.URL}, host: "customer-service.agents", log: path, seed: 7, rate: 200, grace: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	attempts, err := refund.ReadLog[refund.Attempt](path)
	if err != nil {
		t.Fatal(err)
	}
	if len(attempts) < 5 {
		t.Fatalf("%d attempts logged, want at least 5", len(attempts))
	}
	return a, attempts
}

func TestQueueRetriesOnTheSignalOnly(t *testing.T) {
	a, attempts := play(t, retrySignal("40"), retrySignal("0"), plain(http.StatusOK))
	byRefund := map[string][]refund.Attempt{}
	for _, at := range attempts {
		byRefund[at.RefundID] = append(byRefund[at.RefundID], at)
	}
	for id, list := range byRefund {
		slices.SortFunc(list, func(x, y refund.Attempt) int { return x.Attempt - y.Attempt })
		if len(list) != 3 || !list[0].Signal || !list[1].Signal || list[2].Signal || list[2].Status != 200 || list[2].Version != "customer-service:1" {
			t.Fatalf("%s went %+v, want two signals and a 200", id, list)
		}
		if wait := list[1].SentAt.Sub(list[0].AnsweredAt); wait < 40*time.Millisecond {
			t.Errorf("%s came back after %v, before the 40ms the signal asked for", id, wait)
		}
		if list[0].Envoy == list[1].Envoy {
			t.Errorf("%s was sent twice over one Envoy", id)
		}
		if bodies := a.bodies[id]; bodies[0] != bodies[1] || bodies[0].AmountCents != list[0].AmountCents {
			t.Errorf("%s changed between attempts: %+v", id, bodies)
		}
	}
}

func TestEverythingElseIsFinal(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"500":      plain(http.StatusInternalServerError),
		"bare 503": plain(http.StatusServiceUnavailable),
		"503 without x-spec-rollback": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(refund.HeaderShouldRetry, "true")
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, attempts := play(t, answer)
			for _, at := range attempts {
				if at.Attempt != 1 || at.Signal {
					t.Fatalf("%+v: a final answer was followed up", at)
				}
			}
		})
	}
}

func TestBrokenConnectionIsFinal(t *testing.T) {
	// Kept-alive connections that break are what net/http would repeat by itself.
	a, attempts := play(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Idempotency-Key") == "rf-7-000000" {
			w.WriteHeader(http.StatusOK)
			return
		}
		panic(http.ErrAbortHandler)
	})
	for key, times := range a.seen {
		if len(times) != 1 {
			t.Errorf("%s arrived %d times", key, len(times))
		}
	}
	for _, at := range attempts {
		if at.RefundID != "rf-7-000000" && (at.Status != 0 || at.Error == "" || at.Signal) {
			t.Errorf("%+v: want no answer and a reason", at)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 24, 14, 18, 0, 0, time.UTC)
	for _, c := range []struct {
		ms, plain string
		want      time.Duration
	}{
		{"300", "1", 300 * time.Millisecond},
		{"", "2", 2 * time.Second},
		{"-1", "2", 2 * time.Second},
		{"", "Tue, 24 Nov 2026 14:18:05 GMT", 5 * time.Second},
		{"", "Tue, 24 Nov 2026 14:17:05 GMT", 0},
		{"", "soon", time.Second},
		{"", "86400", maxPause},
	} {
		header := http.Header{}
		header.Set("Retry-After-Ms", c.ms)
		header.Set("Retry-After", c.plain)
		if got := retryAfter(header, now); got != c.want {
			t.Errorf("retry-after-ms %q, Retry-After %q: wait %v, want %v", c.ms, c.plain, got, c.want)
		}
	}
}
