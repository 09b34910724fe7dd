// Package capture makes excerpts of failing executions: the beginning of a request and of its response, redacted by the rules of a manifest.
//
// Invariants: nothing is captured that a manifest does not ask for; what leaves Redactor matches none of its rules; and where a body cannot be
// read as its rules need, the excerpt says why and holds nothing of it. The package is pure: no clock, no I/O, no goroutines.
package capture

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode"
)

// Bounds on what a manifest declares.
const (
	// MaxBytes of a request or a response in an excerpt.
	MaxBytes = 8 << 10
	// MaxRules of one manifest.
	MaxRules = 16
	// maxSteps of all patterns together, which bounds the time that they take: RE2 tries at most all of them at each byte.
	maxSteps    = 1000
	maxField    = 128
	maxPattern  = 256
	maxWith     = 32
	defaultWith = "[redacted]"
)

// Rules is a manifest's capture section. The zero value captures nothing.
type Rules struct {
	// Request and Response are how many bytes of each an excerpt has at most; 0: none.
	Request  int `json:"request,omitempty" yaml:"request,omitempty"`
	Response int `json:"response,omitempty" yaml:"response,omitempty"`
	// Redact says what must not be in an excerpt.
	Redact []Rule `json:"redact,omitempty" yaml:"redact,omitempty"`
}

// Rule names what is redacted: a field of JSON, or what a regular expression matches.
type Rule struct {
	// Field is the end of a path of names in JSON, such as card.number; lists count for nothing, letters' case neither.
	Field string `json:"field,omitempty" yaml:"field,omitempty"`
	// Regex in RE2's syntax.
	Regex string `json:"regex,omitempty" yaml:"regex,omitempty"`
	// With stands in its place; default [redacted].
	With string `json:"with,omitempty" yaml:"with,omitempty"`
}

// On says that something is captured.
func (r Rules) On() bool { return r.Request > 0 || r.Response > 0 }

func (r Rule) with() string {
	if r.With == "" {
		return defaultWith
	}
	return r.With
}

// Words put the rules in words, a line each; none if nothing is captured.
func (r Rules) Words() []string {
	if !r.On() {
		return nil
	}
	out := []string{fmt.Sprintf("of failing executions, up to %d bytes of the request and %d of the response, without headers", r.Request, r.Response)}
	if len(r.Redact) == 0 {
		out = append(out, "nothing is redacted")
	}
	for _, rule := range r.Redact {
		if rule.Field != "" {
			out = append(out, fmt.Sprintf("field %s is replaced by %s; what is not JSON is not captured", rule.Field, rule.with()))
		} else {
			out = append(out, fmt.Sprintf("what matches %s is replaced by %s", rule.Regex, rule.with()))
		}
	}
	return out
}

var fieldPath = regexp.MustCompile(`^[^.\s]+(\.[^.\s]+)*$`)

// Check reports what is wrong with the rules, by field below "capture": ".redact[0].regex".
func (r Rules) Check(report func(field, message string)) {
	sizes := []struct {
		name string
		n    int
	}{{".request", r.Request}, {".response", r.Response}}
	if !r.On() && r.Request == 0 && r.Response == 0 {
		report("", fmt.Sprintf("captures nothing: say how many bytes of the request and the response (1 to %d), or leave it out", MaxBytes))
	}
	for _, s := range sizes {
		if s.n < 0 || s.n > MaxBytes {
			report(s.name, fmt.Sprintf("%d: between 0 and %d bytes", s.n, MaxBytes))
		}
	}
	if len(r.Redact) > MaxRules {
		report(".redact", fmt.Sprintf("lists %d rules: at most %d", len(r.Redact), MaxRules))
		return
	}
	var patterns []*regexp.Regexp
	steps := 0
	for i, rule := range r.Redact {
		at := fmt.Sprintf(".redact[%d]", i)
		if (rule.Field == "") == (rule.Regex == "") {
			report(at, "write either field or regex")
			continue
		}
		if rule.Field != "" && (len(rule.Field) > maxField || !fieldPath.MatchString(rule.Field)) {
			report(at+".field", fmt.Sprintf("%q: write names of JSON fields with dots between them, at most %d bytes, such as card.number", rule.Field, maxField))
		}
		if rule.Regex != "" {
			pattern, err := compile(rule.Regex)
			if err != nil {
				report(at+".regex", err.Error())
			} else {
				patterns = append(patterns, pattern)
				if steps += stepsOf(rule.Regex); steps > maxSteps {
					report(at+".regex", fmt.Sprintf("is too large: with those before it, it takes %d steps at each byte of a body, at most %d: let it repeat less, such as x+ for x{1,100}", steps, maxSteps))
				}
			}
		}
		if len(rule.With) > maxWith || strings.ContainsFunc(rule.With, func(c rune) bool { return !unicode.IsPrint(c) }) {
			report(at+".with", fmt.Sprintf("%q: write at most %d printable characters", rule.With, maxWith))
		}
	}
	for i, rule := range r.Redact {
		for _, pattern := range patterns {
			if pattern.MatchString(rule.with()) {
				report(fmt.Sprintf(".redact[%d]", i), fmt.Sprintf("puts %s in place of what is redacted, which %s matches: write another text with \"with\"", rule.with(), pattern))
			}
		}
	}
}

// stepsOf is the size of the program that a valid pattern is compiled to.
func stepsOf(source string) int {
	tree, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return 0
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return 0
	}
	return len(program.Inst)
}

func compile(source string) (*regexp.Regexp, error) {
	if len(source) > maxPattern {
		return nil, fmt.Errorf("has %d bytes: at most %d", len(source), maxPattern)
	}
	pattern, err := regexp.Compile(source)
	if err != nil {
		return nil, fmt.Errorf("is no regular expression of RE2: %w", err)
	}
	if pattern.MatchString("") {
		return nil, fmt.Errorf("%s matches an empty text, and so everywhere: let it match something", source)
	}
	return pattern, nil
}
