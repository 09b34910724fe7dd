package drain_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

const crowd = 20_000

// crowded is a ledger with a crowd of running executions, every tenth of which has done something.
func crowded(c drain.Contract, cut func(drain.Decision)) *drain.Ledger {
	l := drain.NewLedger(c)
	for i := range crowd {
		x, _ := l.Admit(drain.Begin{
			ID: fmt.Sprintf("01JC8Z4T9KQ6-%012d", i), Key: fmt.Sprintf("ticket-%08d", i), Method: "POST", Path: "/v1/refunds",
			RouteGeneration: 17, Started: noon.Add(time.Duration(i%5000) * time.Millisecond), Cut: cut,
		})
		x.RequestEnded(true)
		if i%10 == 0 {
			x.Report(drain.Act{Tool: "refund.issue", Class: drain.EffectsIrreversible, Key: "r", At: noon})
		}
	}
	return l
}

// Executions are small, decided over or not: a sidecar with many of them stays under 1 KB each.
func TestMemoryPerExecution(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	c := mustContract(t, guardedContract)
	before := heap()
	l := crowded(c, func(drain.Decision) {})
	running := heap()
	l.Order(order(9), noon.Add(5*time.Second))
	decided := heap()
	if got := l.Totals().InFlight; got != crowd {
		t.Fatalf("%d in flight", got)
	}
	for name, after := range map[string]uint64{"running": running, "decided over": decided} {
		if each := (after - before) / crowd; each > 1024 {
			t.Errorf("%s: %d bytes each, want at most 1024", name, each)
		} else {
			t.Logf("%s: %d bytes each", name, each)
		}
	}
	runtime.KeepAlive(l)
}

func BenchmarkOrder(b *testing.B) {
	var c drain.Contract
	c.Effects = drain.Guarded
	c.Default = drain.Action{OnRollback: drain.Complete, Within: drain.Duration(2 * time.Minute), Then: drain.Cancel}
	c.Rules = []drain.Rule{
		{When: drain.Match{Effects: drain.AnyOf{drain.EffectsNone}, OlderThan: drain.Duration(2 * time.Second)}, Action: drain.Action{OnRollback: drain.Cancel}},
		{When: drain.Match{Effects: drain.AnyOf{drain.EffectsNone}}, Action: drain.Action{OnRollback: drain.Handover, Else: drain.Cancel}},
	}
	cuts := 0
	for b.Loop() {
		b.StopTimer()
		l := crowded(c, func(drain.Decision) { cuts++ })
		runtime.GC()
		b.StartTimer()
		l.Order(order(9), noon.Add(5*time.Second))
	}
	if cuts != b.N*crowd*9/10 {
		b.Fatalf("%d cut calls in %d runs", cuts, b.N)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/crowd, "ns/execution")
}

// BenchmarkExchange is one whole exchange as a sidecar drives it.
func BenchmarkExchange(b *testing.B) {
	l := drain.NewLedger(drain.Contract{Default: drain.Action{OnRollback: drain.Complete}})
	ids := make([]string, 1024)
	for i := range ids {
		ids[i] = fmt.Sprintf("01JC8Z4T9KQ6-%012d", i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		x, _ := l.Admit(drain.Begin{ID: ids[i%len(ids)], Method: "POST", Path: "/v1/refunds", Started: noon})
		x.RequestEnded(true)
		if err := x.Respond(noon); err != nil {
			b.Fatal(err)
		}
		x.SetOutcome(true, "")
		x.End(200, noon)
	}
}
