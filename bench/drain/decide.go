package drain

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	contract "github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/posture"
)

// executions in one ledger, and how often it is decided over them.
const executions, decideRounds = 100_000, 5

// Decide is one order over a ledger in this process: read from the wire, stored, decided, every execution cut, and the acknowledgement written.
type Decide struct {
	Executions int     `json:"executions"`
	Ms         float64 `json:"ms"`
}

// Ledger is what the ledger's executions took of the heap.
type Ledger struct {
	Executions int   `json:"executions"`
	Bytes      int64 `json:"bytes"`
}

func decideAll(dir string) (Decide, Ledger, error) {
	rules := contract.Contract{
		Effects: contract.Guarded, Default: contract.Action{OnRollback: contract.Complete, Within: contract.Duration(2 * time.Minute), Then: contract.Cancel},
		Rules: []contract.Rule{
			{When: contract.Match{Effects: contract.AnyOf{contract.EffectsIrreversible}}, Action: contract.Action{OnRollback: contract.Complete, Within: contract.Duration(15 * time.Minute), Then: contract.Hold}},
			{When: contract.Match{Method: "POST", Path: "/v1/*"}, Action: contract.Action{OnRollback: contract.Cancel, RetryAfter: contract.Range{Min: time.Second, Max: 5 * time.Second}}},
		},
	}
	before := heap()
	l := contract.NewLedger(rules)
	cuts := 0
	for i := range executions {
		l.Admit(contract.Begin{
			ID: fmt.Sprintf("x1.2.1.0.host-%08x.%032x", i, i), Key: fmt.Sprintf("key-%d", i), Method: "POST", Path: "/v1/chat", Started: time.Now(), RouteGeneration: 7,
			Cut: func(contract.Decision) { cuts++ },
		})
	}
	ledger := Ledger{Executions: executions, Bytes: heap() - before}
	path := filepath.Join(dir, "state")
	defer func() { _ = os.Remove(path) }()
	keeper := posture.New(path, l, time.Now)
	if _, err := keeper.Apply(&sidecarv1.State{Generation: 1, Pin: "pin", ExecutionKey: []byte("key")}); err != nil {
		return Decide{}, ledger, err
	}
	order, err := proto.Marshal(&sidecarv1.State{Generation: 2, Pin: "pin", ExecutionKey: []byte("key"), Fence: &sidecarv1.Fence{
		Generation: 8, TargetVersion: "2.0.3", TargetPin: "pin", OrderedAt: timestamppb.Now(), RetrySpread: durationpb.New(5 * time.Second),
	}})
	if err != nil {
		return Decide{}, ledger, err
	}
	began := time.Now()
	state := &sidecarv1.State{}
	if err := proto.Unmarshal(order, state); err != nil {
		return Decide{}, ledger, err
	}
	if _, err := keeper.Apply(state); err != nil {
		return Decide{}, ledger, err
	}
	_, fenced := l.Fenced()
	if _, err := proto.Marshal(&sidecarv1.Status{Ready: true, AppliedGeneration: keeper.Applied(), Fenced: fenced, OrderedGeneration: l.Ordered()}); err != nil {
		return Decide{}, ledger, err
	}
	took := time.Since(began)
	if cuts != executions || !fenced {
		return Decide{}, ledger, fmt.Errorf("the order cut %d of %d executions", cuts, executions)
	}
	return Decide{Executions: executions, Ms: ms(took)}, ledger, nil
}

// heap in use after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // far below 2^63
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
