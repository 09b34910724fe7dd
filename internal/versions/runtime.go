package versions

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Mismatch compares what really runs (reported) with what the manifest demands (the receiver). It is "" if every demand is met; else words
// that name the demanded and the reported value of each that is not, such as
// `the manifest demands model "m-7", the instance reports "m-8"`. What the manifest does not name may be anything.
func (r Runtime) Mismatch(reported Runtime) string {
	var found []string
	compare := func(what, demanded, actual string) {
		switch {
		case demanded == "" || demanded == actual:
		case actual == "":
			found = append(found, fmt.Sprintf("the manifest demands %s %q, the instance reports none", what, demanded))
		default:
			found = append(found, fmt.Sprintf("the manifest demands %s %q, the instance reports %q", what, demanded, actual))
		}
	}
	compare("image", r.Image, reported.Image)
	compare("binary", r.Binary, reported.Binary)
	compare("model", r.Model, reported.Model)
	for _, tool := range slices.Sorted(maps.Keys(r.Tools)) {
		compare("tool "+tool, r.Tools[tool], reported.Tools[tool])
	}
	return strings.Join(found, "; ")
}
