package control

import (
	"slices"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/postmortem"
)

// TestEvidenceIsGatheredEverMoreSeldomOverTheWindow follows a rollback whose last execution ends after the window.
func TestEvidenceIsGatheredEverMoreSeldomOverTheWindow(t *testing.T) {
	committed := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for settles, want := range map[time.Duration][]string{
		time.Second:      {"5s", "20s", "1m20s", "5m20s", "10m0s final"},
		15 * time.Minute: {"5s", "20s", "1m20s", "5m20s", "15m0s final"},
		2 * time.Hour:    {"5s", "20s", "1m20s", "5m20s", "21m20s", "40m0s final"},
	} {
		r := postmortem.Rollback{CommittedAt: committed, Abandoned: []postmortem.Abandoned{{Version: "2.1.0"}}}
		var got []string
		for age := time.Duration(0); age < 3*time.Hour; age += time.Second {
			now := committed.Add(age)
			if age >= settles {
				r.Abandoned[0].Settled = &postmortem.Settled{At: now}
			}
			final, due := gatherDue(r, now)
			if !due {
				continue
			}
			r.Evidence = &postmortem.Evidence{At: now, Final: final}
			said := age.String()
			if final {
				said += " final"
			}
			got = append(got, said)
		}
		if !slices.Equal(got, want) {
			t.Errorf("what settles after %s is gathered at %q, want %q", settles, got, want)
		}
	}
	// Nobody led for an hour: what is left is gathered once, for good.
	if final, due := gatherDue(postmortem.Rollback{CommittedAt: committed}, committed.Add(time.Hour)); !final || !due {
		t.Errorf("after an hour without a leader: final %v, due %v", final, due)
	}
}
