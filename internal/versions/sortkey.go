package versions

import (
	"fmt"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// SortKey is a text whose byte order is the order of Compare, for indexes. It has no "/". What is not a version
// orders before all that are, by its text.
//
// Each number is written after the count of its digits; a release is written after all its pre-releases, whose identifiers end in "!",
// which comes before every character that they may have (semver.org 2.0.0 section 11).
func SortKey(version string) string {
	v, err := semver.StrictNewVersion(version)
	if err != nil {
		return "!" + strings.ReplaceAll(version, "/", "\x7f")
	}
	var b strings.Builder
	for _, n := range []uint64{v.Major(), v.Minor(), v.Patch()} {
		writeNumber(&b, fmt.Sprint(n))
		b.WriteByte('.')
	}
	if v.Prerelease() == "" {
		b.WriteByte('~')
		return b.String()
	}
	for id := range strings.SplitSeq(v.Prerelease(), ".") {
		if strings.Trim(id, "0123456789") == "" {
			b.WriteByte('1')
			writeNumber(&b, id)
		} else {
			b.WriteByte('2')
			b.WriteString(id)
		}
		b.WriteByte('!')
	}
	return b.String()
}

// writeNumber puts the count of digits first, so that longer numbers come after shorter ones.
func writeNumber(b *strings.Builder, digits string) {
	fmt.Fprintf(b, "%02d%s", len(digits), digits)
}

// SortKeyPrefix is the text with which the sort keys of all versions begin that have these first numbers: "2" or "2.0" or "2.0.3", the last
// of which takes in the pre-releases of 2.0.3.
func SortKeyPrefix(numbers string) (string, error) {
	if numbers == "" {
		return "", nil
	}
	var b strings.Builder
	parts := strings.Split(numbers, ".")
	for _, part := range parts {
		if len(parts) > 3 || part == "" || len(part) > 19 || strings.Trim(part, "0123456789") != "" || part != "0" && part[0] == '0' {
			return "", fmt.Errorf("%q does not begin a version: write its first numbers, such as 2 or 2.0", numbers)
		}
		writeNumber(&b, part)
		b.WriteByte('.')
	}
	return b.String(), nil
}
