package routing

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/specproxy/specproxy/internal/versions"
)

// Names that stand for a version.
const (
	// LatestGood is the newest version that is good: what a rollback of everything newer would come to.
	LatestGood = "latest-good"
	// Previous is the version that carried the traffic before the one that carries it now.
	Previous = "previous"
)

var (
	line   = regexp.MustCompile(`^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))?$`)
	digest = regexp.MustCompile(`^(sha256:)?[0-9a-f]{12,64}$`)
)

// Resolve says which version of a spec a reference means, and why, in words: a version ("2.0.3"), LatestGood, Previous, a line ("2" or "2.0": its
// highest version that was ever good and may run today), or a digest ("sha256:…", or at least 12 digits of one). records are all of the spec's,
// history all of its routes, oldest first. An error names what could be meant instead.
func Resolve(reference string, records []versions.Record, history []Route) (versions.Record, string, error) {
	if i := slices.IndexFunc(records, func(r versions.Record) bool { return r.Version == reference }); i >= 0 {
		return records[i], "you named it", nil
	}
	switch {
	case reference == LatestGood:
		return latestGood(records)
	case reference == Previous:
		return previous(records, history)
	case line.MatchString(reference):
		return bestOf(reference, records)
	case digest.MatchString(reference):
		return byDigest(reference, records)
	case versions.CheckVersion(reference) == nil:
		return versions.Record{}, "", fmt.Errorf("version %s is not published", reference)
	}
	return versions.Record{}, "", fmt.Errorf("%q names no version: write one such as 2.0.3, %s, %s, a line such as 2.0, or @sha256:…", reference, LatestGood, Previous)
}

func latestGood(records []versions.Record) (versions.Record, string, error) {
	var best versions.Record
	for _, r := range records {
		if r.Standing == versions.Good && (best.Version == "" || Earlier(best, r) < 0) {
			best = r
		}
	}
	if best.Version == "" {
		return best, "", fmt.Errorf("no version is good yet: one becomes so when it has held all the traffic and is replaced, or ends its bake")
	}
	return best, withReason("newest good version", best), nil
}

func withReason(why string, r versions.Record) string {
	if r.StandingReason == "" {
		return why
	}
	return why + ": it " + r.StandingReason
}

// mainOf is the version that carries most of a route's traffic; of two that carry the same the newer.
func mainOf(r Route, records []versions.Record) string {
	best := Split{}
	byVersion := index(records)
	for _, s := range r.Splits {
		more := s.BasisPoints > best.BasisPoints
		if more || s.BasisPoints == best.BasisPoints && Earlier(byVersion[best.Version], byVersion[s.Version]) < 0 {
			best = s
		}
	}
	return best.Version
}

func previous(records []versions.Record, history []Route) (versions.Record, string, error) {
	if len(history) == 0 {
		return versions.Record{}, "", fmt.Errorf("nothing was ever deployed, so nothing was before it")
	}
	current := mainOf(history[len(history)-1], records)
	for _, route := range slices.Backward(history) {
		if v := mainOf(route, records); v != current {
			i := slices.IndexFunc(records, func(r versions.Record) bool { return r.Version == v })
			if i < 0 {
				continue
			}
			return records[i], fmt.Sprintf("it carried the traffic until generation %d, before %s; it is %s", route.Generation, current, records[i].Standing), nil
		}
	}
	return versions.Record{}, "", fmt.Errorf("only %s ever carried the traffic", current)
}

// bestOf takes the highest version of a line that was ever good and is not quarantined or retired by now.
func bestOf(line string, records []versions.Record) (versions.Record, string, error) {
	var best versions.Record
	var passedOver, unproven []string
	for _, r := range records {
		if !strings.HasPrefix(r.Version, line+".") {
			continue
		}
		switch {
		case !r.EverGood():
			unproven = append(unproven, fmt.Sprintf("%s (%s)", r.Version, r.Standing))
		case r.Standing == versions.Quarantined || r.Standing == versions.Retired:
			passedOver = append(passedOver, fmt.Sprintf("%s is %s by %s", r.Version, r.Standing, r.PostMortem))
		case best.Version == "" || versions.Compare(best.Version, r.Version) < 0:
			best = r
		}
	}
	if best.Version == "" {
		switch {
		case len(passedOver) > 0:
			return best, "", fmt.Errorf("no version of %s may run: %s", line, strings.Join(passedOver, ", "))
		case len(unproven) > 0:
			return best, "", fmt.Errorf("no version of %s was ever good: there is %s", line, shortened(unproven))
		}
		return best, "", fmt.Errorf("there is no version of %s", line)
	}
	why := withReason("highest version of "+line+" that was ever good", best)
	if len(passedOver) > 0 {
		why += "; passed over: " + shortened(passedOver)
	}
	return best, why, nil
}

func shortened(names []string) string {
	const shown = 5
	if len(names) > shown {
		return strings.Join(names[len(names)-shown:], ", ") + " and " + strconv.Itoa(len(names)-shown) + " more"
	}
	return strings.Join(names, ", ")
}

func byDigest(reference string, records []versions.Record) (versions.Record, string, error) {
	digits := strings.TrimPrefix(reference, "sha256:")
	var all []versions.Record
	for _, r := range records {
		if strings.HasPrefix(strings.TrimPrefix(r.Digest, "sha256:"), digits) {
			all = append(all, r)
		}
	}
	switch len(all) {
	case 0:
		return versions.Record{}, "", fmt.Errorf("no version has the digest sha256:%s", digits)
	case 1:
		return all[0], "its digest is " + all[0].Digest, nil
	}
	names := make([]string, 0, len(all))
	for _, r := range all {
		names = append(names, r.Ref().String())
	}
	return versions.Record{}, "", fmt.Errorf("the digest sha256:%s… is that of several versions: %s", digits, shortened(names))
}
