package versions

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// maxVersionLength keeps "<spec>-<version>" within the 128 characters of an OCI tag.
const maxVersionLength = 64

var (
	labelPattern  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	fixesPattern  = regexp.MustCompile(`^PM-[1-9][0-9]*$`)
	digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// CheckName says why name cannot be a spec's name, or nil: a DNS label of at most 63 characters (RFC 1123, lower case), since it becomes
// part of host names, Envoy cluster names and OCI tags.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the name is empty: a spec's name is a DNS label such as customer-service")
	case len(name) > 63:
		return fmt.Errorf("name %q has %d characters: a spec's name is a DNS label, at most 63", name, len(name))
	case !labelPattern.MatchString(name):
		return fmt.Errorf("name %q: a spec's name is a DNS label: a-z, 0-9 and -, beginning and ending with a letter or digit, such as customer-service", name)
	}
	return nil
}

// CheckVersion says why version is not strict semantic versioning 2.0.0, or nil. A leading "v" and build metadata are refused: both would
// give one version two spellings.
func CheckVersion(version string) error {
	switch {
	case version == "":
		return fmt.Errorf("the version is empty: write semantic versioning such as 2.0.3")
	case len(version) > maxVersionLength:
		return fmt.Errorf("version %q has %d characters: at most %d", version, len(version), maxVersionLength)
	case strings.HasPrefix(version, "v") || strings.HasPrefix(version, "V"):
		return fmt.Errorf("version %q begins with %q: write %s", version, version[:1], version[1:])
	case strings.Contains(version, "+"):
		plain, _, _ := strings.Cut(version, "+")
		return fmt.Errorf("version %q has build metadata, which does not order versions: write %s", version, plain)
	}
	if _, err := semver.StrictNewVersion(version); err != nil {
		return fmt.Errorf("version %q is not semantic versioning such as 2.0.3 or 2.1.0-rc.1 (semver.org 2.0.0)", version)
	}
	return nil
}

// Compare orders two versions by semantic versioning 2.0.0 section 11: -1, 0 or 1. What is not a version orders before all that are, by
// its text, so that sorting is total whatever it is given.
func Compare(a, b string) int {
	va, errA := semver.StrictNewVersion(a)
	vb, errB := semver.StrictNewVersion(b)
	switch {
	case errA != nil && errB != nil:
		return strings.Compare(a, b)
	case errA != nil:
		return -1
	case errB != nil:
		return 1
	}
	return va.Compare(vb)
}

// Sort orders versions in place, oldest first.
func Sort(versions []string) { slices.SortStableFunc(versions, Compare) }

// Ref names one version of one spec.
type Ref struct {
	Spec    string
	Version string
}

// ParseRef reads "name:version", such as customer-service:2.0.3, and checks both halves.
func ParseRef(s string) (Ref, error) {
	spec, version, ok := strings.Cut(s, ":")
	if !ok {
		return Ref{}, fmt.Errorf("%q names no version: write name:version, such as %s:2.0.3", s, orExample(s))
	}
	if err := CheckName(spec); err != nil {
		return Ref{}, fmt.Errorf("%q: %w", s, err)
	}
	if err := CheckVersion(version); err != nil {
		return Ref{}, fmt.Errorf("%q: %w", s, err)
	}
	return Ref{Spec: spec, Version: version}, nil
}

// String is "name:version".
func (r Ref) String() string { return r.Spec + ":" + r.Version }

// Tag is the OCI tag under which other tools find the version: "<spec>-<version>". A name has no dot and a version's first number is followed by
// one, so no two versions share a tag.
func (r Ref) Tag() string { return r.Spec + "-" + r.Version }

// Check says why the reference is not valid, or nil.
func (r Ref) Check() error {
	if err := CheckName(r.Spec); err != nil {
		return err
	}
	return CheckVersion(r.Version)
}

func orExample(name string) string {
	if CheckName(name) != nil {
		return "customer-service"
	}
	return name
}

// checkHost says why host cannot be an :authority that clients use, without its port.
func checkHost(host string) error {
	switch {
	case host == "":
		return fmt.Errorf("is empty")
	case len(host) > 253:
		return fmt.Errorf("has %d characters: a host name has at most 253", len(host))
	case strings.Contains(host, ":"):
		return fmt.Errorf("%q: write the host name alone: ports and IPv6 addresses do not take part in finding a spec", host)
	case host != strings.ToLower(host):
		return fmt.Errorf("%q: write host names in lower case: %s", host, strings.ToLower(host))
	case strings.Contains(host, "*"):
		return fmt.Errorf("%q: a host is one name, not a pattern", host)
	}
	for label := range strings.SplitSeq(host, ".") {
		if len(label) > 63 || !labelPattern.MatchString(label) {
			return fmt.Errorf("%q is not a host name (RFC 1123): label %q", host, label)
		}
	}
	return nil
}
