package sidecar_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/sidecar/fakecontrol"
)

// TestSegmentsAreToldWithTheTotals: of what strangers send as a value nothing is told but which declared one it is.
func TestSegmentsAreToldWithTheTotals(t *testing.T) {
	r := newRig(t, guarded+"segments: [{name: kind, header: x-order-type, values: [small, 'large*']}, {name: route, values: [/about]}]\n")
	r.run()
	addr := r.ready()
	for _, sent := range []http.Header{
		{"X-Order-Type": {"small"}}, {"X-Order-Type": {"small", "large"}}, {"x-order-type": {"large & urgent"}}, {"X-Order-Type": {strings.Repeat("x", 10_000)}}, {"X-Order-Type": {""}}, {},
	} {
		req := request(t, addr, "/about")
		for name, values := range sent {
			for _, v := range values {
				req.Header.Add(name, v)
			}
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	want := []string{"kind small 2", "kind large* 1", "kind (other) 2", "kind (absent) 1", "route /about 6"}
	r.control.Wait("the counts of six executions", func(v fakecontrol.View) bool {
		var got []string
		for _, s := range v.Totals.GetSegments() {
			got = append(got, fmt.Sprintf("%s %s %d", s.GetAttribute(), s.GetValue(), s.GetStarted()))
		}
		if v.Totals.GetStarted() == 6 && !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
			return true
		}
		return slices.Equal(got, want)
	})
}
