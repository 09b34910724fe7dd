package routing

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/specproxy/specproxy/internal/versions"
)

// Earlier orders versions by when they first held weight, then by semantic version. Versions that never held weight come last.
func Earlier(a, b versions.Record) int {
	switch {
	case a.FirstWeight == b.FirstWeight:
		return versions.Compare(a.Version, b.Version)
	case a.FirstWeight == 0:
		return 1
	case b.FirstWeight == 0:
		return -1
	}
	return cmp.Compare(a.FirstWeight, b.FirstWeight)
}

// Normalize drops zero weights, sorts by age (oldest first) and checks the sum. records holds every version of the spec.
func Normalize(splits []Split, records []versions.Record) ([]Split, error) {
	byVersion := index(records)
	var out []Split
	var sum uint64
	seen := map[string]bool{}
	for _, s := range splits {
		if seen[s.Version] {
			return nil, fmt.Errorf("version %s is named twice in the weights", s.Version)
		}
		seen[s.Version] = true
		if _, ok := byVersion[s.Version]; !ok {
			return nil, fmt.Errorf("version %s does not exist", s.Version)
		}
		sum += uint64(s.BasisPoints)
		if s.BasisPoints > 0 {
			out = append(out, s)
		}
	}
	if sum != Full {
		return nil, fmt.Errorf("weights sum to %s %%, not 100 %%", Percent(sum))
	}
	slices.SortFunc(out, func(a, b Split) int { return Earlier(byVersion[a.Version], byVersion[b.Version]) })
	return out, nil
}

// Percent writes basis points as a percentage with up to two decimals: 250 is "2.5".
func Percent[T ~uint32 | ~uint64](basisPoints T) string {
	return strconv.FormatFloat(float64(basisPoints)/100, 'f', -1, 64)
}

// Describe writes splits as "2.0.3=90 2.1.0=10".
func Describe(splits []Split) string {
	if len(splits) == 0 {
		return "nothing"
	}
	parts := make([]string, 0, len(splits))
	for _, s := range splits {
		parts = append(parts, s.Version+"="+Percent(s.BasisPoints))
	}
	return strings.Join(parts, " ")
}

// Abandoned says what a change from before to after abandons: every version that loses all its weight in favour of one that first held
// weight earlier. The change is a rollback when there is any; target is then the earlier version that holds most of the weight after.
func Abandoned(before, after []Split, records []versions.Record) (abandoned []string, target string) {
	byVersion := index(records)
	// inFavour: a held weight before b did, and gains by this change.
	inFavour := func(a Split, b string) bool {
		r := byVersion[a.Version]
		return r.FirstWeight != 0 && a.BasisPoints > weight(before, a.Version) && Earlier(r, byVersion[b]) < 0
	}
	best := Split{}
	for _, b := range before {
		if weight(after, b.Version) > 0 {
			continue
		}
		lost := false
		for _, a := range after {
			if inFavour(a, b.Version) {
				lost = true
				if a.BasisPoints > best.BasisPoints {
					best = a
				}
			}
		}
		if lost {
			abandoned = append(abandoned, b.Version)
		}
	}
	return abandoned, best.Version
}

// Newest is the version that holds weight and first held it last; "" if none holds any.
func Newest(splits []Split, records []versions.Record) string {
	byVersion := index(records)
	newest := ""
	for _, s := range splits {
		if s.BasisPoints > 0 && (newest == "" || Earlier(byVersion[newest], byVersion[s.Version]) < 0) {
			newest = s.Version
		}
	}
	return newest
}

// ErrNoExit says that no version qualifies as a rollback's target.
var ErrNoExit = errors.New("no earlier good version")

// Exit is where a rollback that abandons `from` goes when nobody names a target, and why: the newest earlier version that still holds
// traffic and once held all of it, else the newest earlier good one, else the newest earlier one that held all the traffic.
// Aborted, quarantined and retired versions never qualify. ErrNoExit if none does.
func Exit(from string, current []Split, records []versions.Record) (version, why string, err error) {
	byVersion := index(records)
	abandoned, ok := byVersion[from]
	if !ok {
		return "", "", fmt.Errorf("version %s does not exist", from)
	}
	earlier := slices.Clone(records)
	earlier = slices.DeleteFunc(earlier, func(r versions.Record) bool {
		sound := r.Standing == versions.Good || r.Standing == versions.Candidate && r.HeldAll
		return r.FirstWeight == 0 || Earlier(r, abandoned) >= 0 || !sound
	})
	slices.SortFunc(earlier, func(a, b versions.Record) int { return Earlier(b, a) })
	pick := func(match func(versions.Record) bool) (versions.Record, bool) {
		if i := slices.IndexFunc(earlier, match); i >= 0 {
			return earlier[i], true
		}
		return versions.Record{}, false
	}
	if r, ok := pick(func(r versions.Record) bool { return weight(current, r.Version) > 0 }); ok {
		return r.Version, fmt.Sprintf("it holds %s %% of the traffic now and held all of it before %s", Percent(weight(current, r.Version)), from), nil
	}
	if r, ok := pick(func(r versions.Record) bool { return r.Standing == versions.Good }); ok {
		return r.Version, fmt.Sprintf("newest good version before %s (%s)", from, r.StandingReason), nil
	}
	if r, ok := pick(func(versions.Record) bool { return true }); ok {
		return r.Version, fmt.Sprintf("it held all the traffic before %s; it has not been proven good", from), nil
	}
	return "", "", ErrNoExit
}

// Candidates lists what a person may name as target when Exit finds none: every other version that is not aborted, quarantined or
// retired, those that held weight last first.
func Candidates(from string, records []versions.Record) []versions.Record {
	out := slices.DeleteFunc(slices.Clone(records), func(r versions.Record) bool {
		bad := r.Standing == versions.Aborted || r.Standing == versions.Quarantined || r.Standing == versions.Retired
		return bad || r.Version == from
	})
	slices.SortFunc(out, func(a, b versions.Record) int {
		if (a.FirstWeight == 0) != (b.FirstWeight == 0) {
			return Earlier(a, b)
		}
		return Earlier(b, a)
	})
	return out
}

func index(records []versions.Record) map[string]versions.Record {
	m := make(map[string]versions.Record, len(records))
	for _, r := range records {
		m[r.Version] = r
	}
	return m
}

func weight(splits []Split, version string) uint32 {
	return Route{Splits: splits}.Weight(version)
}
