package versions_test

import (
	"testing"

	"github.com/specproxy/specproxy/internal/versions"
)

// Every standing and every event: the standing that follows, or "" where the event is refused.
func TestStandings(t *testing.T) {
	const (
		published, candidate, good    = versions.Published, versions.Candidate, versions.Good
		aborted, quarantined, retired = versions.Aborted, versions.Quarantined, versions.Retired
		no                            = versions.Standing("")
	)
	events := versions.Events()
	columns := []versions.Event{
		versions.EventWeighted, versions.EventPromotedAway, versions.EventBaked, versions.EventAborted,
		versions.EventAbandoned, versions.EventCleared, versions.EventBlamed, versions.EventOverridden, versions.EventReopened,
	}
	table := map[versions.Standing][]versions.Standing{
		//           weighted   away  baked aborted  abandoned    cleared    blamed   overridden  reopened
		published:   {candidate, no, no, no, no, no, no, no, no},
		candidate:   {candidate, good, good, aborted, quarantined, no, no, no, no},
		good:        {good, good, good, no, quarantined, no, no, no, no},
		aborted:     {candidate, no, no, no, no, no, no, no, no},
		quarantined: {no, no, no, no, no, candidate, retired, candidate, no},
		retired:     {no, no, no, no, no, no, no, no, quarantined},
	}
	if len(events) != len(columns) || len(versions.Standings()) != len(table) {
		t.Fatalf("the table has %d × %d cells, the package %d × %d", len(table), len(columns), len(versions.Standings()), len(events))
	}
	for _, standing := range versions.Standings() {
		for i, event := range columns {
			want := table[standing][i]
			got, err := standing.Next(event)
			switch {
			case want == no && (err == nil || got != standing):
				t.Errorf("%s + %s: got %s, %v; want a refusal that changes nothing", standing, event, got, err)
			case want != no && (err != nil || got != want):
				t.Errorf("%s + %s: got %s, %v; want %s", standing, event, got, err, want)
			}
		}
	}
	if got, err := versions.Standing("unheard-of").Next(versions.EventWeighted); err == nil || got != "unheard-of" {
		t.Errorf("an unknown standing became %s, %v", got, err)
	}
}
