package discovery_test

import (
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/types/known/timestamppb"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/envoytest"
	sidecaragent "github.com/specproxy/specproxy/internal/sidecar/agent"
	"github.com/specproxy/specproxy/internal/sidecar/posture"
	"github.com/specproxy/specproxy/internal/sidecar/proxy"
	"github.com/specproxy/specproxy/internal/versions"
)

// sidecar is the data path of a real one, fenced in favour of target. Nothing stands behind it.
func sidecar(t *testing.T, version, target string) (p *proxy.Proxy, address string) {
	t.Helper()
	contract := drain.Contract{Default: drain.Action{OnRollback: drain.Complete}}
	ledger := drain.NewLedger(contract)
	keeper := posture.New(filepath.Join(t.TempDir(), "state"), ledger, time.Now)
	p = proxy.New(proxy.Config{
		Ref: versions.Ref{Spec: shop, Version: version}, Instance: "one", BodyBuffer: 1 << 10, Contract: contract, Ledger: ledger, Posture: keeper.Current,
		Agent: sidecaragent.Endpoint{Network: "tcp", Address: "127.0.0.1:1"}, Changed: func() {}, Now: time.Now, Random: func() float64 { return 0 }, Log: zaptest.NewLogger(t),
	})
	t.Cleanup(p.CloseIdle)
	state := &sidecarv1.State{Generation: 1, Pin: pin(shop, version), ExecutionKey: []byte("key"), Fence: &sidecarv1.Fence{
		Generation: 1, TargetVersion: target, TargetPin: pin(shop, target), OrderedAt: timestamppb.Now(),
	}}
	if applied, err := keeper.Apply(state); err != nil || !applied {
		t.Fatalf("apply state: %v %v", applied, err)
	}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	return p, s.Listener.Addr().String()
}

// Two pools that are both abandoned in favour of the other must not pass a request on for ever, nor show a client how they do it.
func TestHopsAreBounded(t *testing.T) {
	older, atOlder := sidecar(t, "2.0.3", "2.1.0")
	newer, atNewer := sidecar(t, "2.1.0", "2.0.3")
	spec := specOf(shop, 1, []split{{"2.0.3", 10000}, {"2.1.0", 0}}, map[string][]string{"2.0.3": {atOlder}, "2.1.0": {atNewer}})
	cp := serve(t, newSource(spec), "")
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	for n, header := range [][]string{nil, {"x-spec-pin", pin(shop, "2.1.0")}, {"x-spec-hop", "1"}} {
		got := ask(t, e, "POST", shopHost, "/work", "body", header...)
		if got.status != 503 || got.header.Get("X-Should-Retry") != "true" || got.header.Get("Location") != "" || got.header.Get("X-Spec-Hop") != "" {
			t.Errorf("%v: got %d %q %v", header, got.status, got.body, got.header)
		}
		if passed := older.PassedOn() + newer.PassedOn(); passed != 5*uint64(n+1) {
			t.Errorf("%v: passed on %d times by now, want 5 each", header, passed)
		}
	}
}
