package drain

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Bounds on what a manifest declares as segments: what comes of them is kept with each change of the weights, and in records for ever.
const (
	MaxAttributes = 3
	MaxValues     = 16
)

// Values that no manifest can declare.
const (
	// ValueOther is any value that is not declared, ValueAbsent that of a request without the header.
	ValueOther  = "(other)"
	ValueAbsent = "(absent)"
)

// Attribute is a property of requests by which executions are counted apart, so that a record can say what a canary never saw. Its values are
// declared and nothing else of it is kept: what a client sends is compared with them, never stored.
type Attribute struct {
	Name string `json:"name" yaml:"name"`
	// Header whose value counts, by its lower-case name; empty: the path counts.
	Header string `json:"header,omitempty" yaml:"header,omitempty"`
	// Values in the order in which they are tried; a trailing * matches any rest.
	Values []string `json:"values" yaml:"values"`
}

// String puts the attribute in words: "amount, by header x-refund-band: up-to-50, up-to-100".
func (a Attribute) String() string {
	by := "path"
	if a.Header != "" {
		by = "header " + a.Header
	}
	return a.Name + ", by " + by + ": " + strings.Join(a.Values, ", ")
}

var (
	attributeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$`)
	headerName    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,62}[a-z0-9])?$`)
	headerValue   = regexp.MustCompile(`^[A-Za-z0-9][-A-Za-z0-9 ._:/@+]{0,30}\*?$`)
	pathValue     = regexp.MustCompile(`^/[-A-Za-z0-9._~:/@+]{0,30}\*?$`)
)

// CheckSegments reports what is wrong with a manifest's segments, by field below "segments": "[0].header".
func CheckSegments(all []Attribute, report func(field, message string)) {
	if len(all) > MaxAttributes {
		report("", fmt.Sprintf("lists %d attributes: at most %d", len(all), MaxAttributes))
		return
	}
	for i, a := range all {
		at := fmt.Sprintf("[%d]", i)
		switch {
		case !attributeName.MatchString(a.Name):
			report(at+".name", fmt.Sprintf("%q: write a name of at most 32 lower-case letters, digits and hyphens, such as order-type", a.Name))
		case slices.ContainsFunc(all[:i], func(o Attribute) bool { return o.Name == a.Name }):
			report(at+".name", fmt.Sprintf("%s is listed twice", a.Name))
		}
		if a.Header != "" && (!headerName.MatchString(a.Header) || strings.HasPrefix(a.Header, "x-spec-")) {
			report(at+".header", fmt.Sprintf("%q: write the name of a request header in lower case, such as x-order-type; those that begin with x-spec- never reach an agent", a.Header))
		}
		a.checkValues(at+".values", report)
	}
}

func (a Attribute) checkValues(at string, report func(field, message string)) {
	if n := len(a.Values); n < 1 || n > MaxValues {
		report(at, fmt.Sprintf("lists %d values: between 1 and %d; any other is counted as %s", n, MaxValues, ValueOther))
		return
	}
	for i, v := range a.Values {
		field := fmt.Sprintf("%s[%d]", at, i)
		switch {
		case a.Header != "" && !headerValue.MatchString(v):
			report(field, fmt.Sprintf("%q: write at most 32 letters, digits, spaces and -._:/@+ that begin with a letter or digit; a trailing * matches any rest", v))
		case a.Header == "" && !pathValue.MatchString(v):
			report(field, fmt.Sprintf("%q is no path: write at most 32 letters, digits and -._~:/@+ that begin with /, a trailing * matches any rest; or name the header that is meant", v))
		default:
			if j := slices.IndexFunc(a.Values[:i], func(o string) bool { return glob(o, v) }); j >= 0 {
				report(field, fmt.Sprintf("%s is never reached: %s comes first", v, a.Values[j]))
			}
		}
	}
}

// All are the values that executions are counted by: the declared ones, other, and, of a header, absent.
func (a Attribute) All() []string {
	all := append(slices.Clone(a.Values), ValueOther)
	if a.Header != "" {
		all = append(all, ValueAbsent)
	}
	return all
}

// Place is where an execution is counted: for each attribute the index of its value in All.
type Place [MaxAttributes]uint8

// PlaceOf finds the place of a request. header returns the values of the attribute by its index; it is not asked for those that go by path.
func PlaceOf(all []Attribute, path string, header func(i int) []string) (at Place) {
	for i := range all {
		text := path
		if all[i].Header != "" {
			values := header(i)
			if len(values) == 0 {
				at[i] = uint8(len(all[i].Values) + 1) //nolint:gosec // at most MaxValues + 1
				continue
			}
			text = values[0]
		} else {
			text, _, _ = strings.Cut(text, "?")
		}
		at[i] = uint8(len(all[i].Values)) //nolint:gosec // other
		for j, v := range all[i].Values {
			if glob(v, text) {
				at[i] = uint8(j) //nolint:gosec // at most MaxValues
				break
			}
		}
	}
	return at
}

// Segment counts the executions with one value of one attribute.
type Segment struct {
	Attribute string `json:"attribute"`
	Value     string `json:"value"`
	Started   uint64 `json:"started"`
	// Failed includes what still runs and has stated it. Unknown ended without any statement.
	Failed  uint64 `json:"failed,omitempty"`
	Unknown uint64 `json:"unknown,omitempty"`
}

// tally is what one shard counts of one value.
type tally struct{ started, failed, unknown uint64 }

// newTallies makes one for each value of each attribute.
func newTallies(all []Attribute) [][]tally {
	var out [][]tally
	for _, a := range all {
		out = append(out, make([]tally, len(a.All())))
	}
	return out
}

// retell brings the tallies of the entry's place up to date with its outcome. The entry's lock is held, and the shard's.
func (e *entry) retell() {
	failed, unknown := e.outcome == Failure, !e.ended.IsZero() && e.outcome == ""
	for i := range e.shard.segments {
		t := &e.shard.segments[i][e.place[i]]
		t.failed += step(e.toldFailed, failed)
		t.unknown += step(e.toldUnknown, unknown)
	}
	e.toldFailed, e.toldUnknown = failed, unknown
}

// step is by how much a count moves that held a thing before and holds it now.
func step(before, now bool) uint64 {
	switch {
	case now && !before:
		return 1
	case before && !now:
		return ^uint64(0)
	}
	return 0
}

// Segments returns the counts of all values that occurred, in the order of the manifest.
func (l *Ledger) Segments() []Segment {
	sum := newTallies(l.attributes)
	if len(sum) == 0 {
		return nil
	}
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for a := range sum {
			for v, t := range s.segments[a] {
				sum[a][v].started += t.started
				sum[a][v].failed += t.failed
				sum[a][v].unknown += t.unknown
			}
		}
		s.mu.Unlock()
	}
	var out []Segment
	for a, attribute := range l.attributes {
		for v, value := range attribute.All() {
			if t := sum[a][v]; t.started > 0 {
				out = append(out, Segment{Attribute: attribute.Name, Value: value, Started: t.started, Failed: t.failed, Unknown: t.unknown})
			}
		}
	}
	return out
}

// PlusSegments adds two counts value by value. Neither is changed.
func PlusSegments(a, b []Segment) []Segment {
	if len(b) == 0 {
		return a
	}
	out := slices.Clone(a)
	for _, s := range b {
		i := slices.IndexFunc(out, func(o Segment) bool { return o.Attribute == s.Attribute && o.Value == s.Value })
		if i < 0 {
			out = append(out, s)
			continue
		}
		out[i].Started, out[i].Failed, out[i].Unknown = out[i].Started+s.Started, out[i].Failed+s.Failed, out[i].Unknown+s.Unknown
	}
	slices.SortStableFunc(out, func(x, y Segment) int {
		return cmp.Or(cmp.Compare(x.Attribute, y.Attribute), cmp.Compare(x.Value, y.Value))
	})
	return out
}
