package plain

import (
	"fmt"
	"mime"
	"strings"

	"github.com/specproxy/specproxy/internal/drain"
)

// Outcome is what an agent says about the business result of an execution.
type Outcome struct {
	Success bool
	// Reason is free text; usual on failure.
	Reason string
}

// ParseOutcome reads x-spec-outcome: `success`, or `failure; reason="over the limit"`.
func ParseOutcome(value string) (Outcome, error) {
	word, params, err := mime.ParseMediaType(value)
	if err != nil {
		return Outcome{}, fmt.Errorf("x-spec-outcome %q: %w", value, err)
	}
	switch word {
	case "success":
		return Outcome{Success: true, Reason: params["reason"]}, nil
	case "failure":
		return Outcome{Reason: params["reason"]}, nil
	}
	return Outcome{}, fmt.Errorf("x-spec-outcome %q: say success or failure", value)
}

// ParseEffects reads the values of x-spec-effects, a list of acts such as `irreversible; tool="refund.issue"; key="r-17"; compensation="refund.void"`.
// The acts have no time: the caller knows it. An act whose class is not readable counts as unknown, never as nothing; the error names it.
func ParseEffects(values []string) ([]drain.Act, error) {
	var acts []drain.Act
	var bad error
	for _, value := range values {
		for _, element := range elements(value) {
			word, params, err := mime.ParseMediaType(element)
			class := drain.EffectsUnknown
			if err == nil {
				class, err = drain.ParseEffects(word)
			}
			if err != nil && bad == nil {
				bad = fmt.Errorf("x-spec-effects %q: %w", element, err)
			}
			acts = append(acts, drain.Act{Tool: params["tool"], Class: class, Key: params["key"], Compensation: params["compensation"]})
		}
	}
	return acts, bad
}

// elements splits a list header at its commas, not at those in quoted strings (RFC 9110 section 5.6.1). Empty elements are dropped.
func elements(value string) []string {
	var found []string
	quoted, escaped, begin := false, false, 0
	take := func(end int) {
		if element := strings.TrimSpace(value[begin:end]); element != "" {
			found = append(found, element)
		}
		begin = end + 1
	}
	for i := range len(value) {
		switch {
		case escaped:
			escaped = false
		case quoted && value[i] == '\\':
			escaped = true
		case value[i] == '"':
			quoted = !quoted
		case value[i] == ',' && !quoted:
			take(i)
		}
	}
	take(len(value))
	return found
}
