package sidecar_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/agent"
	"github.com/specproxy/specproxy/internal/sidecar/journal"
	"github.com/specproxy/specproxy/internal/sidecar/localapi"
	"github.com/specproxy/specproxy/internal/sidecar/posture"
	"github.com/specproxy/specproxy/internal/sidecar/proxy"
	"github.com/specproxy/specproxy/internal/versions"
)

// TestAThousandGrantsRaceOneCancel opens a thousand executions on the sidecar's data path, over real connections. Their agent asks the local
// API, over real connections too and with a real journal, for an irreversible act, while an order cancels whatever has done nothing. Each
// client must see exactly one of the two: its act done and an answer, or a retry signal and no act.
func TestAThousandGrantsRaceOneCancel(t *testing.T) {
	const n = 1000
	contract := drain.Contract{
		Effects: drain.Guarded,
		Default: drain.Action{OnRollback: drain.Complete},
		Rules:   []drain.Rule{{When: drain.Match{Effects: drain.AnyOf{drain.EffectsNone}}, Action: drain.Action{OnRollback: drain.Cancel}}},
	}
	ledger := drain.NewLedger(contract)
	keeper := posture.New(filepath.Join(t.TempDir(), "state"), ledger, time.Now)
	grants, _, _, err := journal.Open(filepath.Join(t.TempDir(), "grants"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = grants.Close() })
	local := listen(t, localapi.New(localapi.Config{
		Ledger: ledger, Guarded: true, Journal: grants, Changed: func() {}, Now: time.Now, Log: zap.NewNop(),
	}).Handler())

	var arrived, grantsGiven atomic.Int64
	// A tenth has acted when the order comes, a tenth asks only then, and a few only when it is in force; the others race it.
	all, some, ordered, applied := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
	var acted sync.Map // by the client's number
	backend := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		number := r.URL.Path
		place := arrived.Add(1)
		if place == n {
			close(all)
		}
		wait := all
		if place > n*9/10 {
			wait = ordered
		}
		if place > n*98/100 {
			wait = applied
		}
		select {
		case <-wait:
		case <-r.Context().Done():
			return
		}
		if ask(t, local, r.Header.Get("X-Execution-Id")) {
			acted.Store(number, true)
			if grantsGiven.Add(1) == n/10 {
				close(some)
			}
		}
		_, _ = io.WriteString(w, "done")
	}))

	data := proxy.New(proxy.Config{
		Ref: versions.Ref{Spec: "customer-service", Version: "2.1.0"}, Digest: "sha256:feed", Instance: "one", BodyBuffer: 1 << 10, Contract: contract,
		Ledger: ledger, Posture: keeper.Current, Agent: agent.Endpoint{Network: "tcp", Address: backend}, Changed: func() {},
		Ended: func(r drain.Row) { _ = grants.End(r.ID) }, Now: time.Now, Random: func() float64 { return 0 }, Log: zap.NewNop(),
	})
	t.Cleanup(data.CloseIdle)
	if _, err := keeper.Apply(&sidecarv1.State{Generation: 1, Pin: "pin", ExecutionKey: []byte("key")}); err != nil {
		t.Fatal(err)
	}
	front := listen(t, data)

	answers := make([]int, n)
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			res, err := http.Post(fmt.Sprintf("http://%s/%d", front, i), "text/plain", bytes.NewReader([]byte("x")))
			if err != nil {
				t.Errorf("client %d: %v", i, err)
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			answers[i] = res.StatusCode
		})
	}
	<-some
	close(ordered)
	if _, err := keeper.Apply(&sidecarv1.State{Generation: 2, Pin: "pin", ExecutionKey: []byte("key"), Fence: &sidecarv1.Fence{
		Generation: 7, TargetVersion: "2.0.3", TargetPin: "pin203", Postmortem: "PM-1", OrderedAt: timestamppb.Now(),
	}}); err != nil {
		t.Error(err)
	}
	close(applied)
	clients.Wait()

	granted, cancelled := 0, 0
	for i := range n {
		_, did := acted.Load(fmt.Sprintf("/%d", i))
		switch {
		case did && answers[i] == http.StatusOK:
			granted++
		case !did && answers[i] == http.StatusServiceUnavailable:
			cancelled++
		default:
			t.Errorf("client %d: acted=%v and status %d", i, did, answers[i])
		}
	}
	if granted == 0 || cancelled == 0 {
		t.Errorf("%d granted, %d cancelled: both must be seen", granted, cancelled)
	}
	if got := ledger.Totals(); got.InFlight != 0 || got.Cancelled != uint64(cancelled) {
		t.Errorf("totals %+v, want %d cancelled", got, cancelled)
	}
	t.Logf("%d granted, %d cancelled", granted, cancelled)
}

func listen(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.Listener.Addr().String()
}

// ask asks for the act and says whether it was granted. Anything but a clear answer is an error.
func ask(t *testing.T, local, execution string) bool {
	body, err := json.Marshal(map[string]string{"executionId": execution, "tool": "refund.issue", "class": "irreversible", "key": execution})
	if err != nil {
		t.Error(err)
		return false
	}
	res, err := http.Post("http://"+local+"/v1/effects", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Errorf("local API: %v", err)
		return false
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	switch res.StatusCode {
	case http.StatusOK:
		return true
	case http.StatusConflict, http.StatusNotFound: // cut, or cut and gone
		return false
	}
	t.Errorf("local API: status %d", res.StatusCode)
	return false
}
