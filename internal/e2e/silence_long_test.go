//go:build long

package e2e

import (
	"testing"
	"time"
)

func TestLongSidecarsThatComeBackLateKeepTheirEndpoints(t *testing.T) {
	comeBackAfter(t, 10*time.Second)
}
