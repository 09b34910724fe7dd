package versions

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong with a manifest.
type Problem struct {
	// Line of spec.yaml, from 1; 0 where the problem has none, such as a field that is missing.
	Line int
	// Field is the path of the field, such as inFlight.rules[1].else; empty for the manifest as a whole.
	Field   string
	Message string
}

// String is "line 7: inFlight.default: …".
func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// ManifestError is everything that is wrong with one manifest, in the order of its lines.
type ManifestError struct {
	Problems []Problem
}

// maxPrinted bounds what a hopeless file prints.
const maxPrinted = 20

// Error prints one problem on the same line and several on a line each.
func (e *ManifestError) Error() string {
	if len(e.Problems) == 1 {
		return ManifestPath + ": " + e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s has %d problems:", ManifestPath, len(e.Problems))
	for i, p := range e.Problems {
		if i == maxPrinted {
			fmt.Fprintf(&b, "\n  and %d more", len(e.Problems)-i)
			break
		}
		b.WriteString("\n  " + strings.ReplaceAll(p.String(), "\n", "\n  "))
	}
	return b.String()
}

// maxMessage bounds one problem's words: they quote what stands in the file, which may be a name of a megabyte.
const maxMessage = 1000

// shorten takes out the middle of a text that is longer than maxMessage, without cutting a character.
func shorten(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage*2/3], "") + " … " + strings.ToValidUTF8(s[len(s)-maxMessage/4:], "")
}

// manifestError sorts the problems by line; those without a line come last.
func manifestError(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	for i := range problems {
		problems[i].Field, problems[i].Message = shorten(problems[i].Field), shorten(problems[i].Message)
	}
	slices.SortStableFunc(problems, func(a, b Problem) int {
		switch {
		case a.Line == b.Line:
			return 0
		case a.Line == 0:
			return 1
		case b.Line == 0:
			return -1
		}
		return a.Line - b.Line
	})
	return &ManifestError{Problems: problems}
}

// nearest is the one of known that word is most probably a slip of, or "".
func nearest(word string, known []string) string {
	best, bestDistance := "", 3
	if len(word) <= 4 {
		bestDistance = 2
	}
	for _, k := range known {
		if strings.EqualFold(word, k) || strings.EqualFold(strings.NewReplacer("_", "", "-", "").Replace(word), k) {
			return k
		}
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance is the number of letters to add, drop, change or swap with their neighbour to make a of b (optimal string alignment).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
