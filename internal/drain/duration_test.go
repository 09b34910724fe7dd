package drain_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/drain"
)

func TestDurationText(t *testing.T) {
	for _, c := range []struct {
		in   string
		want time.Duration
		out  string
	}{
		{"90s", 90 * time.Second, "90s"},
		{"15m", 15 * time.Minute, "15m"},
		{"60s", time.Minute, "1m"},
		{"120s", 2 * time.Minute, "2m"},
		{"150s", 150 * time.Second, "2m30s"},
		{"1h", time.Hour, "1h"},
		{"90m", 90 * time.Minute, "1h30m"},
		{"10h", 10 * time.Hour, "10h"},
		{"1h0m5s", time.Hour + 5*time.Second, "1h0m5s"},
		{"500ms", 500 * time.Millisecond, "500ms"},
		{"1.5s", 1500 * time.Millisecond, "1.5s"},
		{"0s", 0, "0s"},
	} {
		d, err := drain.ParseDuration(c.in)
		if err != nil || time.Duration(d) != c.want || d.String() != c.out {
			t.Errorf("%s: got %v (%s), %v; want %v, written %s", c.in, time.Duration(d), d, err, c.want, c.out)
		}
	}
}

func TestRangeText(t *testing.T) {
	for _, c := range []struct {
		in   string
		want drain.Range
		out  string
	}{
		{"1s", drain.Range{Min: time.Second, Max: time.Second}, "1s"},
		{"1s-5s", drain.Range{Min: time.Second, Max: 5 * time.Second}, "1s-5s"},
		{"500ms - 2m", drain.Range{Min: 500 * time.Millisecond, Max: 2 * time.Minute}, "500ms-2m"},
		{"0s-3s", drain.Range{Max: 3 * time.Second}, "0s-3s"},
	} {
		r, err := drain.ParseRange(c.in)
		if err != nil || r != c.want || r.String() != c.out {
			t.Errorf("%s: got %+v (%s), %v; want %+v, written %s", c.in, r, r, err, c.want, c.out)
		}
	}
}

// Whatever is written is read back the same, alone and inside a contract, in YAML and in JSON.
func TestContractSurvivesWritingAndReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		span := func(label string) time.Duration {
			return time.Duration(rapid.Int64Range(0, int64(48*time.Hour)).Draw(t, label))
		}
		low := span("low")
		c := drain.Contract{
			Effects: drain.Guarded,
			Default: drain.Action{OnRollback: drain.Complete, Within: drain.Duration(span("within")), Then: drain.Hold},
			Rules: []drain.Rule{{
				When:   drain.Match{Effects: drain.AnyOf{drain.EffectsNone}, OlderThan: drain.Duration(span("olderThan"))},
				Action: drain.Action{OnRollback: drain.Cancel, RetryAfter: drain.Range{Min: low, Max: low + span("width")}},
			}},
		}
		var fromYAML, fromJSON drain.Contract
		text, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(text, &fromYAML); err != nil || !equal(fromYAML, c) {
			t.Fatalf("YAML: %v\n%s\ngot %+v", err, text, fromYAML)
		}
		data, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &fromJSON); err != nil || !equal(fromJSON, c) {
			t.Fatalf("JSON: %v\n%s\ngot %+v", err, data, fromJSON)
		}
	})
}

func equal(a, b drain.Contract) bool {
	return a.Effects == b.Effects && a.Default == b.Default && len(a.Rules) == 1 && len(b.Rules) == 1 && reflect.DeepEqual(a.Rules[0], b.Rules[0])
}

func TestZeroDurationsAreLeftOut(t *testing.T) {
	c := drain.Contract{Default: drain.Action{OnRollback: drain.Complete}}
	data, err := json.Marshal(c)
	if err != nil || string(data) != `{"default":{"onRollback":"complete"}}` {
		t.Errorf("JSON: %s, %v", data, err)
	}
	text, err := yaml.Marshal(c)
	if err != nil || string(text) != "default:\n    onRollback: complete\n" {
		t.Errorf("YAML: %s, %v", text, err)
	}
}

// Every bad value of a document is reported at once, by line, with what was written and what to write.
func TestBadDurationsInYAML(t *testing.T) {
	const document = `default: {onRollback: complete, within: 2 minutes, then: cancel}
rules:
- when: {olderThan: 30}
  onRollback: cancel
  retryAfter: 5s-1s
- when: {olderThan: -1s}
  onRollback: cancel
  retryAfter: [1s, 5s]
`
	var c drain.Contract
	err := yaml.Unmarshal([]byte(document), &c)
	if err == nil {
		t.Fatal("read without error")
	}
	for _, want := range []string{
		`line 1: "2 minutes" is not a duration: write a number and a unit, such as 90s, 15m or 250ms`,
		`line 3: "30" is not a duration`,
		`line 5: "5s-1s" ends before it begins: write 1s-5s`,
		`line 6: "-1s" is negative`,
		`line 8: a range of durations is one value, not a list or a mapping: write 1s or 1s-5s`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
}

func TestBadDurationsInJSON(t *testing.T) {
	for _, c := range []struct{ data, want string }{
		{`{"default":{"within":90}}`, `90 is not a duration: write "90s"`},
		{`{"default":{"within":"90"}}`, `"90" is not a duration`},
		{`{"default":{"retryAfter":["1s","5s"]}}`, `["1s","5s"] is not a range of durations: write "1s-5s"`},
		{`{"default":{"retryAfter":"1s-"}}`, `"1s-" is not a range of durations: write 1s or 1s-5s`},
		{`{"default":{"retryAfter":"-1s"}}`, `"-1s" is not a range of durations`},
	} {
		var contract drain.Contract
		if err := json.Unmarshal([]byte(c.data), &contract); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.data, err, c.want)
		}
	}
}

func TestRangeAt(t *testing.T) {
	r := drain.Range{Min: time.Second, Max: 5 * time.Second}
	for _, c := range []struct {
		fraction float64
		want     time.Duration
	}{{-1, time.Second}, {0, time.Second}, {0.5, 3 * time.Second}, {1, 5 * time.Second}, {7, 5 * time.Second}} {
		if got := r.At(c.fraction); got != c.want {
			t.Errorf("At(%v) = %v, want %v", c.fraction, got, c.want)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	for _, seed := range []string{"1s", "1s-5s", "5s-1s", "-1s", "1s--5s", "", "-", "9223372036854775807ns", "1h-2h"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := drain.ParseRange(s)
		if err != nil {
			return
		}
		if r.Min < 0 || r.Max < r.Min {
			t.Fatalf("%q gave %+v", s, r)
		}
		if again, err := drain.ParseRange(r.String()); err != nil || again != r {
			t.Fatalf("%q was written %s and read back as %+v, %v", s, r, again, err)
		}
	})
}
