package postmortem

import (
	"slices"
	"strings"
	"time"
	"unicode"
)

// shortestWord that says something about what a text is about.
const shortestWord = 4

// Words are the words of a text in lower case, but the shortest.
func Words(text string) []string {
	var out []string
	for word := range strings.FieldsFuncSeq(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		if len(word) >= shortestWord {
			out = append(out, word)
		}
	}
	return out
}

// When the execution was known to have failed, as far as the record can tell.
func (f Failing) When() time.Time {
	if f.Ended.IsZero() {
		return f.Started
	}
	return f.Ended
}

// Touching are the names that share a word with what changed. A word that more than half of the names have says nothing about one of them.
func Touching(names []string, changed map[string]bool) []string {
	in := map[string]int{}
	for _, name := range names {
		words := Words(name)
		slices.Sort(words)
		for _, w := range slices.Compact(words) {
			in[w]++
		}
	}
	out := []string{}
	for _, name := range names {
		if slices.ContainsFunc(Words(name), func(w string) bool { return changed[w] && (2*in[w] <= len(names) || len(names) == 1) }) {
			out = append(out, name)
		}
	}
	return out
}
