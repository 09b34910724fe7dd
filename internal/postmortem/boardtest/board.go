// Package boardtest asks a record's Markdown what a review board asks: eight questions, answered from the text alone. The published example and
// exports of live runs are asked the same.
package boardtest

import (
	"fmt"
	"regexp"
)

// Story is what happened, as whoever made it happen knows it.
type Story struct {
	Spec, Version, Target string
	// Actor and Reason of the rollback; Proof is how it was proven: "route and fence".
	Actor, Reason, Proof string
	// Place is method and path of what failed, Said what the agents said of it, Attribute and Value the segment that it lies in.
	Place, Said, Attribute, Value string
	// Ended is what became of executions that ran: "handed over to 2.0.3".
	Ended []string
	// Changed is what was different in the version, in words and in its files.
	Changed []string
	// Cause that the record was closed with; Suite of the conformance reports.
	Cause, Suite string
	// Canary, Conformance, Action, Owner and Fix are what people answered.
	Canary, Conformance, Action, Owner, Fix string
}

// Ask returns the questions that the text does not answer, each with what is missing.
func Ask(text string, s Story) []string {
	q := regexp.QuoteMeta
	const at, percent, took = `\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z`, `\d+\.\d %`, `[\d.]+(?:h|m|s|ms|µs)[\dhmsµ.]*`
	var unanswered []string
	for _, question := range []struct {
		asked   string
		answers []string
	}{
		{"1. What happened, when, and who did it?", []string{
			`# PM-\d+: rollback of ` + q(s.Spec), `\*\*Opened:\*\* ` + at + ` by ` + q(s.Actor), `\*\*Weights:\*\* .*` + q(s.Version) + `=\d+.* → ` + q(s.Target) + `=100`,
			`\*\*Reason given:\*\* ` + q(s.Reason), `\*\*Abandoned:\*\* ` + q(s.Version) + " `sha256:[0-9a-f]{64}`",
		}},
		{"2. How fast was it over, and how is that known?", []string{
			`\*\*Effective:\*\* ` + took + ` after the commit, by ` + q(s.Proof) + `; proxies \d+ of \d+, fences \d+ of \d+`, `\*\*Last new execution admitted by the abandoned pool:\*\* ` + at,
		}},
		{"3. Who was hit, and how badly?", []string{
			`\d+ of the \d+ executions under ` + q(s.Version) + ` that stated an outcome failed: ` + percent, `Under ` + q(s.Target) + ` it was \d+ of \d+: ` + percent,
			`\d+ different keys`, "\\| \\d+ \\| `" + q(s.Place) + "` \\|", q(s.Version) + ` \| ` + q(s.Said) + `.* \| \d+ \|`,
		}},
		{"4. What became of the work that ran, and what is to be undone?", append(quoted(s.Ended),
			`\| `+q(s.Version)+` \| irreversible \| \d+ \| \d+ \|`, "specctl effects "+q(s.Spec)+" --on "+q(s.Version)+" -o csv", "specctl executions "+q(s.Spec)+" --on "+q(s.Version)+" --failed -o csv")},
		{"5. What was wrong?", append(quoted(s.Changed), `Cause: \*\*`+q(s.Cause)+`\*\*`)},
		{"6. Why did the canary not catch it, and what would have?", []string{
			`In ` + took + ` the canary saw \d+ executions of ` + q(s.Version) + ` and \d+ in all`, `\*\*` + percent + ` chance\*\* of stopping it`, `\d+ executions in all .* would have given 80 %`,
			`\*\*What would have caught it:\*\* one step at `, "\\*\\*Segment `" + q(s.Attribute+"="+s.Value) + "` was " + percent + ` of all executions and ` + percent + ` of the failures; the canary saw (none of it|\d+)\.\*\*`, q(s.Canary),
		}},
		{"7. Why did conformance pass?", []string{`\| ` + q(s.Version) + ` \| ` + q(s.Suite) + ` \| ` + at + ` \| \d+ \| 0 \|`, q(s.Conformance), `offered as cases`}},
		{"8. What changes now, who does it, by when, and what fixes it?", []string{
			`\| A1 \| ` + q(s.Action) + `.* \| ` + q(s.Owner) + ` \| \d{4}-\d\d-\d\d \| no \|`, `What fixes it, and in which version\?\*\* ` + q(s.Fix), `Versions that say they fix it: ` + q(s.Spec+":"+s.Fix),
		}},
	} {
		for _, answer := range question.answers {
			if !regexp.MustCompile(answer).MatchString(text) {
				unanswered = append(unanswered, fmt.Sprintf("%s Nothing in it is like %s", question.asked, answer))
			}
		}
	}
	return unanswered
}

func quoted(all []string) []string {
	out := make([]string, 0, len(all))
	for _, text := range all {
		out = append(out, regexp.QuoteMeta(text))
	}
	return out
}
