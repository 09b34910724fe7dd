package e2e

import (
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/specproxy/specproxy/internal/controlplane"
)

// TestCallsOfTheAPIArePartOfTheCallersTrace runs specctl as a job of a CI that is traced.
func TestCallsOfTheAPIArePartOfTheCallersTrace(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50") // ms
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	t.Setenv("TRACEPARENT", "00-"+trace+"-"+parent+"-01")
	collector := &guards{asked: map[string]int{}}
	_, at := collector.start(t)
	w := startPlane(t, func(o *controlplane.Options) { o.Traces = "http://" + at })
	w.publish("shop", older, completeContract)
	w.member("shop:"+older, "shop-1")
	w.ready("shop", older, 1)
	w.ctl(0, nil, "deploy", "shop:"+older)
	eventually(t, "the span of the deploy", func() error {
		collector.mu.Lock()
		defer collector.mu.Unlock()
		for _, s := range collector.spans {
			if s.GetName() != "specproxy.operator.v1.OperatorService/Deploy" {
				continue
			}
			if hex.EncodeToString(s.GetTraceId()) != trace || hex.EncodeToString(s.GetParentSpanId()) != parent {
				t.Errorf("trace %x, parent %x", s.GetTraceId(), s.GetParentSpanId())
			}
			return nil
		}
		return fmt.Errorf("%d other spans", len(collector.spans))
	})
}
