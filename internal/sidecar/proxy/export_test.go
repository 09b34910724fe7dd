package proxy

import (
	"testing"
	"time"
)

// LingerHTTP2 sets how long the client of an early answer over HTTP/2 may be silent, until the test's rig has ended. It comes before the rig.
func LingerHTTP2(t *testing.T, silent time.Duration) {
	was := lingerHTTP2
	lingerHTTP2 = silent
	t.Cleanup(func() { lingerHTTP2 = was })
}
