package envoy_test

import (
	"testing"

	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// A replica builds every spec once when it starts, and a changed spec on every change.
func BenchmarkBuild(b *testing.B) {
	s := canary()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := envoy.Build(s); err != nil {
			b.Fatal(err)
		}
	}
}
