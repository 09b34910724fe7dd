package drain

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Duration is a time.Duration that is written "90s" in YAML and JSON. Zero ("0s") is the same as leaving it out.
type Duration time.Duration

// Range is a span of durations, written "1s" or "1s-5s". Zero is the same as leaving it out.
type Range struct {
	Min, Max time.Duration
}

// ParseDuration reads "90s", "15m", "1h30m" or "250ms". Negative durations are refused.
func ParseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: write a number and a unit, such as 90s, 15m or 250ms", s)
	}
	if d < 0 {
		return 0, fmt.Errorf("%q is negative: a duration starts at 0s", s)
	}
	return Duration(d), nil
}

// String is the form that ParseDuration reads: whole seconds up to two minutes, above that without units that are zero ("90s", "15m").
func (d Duration) String() string {
	t := time.Duration(d)
	if t%time.Second == 0 && t < 2*time.Minute && t%time.Minute != 0 {
		return fmt.Sprintf("%ds", t/time.Second)
	}
	s := t.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText writes the form of String, in JSON and in YAML.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDuration(string(text))
	return err
}

// UnmarshalJSON takes a string only: a bare number has no unit.
func (d *Duration) UnmarshalJSON(data []byte) error {
	return unquote(data, "duration", `"90s"`, d.UnmarshalText)
}

// UnmarshalYAML names the line of a value that is wrong.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	return scalar(n, "duration", "90s", d.UnmarshalText)
}

// ParseRange reads a duration or two with a hyphen between, the smaller one first.
func ParseRange(s string) (Range, error) {
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	lo, errLow := ParseDuration(strings.TrimSpace(low))
	hi, errHigh := ParseDuration(strings.TrimSpace(high))
	if errLow != nil || errHigh != nil {
		return Range{}, fmt.Errorf("%q is not a range of durations: write 1s or 1s-5s", s)
	}
	if lo > hi {
		return Range{}, fmt.Errorf("%q ends before it begins: write %s-%s", s, hi, lo)
	}
	return Range{Min: time.Duration(lo), Max: time.Duration(hi)}, nil
}

// String is the form that ParseRange reads.
func (r Range) String() string {
	if r.Min == r.Max {
		return Duration(r.Min).String()
	}
	return Duration(r.Min).String() + "-" + Duration(r.Max).String()
}

// IsZero says that no range was given.
func (r Range) IsZero() bool { return r == Range{} }

// At is the point of the range at the given fraction: 0 is Min, 1 is Max. Fractions outside are clamped.
func (r Range) At(fraction float64) time.Duration {
	fraction = min(max(fraction, 0), 1)
	return r.Min + time.Duration(fraction*float64(r.Max-r.Min))
}

// MarshalText writes the form of String, in JSON and in YAML.
func (r Range) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what ParseRange reads.
func (r *Range) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRange(string(text))
	return err
}

// UnmarshalJSON takes a string only: a bare number has no unit.
func (r *Range) UnmarshalJSON(data []byte) error {
	return unquote(data, "range of durations", `"1s-5s"`, r.UnmarshalText)
}

// UnmarshalYAML names the line of a value that is wrong.
func (r *Range) UnmarshalYAML(n *yaml.Node) error {
	return scalar(n, "range of durations", "1s or 1s-5s", r.UnmarshalText)
}

// unquote hands a JSON string's content to read; null leaves the value alone, as encoding/json has it.
func unquote(data []byte, noun, example string, read func([]byte) error) error {
	if string(data) == "null" {
		return nil
	}
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%s is not a %s: write %s", data, noun, example)
	}
	return read([]byte(s))
}

// scalar hands a YAML scalar to read. Its error is a TypeError, so that the decoder goes on and reports every bad value at once, with lines.
func scalar(n *yaml.Node, noun, example string, read func([]byte) error) error {
	err := fmt.Errorf("a %s is one value, not a list or a mapping: write %s", noun, example)
	if n.Kind == yaml.ScalarNode {
		err = read([]byte(n.Value))
	}
	if err != nil {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %v", n.Line, err)}}
	}
	return nil
}
