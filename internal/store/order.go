package store

import (
	"slices"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/versions"
)

// Names of the further indexes.
const (
	// inOrder has the versions of each spec in semantic version order, byStanding those of each standing.
	inOrder    = "order"
	byStanding = "standing"
	// asExit has the versions where a rollback may go, in the order in which they first held weight.
	asExit = "exit"
	// unfinished has the drains in which executions may still run, and the open post-mortems, and the interventions that no sidecar has answered.
	unfinished = "unfinished"
)

func orderOf(v any) string {
	r := v.(versions.Record)
	return within(r.Spec) + versions.SortKey(r.Version)
}

func standingOf(v any) string {
	r := v.(versions.Record)
	return within(r.Spec, string(r.Standing)) + versions.SortKey(r.Version)
}

// The two classes of versions where a rollback may go, see routing.Exit.
const (
	provenExit = "good"
	trialExit  = "trial" // a candidate that once held all the traffic
)

func exitOf(v any) string {
	r := v.(versions.Record)
	var class string
	switch {
	case r.FirstWeight == 0:
		return ""
	case r.Standing == versions.Good:
		class = provenExit
	case r.Standing == versions.Candidate && r.HeldAll:
		class = trialExit
	default:
		return ""
	}
	return within(r.Spec, class) + numbered(r.FirstWeight) + versions.SortKey(r.Version)
}

func unfinishedDrain(v any) string {
	d := v.(drain.Drain)
	if !d.Unfinished() {
		return ""
	}
	return path(d.Spec, d.Version)
}

func openPostMortem(v any) string {
	r := v.(postmortem.Record)
	if !r.Open() {
		return ""
	}
	return numbered(postMortemNumber(r.ID)) + path(r.ID)
}

// afterAll is a text that comes after every text with the prefix.
func afterAll(prefix string) string { return prefix + "\xff" }

// Relevant returns what a decision about the traffic of the named versions can depend on, in semantic version order: themselves, and for
// each where a rollback from it may go, which is the newest good version that held weight earlier, and the newest earlier candidate that
// held all of it. routing.Exit, Abandoned and Newest say the same of these as of all versions of the spec. It costs the same however many
// there are.
func (r reader) Relevant(spec string, named []string) []versions.Record {
	found := make(map[string]versions.Record, 3*len(named))
	for _, version := range named {
		record, ok := r.Version(spec, version)
		if !ok {
			continue
		}
		found[version] = record
		for _, class := range []string{provenExit, trialExit} {
			prefix := within(spec, class)
			s := span{index: asExit, prefix: prefix, backward: true, limit: 1}
			if record.FirstWeight != 0 { // else all that ever held weight are earlier
				s.from = prefix + numbered(record.FirstWeight) + versions.SortKey(version)
			}
			for _, exit := range values[versions.Record](r.walk(versionRecords, s, exitMark(spec))) {
				found[exit.Version] = exit
			}
		}
	}
	all := make([]versions.Record, 0, len(found))
	for _, record := range found {
		all = append(all, record)
	}
	slices.SortFunc(all, func(a, b versions.Record) int { return versions.Compare(a.Version, b.Version) })
	return all
}

// Weighted are the versions that the splits name.
func Weighted(splits ...[]routing.Split) []string {
	var named []string
	for _, list := range splits {
		for _, s := range list {
			if !slices.Contains(named, s.Version) {
				named = append(named, s.Version)
			}
		}
	}
	return named
}
