//go:build chaos

package e2e

import (
	"os"
	"strconv"
	"testing"
)

// TestChaosLong runs CHAOS_FLIPS flips from CHAOS_SEED; make chaos sets them.
func TestChaosLong(t *testing.T) {
	number := func(name string, otherwise uint64) uint64 {
		text, ok := os.LookupEnv(name)
		if !ok {
			return otherwise
		}
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			t.Fatalf("%s=%q: write a number", name, text)
		}
		return n
	}
	chaos(t, number("CHAOS_SEED", 2), int(number("CHAOS_FLIPS", 1500)))
}
