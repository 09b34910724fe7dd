package agentproto_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/agentproto"
	"github.com/specproxy/specproxy/internal/drain"
)

func TestRepeatable(t *testing.T) {
	for effects, want := range map[drain.Effects]bool{
		"": true, drain.EffectsUnknown: true, drain.EffectsNone: true, drain.EffectsReadonly: true, drain.EffectsIdempotent: true,
		drain.EffectsCompensable: false, drain.EffectsIrreversible: false, "nonsense": false,
	} {
		s := agentproto.Signal{Effects: effects}
		if got := s.Repeatable(); got != want {
			t.Errorf("effects %q: repeatable %v, want %v", effects, got, want)
		}
		if blind := strings.Contains(s.Detail(), "do not repeat"); blind == want {
			t.Errorf("effects %q: the detail says %q", effects, s.Detail())
		}
	}
}

// A client that waits Retry-After seconds waits at least as long as was drawn for it.
func TestSecondsAreNeverShorter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "delay"))
		s := agentproto.Signal{RetryAfter: d}
		seconds := time.Duration(s.Seconds()) * time.Second
		if seconds < time.Second || seconds < d || seconds >= d+time.Second && seconds > time.Second {
			t.Fatalf("%s became %s", d, seconds)
		}
		if ms := s.Milliseconds(); ms < 0 || time.Duration(ms)*time.Millisecond > max(d, 0) {
			t.Fatalf("%s became %d ms", d, ms)
		}
	})
}
