package versions_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/rollout"
	"github.com/specproxy/specproxy/internal/versions"
)

const complete = `# every field
name: billing
version: 1.4.0-rc.1
description: Writes invoices.
hosts: [billing.agents, bill.example.com]
documents:
  - prompt.md
  - tools/invoice.yaml
parents: [1.3.0, 1.2.9]
fixes: PM-12
runtime:
  image: sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  binary: "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
  model: m-7
  tools: {invoice.send: "3.1"}
request: {bodyBuffer: 65536}
bake: 90m
shadow: safe
rollout:
  preset: careful
  steps:
    - {weight: 2.5%, until: evidence, within: 6h}
    - weight: 50%
      until: manual
      gates:
        - {name: sign-off, manual: true, notify: "https://chat.example.com/hook", linksFor: 8h}
        - {name: ledger, webhook: "http://ledger.example.com/ok?a=b", timeout: 5s, every: 1m}
  bake: {for: 2h, control: 5%}
  alpha: 0.01
  pMax: 0.1
  maxHarmed: 8
  metrics: [{name: policy, reason: "policy", never: true, alpha: 0.001, pMax: 0.02}, {name: latency, slowerThan: 2s}]
  judges:
    - {name: cost, prometheus: 'cost{v="{{canary}}"}', failAbove: 0.5, failBelow: 0}
    - {name: grader, webhook: "https://grader.example.com/judge", every: 1m, timeout: 20s, fails: 1}
  onInsufficient: hold
  rollback: auto-unless-acked-in
  ackWithin: 5m
  outcomes: [stated, protocol]
segments:
  - {name: order-type, header: x-order-type, values: [small, "large*"]}
  - {name: route, values: [/v1/invoices, "/v1/*"]}
capture: {request: 2048, response: 1024, redact: [{field: card.number}, {regex: '\b\d{16}\b', with: "[card]"}]}
inFlight:
  effects: guarded
  default: {onRollback: complete, within: 2m, then: cancel, retryAfter: 1s}
  rules:
    - when: {effects: none, olderThan: 2s}
      onRollback: cancel
      retryAfter: 500ms-2s
    - when: {effects: none}
      onRollback: handover
      else: complete
      within: 1m
      then: hold
    - when: {method: GET, path: /v1/invoices/*}
      onRollback: cancel
`

const smallest = "name: billing\nversion: 1.0.0\n" + versions.SmallestInFlight

func bound(f float64) *float64 { return &f }

func TestParseEveryField(t *testing.T) {
	got, err := versions.ParseManifest([]byte(complete))
	if err != nil {
		t.Fatal(err)
	}
	second := drain.Duration(time.Second)
	want := versions.Manifest{
		Name: "billing", Version: "1.4.0-rc.1", Description: "Writes invoices.",
		Hosts:     []string{"billing.agents", "bill.example.com"},
		Documents: []string{"prompt.md", "tools/invoice.yaml"},
		Parents:   []string{"1.3.0", "1.2.9"}, Fixes: "PM-12",
		Runtime: versions.Runtime{
			Image: "sha256:" + strings.Repeat("a", 64), Binary: "sha256:" + strings.Repeat("b", 64),
			Model: "m-7", Tools: map[string]string{"invoice.send": "3.1"},
		},
		Request: versions.Request{BodyBuffer: 65536},
		Bake:    drain.Duration(90 * time.Minute),
		Shadow:  versions.ShadowSafe,
		Rollout: rollout.Plan{
			Preset: "careful",
			Steps: []rollout.Step{
				{Weight: 250, Until: rollout.UntilEvidence, Within: rollout.Duration(6 * time.Hour)}, {Weight: 5000, Until: rollout.UntilManual, Gates: []rollout.Gate{
					{Name: "sign-off", Manual: true, Notify: "https://chat.example.com/hook", LinksFor: rollout.Duration(8 * time.Hour)},
					{Name: "ledger", Webhook: "http://ledger.example.com/ok?a=b", Timeout: rollout.Duration(5 * time.Second), Every: rollout.Duration(time.Minute)},
				}},
			},
			Bake: rollout.Bake{For: rollout.Duration(2 * time.Hour), Control: 500}, Alpha: 0.01, PMax: 0.1, MaxHarmed: 8,
			Metrics: []rollout.Metric{{Name: "policy", Reason: "policy", Never: true, Alpha: 0.001, PMax: 0.02}, {Name: "latency", SlowerThan: rollout.Duration(2 * time.Second)}},
			Judges: []rollout.Judge{
				{Name: "cost", Prometheus: `cost{v="{{canary}}"}`, FailAbove: bound(0.5), FailBelow: bound(0)},
				{Name: "grader", Webhook: "https://grader.example.com/judge", Every: rollout.Duration(time.Minute), Timeout: rollout.Duration(20 * time.Second), Fails: 1},
			},
			OnInsufficient: "hold", Rollback: rollout.ReactUnlessAcked, AckWithin: rollout.Duration(5 * time.Minute), Outcomes: []string{"stated", "protocol"},
		},
		Segments: []drain.Attribute{{Name: "order-type", Header: "x-order-type", Values: []string{"small", "large*"}}, {Name: "route", Values: []string{"/v1/invoices", "/v1/*"}}},
		Capture:  capture.Rules{Request: 2048, Response: 1024, Redact: []capture.Rule{{Field: "card.number"}, {Regex: `\b\d{16}\b`, With: "[card]"}}},
		InFlight: drain.Contract{
			Effects: drain.Guarded,
			Default: drain.Action{
				OnRollback: drain.Complete, Within: 120 * second, Then: drain.Cancel,
				RetryAfter: drain.Range{Min: time.Second, Max: time.Second},
			},
			Rules: []drain.Rule{
				{
					When:   drain.Match{Effects: drain.AnyOf{drain.EffectsNone}, OlderThan: 2 * second},
					Action: drain.Action{OnRollback: drain.Cancel, RetryAfter: drain.Range{Min: time.Second / 2, Max: 2 * time.Second}},
				},
				{
					When:   drain.Match{Effects: drain.AnyOf{drain.EffectsNone}},
					Action: drain.Action{OnRollback: drain.Handover, Else: drain.Complete, Within: 60 * second, Then: drain.Hold},
				},
				{When: drain.Match{Method: "GET", Path: "/v1/invoices/*"}, Action: drain.Action{OnRollback: drain.Cancel}},
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestParseFillsDefaults(t *testing.T) {
	got, err := versions.ParseManifest([]byte(smallest))
	if err != nil {
		t.Fatal(err)
	}
	want := versions.Manifest{
		Name: "billing", Version: "1.0.0", Hosts: []string{"billing.agents"},
		Request: versions.Request{BodyBuffer: versions.DefaultBodyBuffer}, Bake: drain.Duration(versions.DefaultBake),
		InFlight: drain.Contract{Default: drain.Action{OnRollback: drain.Complete, Within: drain.Duration(2 * time.Minute), Then: drain.Cancel}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The control plane keeps manifests as JSON.
func TestManifestSurvivesJSON(t *testing.T) {
	for _, source := range []string{complete, smallest} {
		m, err := versions.ParseManifest([]byte(source))
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var back versions.Manifest
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, back); diff != "" {
			t.Errorf("-parsed +read back:\n%s", diff)
		}
	}
}

// bad are manifests that are refused, most of them by the schema as well.
var bad = []struct {
	name, source string
	// want are parts of the error, in any order.
	want []string
	// parserOnly: a schema cannot tell.
	parserOnly bool
}{
	{name: "empty", source: "", want: []string{"spec.yaml: the manifest is empty"}},
	{name: "only a comment", source: "# nothing\n", want: []string{"empty"}},
	{name: "empty rollout", source: smallest + "rollout: {}\n", want: []string{"line 5: rollout: says nothing: name a preset (careful, standard, fast, blue-green)"}},
	{name: "unknown preset", source: smallest + "rollout: {preset: bold}\n", want: []string{`line 5: rollout.preset: "bold" does not exist: there are careful`}},
	{
		name: "a rollout's fields", source: smallest + "rollout:\n  preset: fast\n  steps:\n    - {weight: 5, until: evidence}\n  alpha: half\n  metrics: [{name: m, reason: r, never: 1}]\n",
		want: []string{`line 8: rollout.steps[0].weight: "5" is no share`, `line 9: rollout.alpha: want a number, not the text "half"`, "line 10: rollout.metrics[0].never: want true or false, not the number 1"},
	},
	{
		name: "a capture of nothing", source: smallest + "capture: {redact: [{field: a}]}\n",
		want: []string{"line 5: capture: captures nothing: say how many bytes of the request and the response (1 to 8192), or leave it out"},
	},
	{
		name: "too much of a capture", source: smallest + "capture: {request: 8193, response: -1, redact: [" + strings.Repeat("{field: a},", 17) + "]}\n",
		want: []string{"capture.request: 8193: between 0 and 8192 bytes", "capture.response: -1: between", "capture.redact: lists 17 rules: at most 16"},
	},
	{
		name: "redaction of nothing or of two", source: smallest + "capture:\n  request: 1\n  redact:\n    - {with: x}\n    - {field: a, regex: b}\n    - {field: a..b}\n",
		want: []string{"line 8: capture.redact[0]: write either field or regex", "line 9: capture.redact[1]: write either", `line 10: capture.redact[2].field: "a..b"`},
	},
	{
		name: "redaction that cannot be carried out", source: smallest + "capture:\n  request: 1\n  redact:\n    - {regex: '(?<=a)b'}\n    - {regex: 'x*'}\n    - {regex: '[a-z]+'}\n", parserOnly: true,
		want: []string{"line 8: capture.redact[0].regex: is no regular expression of RE2", "line 9: capture.redact[1].regex: x* matches an empty text", "puts [redacted] in place of what is redacted, which [a-z]+ matches"},
	},
	{
		name: "segments that say too little", source: smallest + "segments:\n  - {header: x-order-type}\n  - {name: Order, values: []}\n",
		want: []string{"line 6: segments[0].name: \"\": write a name", "line 6: segments[0].values: lists 0 values: between 1 and 16", "line 7: segments[1].name: \"Order\""},
	},
	{
		name: "segments by what is no header", source: smallest + "segments: [{name: a, header: X-Order, values: [x]}, {name: b, header: x-spec-pin, values: [x]}, {name: c, header: '', values: [/x]}]\n",
		want: []string{`segments[0].header: "X-Order": write the name of a request header in lower case`, `segments[1].header: "x-spec-pin"`, "segments[2].header: is empty"},
	},
	{
		name: "values that a request could not have", source: smallest + "segments: [{name: a, header: x-a, values: ['a|b', '(other)', \"a\\nb\", " + strings.Repeat("x", 33) + "]}]\n",
		want: []string{`values[0]: "a|b"`, `values[1]: "(other)"`, `values[2]: "a\nb"`, "values[3]: \"xxx"},
	},
	{
		name: "too many segments", source: smallest + "segments: [" + strings.Repeat("{name: a, values: [/x]},", 4) + "]\n",
		want: []string{"line 5: segments: lists 4 attributes: at most 3"},
	},
	{
		name: "too many values", source: smallest + "segments: [{name: a, header: x-a, values: [" + strings.Repeat("v,", 17) + "]}]\n",
		want: []string{"lists 17 values: between 1 and 16; any other is counted as (other)"},
	},
	{
		name: "segments that cannot be told apart", source: smallest + "segments: [{name: a, header: x-a, values: ['l*', large]}, {name: a, values: [large]}]\n", parserOnly: true,
		want: []string{"segments[0].values[1]: large is never reached: l* comes first", "segments[1].name: a is listed twice", `segments[1].values[0]: "large" is no path`},
	},
	{
		name: "a falling rollout", source: smallest + "rollout:\n  steps:\n    - {weight: 50%, until: evidence}\n    - {weight: 5%, until: evidence}\n  alpha: .inf\n",
		want: []string{"line 9: rollout.alpha: .inf is not a number that can be used"}, parserOnly: true,
	},
	{
		name: "weights that fall", source: smallest + "rollout:\n  steps:\n    - {weight: 50%, until: evidence}\n    - {weight: 5%, until: evidence}\n",
		want: []string{"line 8: rollout.steps[1].weight: weights must rise"}, parserOnly: true,
	},
	{
		name: "gates of neither kind, and of both", source: smallest + "rollout:\n  steps:\n    - {weight: 5%, until: manual, gates: [{name: a}, {name: b, manual: true, webhook: \"http://x\"}]}\n",
		want: []string{"line 7: rollout.steps[0].gates[0]: gate a is either manual or a webhook", "gate b is either"},
	},
	{
		name: "judges that cannot judge", source: smallest + "rollout: {preset: fast, judges: [{name: a, prometheus: x}, {name: b, webhook: \"http://x/y\", failAbove: 1}]}\n",
		want: []string{"rollout.judges[0]: judge a: say failAbove or failBelow", "rollout.judges[1]: judge b: failAbove and failBelow are for queries"},
	},
	{
		name: "a bound that is none", source: smallest + "rollout: {preset: fast, judges: [{name: a, prometheus: x, failAbove: much}]}\n",
		want: []string{`rollout.judges[0].failAbove: want a number, not the text "much"`},
	},
	{
		name: "a gate nowhere", source: smallest + "rollout: {steps: [{weight: 5%, until: manual, gates: [{name: a, webhook: \"ftp://x/y\"}]}]}\n",
		want: []string{`line 5: rollout.steps[0].gates[0].webhook: "ftp://x/y" is no URL that can be asked`},
	},
	{name: "a metric of nothing", source: smallest + "rollout: {preset: fast, metrics: [{name: m}]}\n", want: []string{"metrics[0].reason: metric m must say"}},
	{name: "a metric of both", source: smallest + "rollout: {preset: fast, metrics: [{name: m, reason: r, slowerThan: 1s}]}\n", want: []string{"metrics[0]: metric m counts failures by their reason or"}, parserOnly: true},
	{name: "a rollback that waits for ever", source: smallest + "rollout: {preset: fast, rollback: auto-unless-acked-in}\n", want: []string{"needs ackWithin"}},
	{name: "empty words", source: smallest + "rollout: {preset: \"\", steps: [{weight: 5%, until: manual}], outcomes: []}\n", want: []string{"rollout.preset: is empty", "rollout.outcomes: is empty"}},
	{name: "a list", source: "- name\n", want: []string{"line 1: the manifest must be a mapping"}},
	{name: "broken YAML", source: "name: billing\nversion: [1.0.0\n", want: []string{"line", "not YAML"}, parserOnly: true},
	{name: "a tab", source: "name: billing\nruntime:\n\tmodel: m\n", want: []string{"line 3: not YAML"}, parserOnly: true},
	{name: "not UTF-8", source: "name: billing\n# \xff\n", want: []string{"line 2: the manifest is not UTF-8"}, parserOnly: true},
	{name: "two documents", source: smallest + "---\nname: other\n", want: []string{"a second YAML document begins"}, parserOnly: true},
	{
		name: "misspelled section", source: "name: billing\nversion: 1.0.0\n\n\n\n\ninflight:\n  default: {onRollback: complete}\n",
		want: []string{`spec.yaml: line 7: unknown field "inflight": did you mean "inFlight"?`},
	},
	{
		name: "misspelled in a rule", source: smallest + "  rules:\n    - when: {effect: none}\n      onRollback: cancel\n",
		want: []string{`line 6: inFlight.rules[0].when: unknown field "effect": did you mean "effects"?`},
	},
	{name: "snake case", source: smallest + "request: {body_buffer: 1}\n", want: []string{`did you mean "bodyBuffer"?`}},
	{name: "unknown field", source: smallest + "owner: us\n", want: []string{`line 5: unknown field "owner": known here are name, version, description, hosts`}},
	{name: "repeated field", source: smallest + "name: other\n", want: []string{`line 5: field "name" is set twice, first in line 1`}, parserOnly: true},
	{
		name: "repeated deep down", source: "name: billing\nversion: 1.0.0\ninFlight:\n  default:\n    onRollback: cancel\n    onRollback: complete\n",
		want: []string{`line 6: inFlight.default: field "onRollback" is set twice, first in line 5`}, parserOnly: true,
	},
	{name: "a field without value", source: smallest + "documents:\n", want: []string{"line 5: documents: has no value"}},
	{
		name: "anchors", source: "name: &n billing\nversion: 1.0.0\ndescription: *n\n" + versions.SmallestInFlight,
		want: []string{"line 1: name: YAML anchors", "line 3: description: YAML anchors"}, parserOnly: true,
	},
	{
		name: "merge key", source: "name: billing\nversion: 1.0.0\ninFlight: {default: {<<: {onRollback: cancel}}}\n",
		want: []string{"line 3: inFlight.default: a field's name must be plain text"}, parserOnly: true,
	},
	{name: "a number as a name", source: "name: 7\nversion: 1.0.0\n" + versions.SmallestInFlight, want: []string{"line 1: name: want text, not the number 7: write it in quotes"}},
	{name: "a number as a version", source: "name: billing\nversion: 1.0\n" + versions.SmallestInFlight, want: []string{"line 2: version: want text, not the number 1.0"}},
	{name: "a list for a mapping", source: smallest + "runtime: [a]\n", want: []string{"line 5: runtime: want a mapping of fields, not a list"}},
	{name: "a mapping for a list", source: smallest + "hosts: {a: b}\n", want: []string{"line 5: hosts: want a list, not a mapping"}},
	{name: "a text for a number", source: smallest + "request: {bodyBuffer: 1MiB}\n", want: []string{`request.bodyBuffer: want a whole number, not the text "1MiB"`}},
	{name: "buffer too small", source: smallest + "request: {bodyBuffer: 0}\n", want: []string{"request.bodyBuffer: 0: between 1 and"}},
	{name: "buffer too large", source: smallest + "request: {bodyBuffer: 67108865}\n", want: []string{"between 1 and 67108864 bytes"}},
	{name: "a bare number as a duration", source: smallest + "bake: 30\n", want: []string{"line 5: bake:", "not a duration"}},
	{name: "no bake at all", source: smallest + "bake: 0s\n", want: []string{"line 5: bake: must be longer than nothing"}, parserOnly: true},
	{name: "a shadow that is not safe", source: smallest + "shadow: maybe\n", want: []string{`line 5: shadow: "maybe": say safe, or leave it out`}},
	{name: "bad duration", source: smallest + "bake: soon\n", want: []string{`line 5: bake: "soon" is not a duration`}},

	{name: "no name, no version", source: versions.SmallestInFlight, want: []string{"name is missing", "version is missing"}},
	{name: "bad name", source: "name: Billing\nversion: 1.0.0\n" + versions.SmallestInFlight, want: []string{"line 1: name:", "DNS label"}},
	{name: "leading v", source: "name: billing\nversion: v1.0.0\n" + versions.SmallestInFlight, want: []string{"line 2: version:", "write 1.0.0"}},
	{name: "host with port", source: smallest + "hosts: ['a.b:80']\n", want: []string{"line 5: hosts[0]:", "write the host name alone"}},
	{name: "host in capitals", source: smallest + "hosts: [A.b]\n", want: []string{"write host names in lower case: a.b"}},
	{name: "host pattern", source: smallest + "hosts: ['*.b']\n", want: []string{"not a pattern"}},
	{name: "host twice", source: smallest + "hosts: [a.b, a.b]\n", want: []string{`hosts[1]: "a.b" is listed twice`}},
	{name: "host with an empty label", source: smallest + "hosts: [a..b]\n", want: []string{"not a host name"}},
	{name: "absolute document", source: smallest + "documents: [/etc/passwd]\n", want: []string{"line 5: documents[0]:", "absolute"}},
	{name: "document outside", source: smallest + "documents: [a/../../b]\n", want: []string{"contains .."}},
	{name: "document not clean", source: smallest + "documents: [./a]\n", want: []string{`write "a"`}},
	{name: "a folder as a document", source: smallest + "documents: [a/]\n", want: []string{`write "a"`}},
	{name: "backslashes", source: smallest + "documents: ['a\\b']\n", want: []string{"forward slashes: a/b"}},
	{name: "drive", source: smallest + "documents: ['C:a']\n", want: []string{"drive"}},
	{name: "the manifest as a document", source: smallest + "documents: [Spec.yaml]\n", want: []string{"the manifest itself"}},
	{name: "control character", source: smallest + `documents: ["a\tb"]` + "\n", want: []string{"control character"}},
	{name: "document twice", source: smallest + "documents: [a, b, a]\n", want: []string{`documents[2]: "a" is listed twice`}},
	{name: "case alone", source: smallest + "documents:\n  - a.md\n  - A.md\n", want: []string{"line 7: documents[1]:", "only in case"}, parserOnly: true},
	{name: "a file as a folder", source: smallest + "documents: [a, a/b]\n", want: []string{`documents[1]: "a/b" lies in "a"`}, parserOnly: true},
	{name: "the manifest as a folder", source: smallest + "documents: [spec.yaml/b]\n", want: []string{`lies in "spec.yaml"`}, parserOnly: true},
	{name: "too many documents", source: smallest + "documents: [" + strings.Join(names(1001), ",") + "]\n", want: []string{"lists 1001 documents: at most 1000"}},
	{name: "bad parent", source: smallest + "parents: [billing:0.9.0]\n", want: []string{"line 5: parents[0]:", "not semantic versioning"}},
	{name: "own parent", source: smallest + "parents: [1.0.0]\n", want: []string{"cannot be its own parent"}, parserOnly: true},
	{name: "bad fixes", source: smallest + "fixes: PM1\n", want: []string{"line 5: fixes:", "such as PM-1"}},
	{name: "bad image", source: smallest + "runtime: {image: latest}\n", want: []string{"runtime.image:", "not a digest"}},
	{name: "empty model", source: smallest + "runtime: {model: ''}\n", want: []string{"runtime.model: is empty"}},
	{name: "tool version as a number", source: smallest + "runtime: {tools: {a: 3.1}}\n", want: []string{"runtime.tools.a: want text, not the number 3.1: write it in quotes"}},

	{
		name: "no contract", source: "name: billing\nversion: 1.0.0\n",
		want: []string{"inFlight is missing: every version says, before it is deployed,", "inFlight:\n  default: {onRollback: complete, within: 2m, then: cancel}"},
	},
	{name: "empty contract", source: "name: billing\nversion: 1.0.0\ninFlight: {}\n", want: []string{"line 3: inFlight.default: missing"}},
	{name: "no disposition", source: "name: billing\nversion: 1.0.0\ninFlight:\n  default: {within: 1m, then: cancel}\n", want: []string{"line 4: inFlight.default.onRollback: missing"}},
	{name: "unknown disposition", source: contract("{onRollback: pause}"), want: []string{`line 3: inFlight.default.onRollback: "pause"`}},
	{name: "hold at once", source: contract("{onRollback: hold}"), want: []string{"hold only follows a deadline"}},
	{name: "deadline without then", source: contract("{onRollback: complete, within: 1m}"), want: []string{"line 3: inFlight.default.then: missing"}},
	{name: "then without deadline", source: contract("{onRollback: complete, then: hold}"), want: []string{"inFlight.default.within: missing"}},
	{name: "hand-over without else", source: contract("{onRollback: handover}"), want: []string{"line 3: inFlight.default.else: missing"}},
	{name: "else without hand-over", source: contract("{onRollback: complete, else: cancel}"), want: []string{"else belongs to handover"}},
	{name: "deadline that never counts", source: contract("{onRollback: handover, else: cancel, within: 1m, then: hold}"), want: []string{"belong to complete"}},
	{name: "retry after nothing", source: contract("{onRollback: complete, retryAfter: 1s}"), want: []string{"nothing is cancelled here"}},
	{name: "bad range", source: contract("{onRollback: cancel, retryAfter: often}"), want: []string{"line 3: inFlight.default.retryAfter:", "not a range"}},
	{name: "range backwards", source: contract("{onRollback: cancel, retryAfter: 5s-1s}"), want: []string{"ends before it begins"}, parserOnly: true},
	{name: "method in small letters", source: rules("{method: get}"), want: []string{"line 5: inFlight.rules[0].when.method:"}},
	{name: "star in the middle", source: rules("{path: /a/*/b}"), want: []string{"inFlight.rules[0].when.path:"}},
	{name: "unheard-of effects", source: rules("{effects: some}"), want: []string{"inFlight.rules[0].when.effects:"}},
	{name: "none without a guard", source: rules("{effects: none}"), want: []string{"line 5: inFlight.rules[0]: can never match"}, parserOnly: true},
	{
		name: "rule that can never match", source: rules("{path: /v1/*}", "{method: GET, path: /v1/chat}"),
		want: []string{"line 7: inFlight.rules[1]: can never match: inFlight.rules[0] comes first"}, parserOnly: true,
	},
	{name: "too many rules", source: rules(strings.Split(strings.Repeat("{};", 100)+"{}", ";")...), want: []string{"inFlight.rules: lists 101 rules: at most 100"}},
}

func names(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("d%d", i)
	}
	return out
}

// contract is a manifest with this default action, in line 3.
func contract(action string) string {
	return "name: billing\nversion: 1.0.0\ninFlight: {default: " + action + "}\n"
}

// rules is a manifest with one rule for each match, from line 5 on, two lines each.
func rules(matches ...string) string {
	var b strings.Builder
	b.WriteString("name: billing\nversion: 1.0.0\ninFlight: {default: {onRollback: complete},\n  rules: [\n")
	for _, m := range matches {
		fmt.Fprintf(&b, "    {when: %s,\n     onRollback: cancel},\n", m)
	}
	b.WriteString("  ]}\n")
	return b.String()
}

func TestBadManifestsAreRefused(t *testing.T) {
	for _, c := range bad {
		t.Run(c.name, func(t *testing.T) {
			m, err := versions.ParseManifest([]byte(c.source))
			var refused *versions.ManifestError
			if !errors.As(err, &refused) || len(refused.Problems) == 0 {
				t.Fatalf("got %+v, %v; want a *ManifestError", m, err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q:\n%v", want, err)
				}
			}
			if m.Name != "" || m.Bake != 0 {
				t.Errorf("a refused manifest is not zero: %+v", m)
			}
		})
	}
}

func TestProblemsAreReportedTogether(t *testing.T) {
	_, err := versions.ParseManifest([]byte(`name: Billing
vrsion: 1.0.0
hosts: [ok.agents, "*.agents"]
inFlight:
  default: {onRollback: handover}
  effects: sometimes
`))
	want := `spec.yaml has 5 problems:
  line 1: name: `
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Fatalf("got %v", err)
	}
	var lines []int
	var refused *versions.ManifestError
	if errors.As(err, &refused) {
		for _, p := range refused.Problems {
			lines = append(lines, p.Line)
		}
	}
	if diff := cmp.Diff([]int{1, 2, 3, 5, 6}, lines); diff != "" {
		t.Errorf("lines of the problems: -want +got:\n%s\n%v", diff, err)
	}
}

func TestHopelessFileIsBounded(t *testing.T) {
	_, err := versions.ParseManifest([]byte(strings.Repeat("? [x]\n: y\n", 10_000)))
	if err == nil || !strings.Contains(err.Error(), "more") || len(err.Error()) > 10_000 {
		t.Errorf("got %.300v", err)
	}
	_, err = versions.ParseManifest(bytes.Repeat([]byte("#"), versions.MaxManifestSize+1))
	checkError(t, "too large", err, "at most 1048576")
}

func compileSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(versions.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("manifest.schema.json", document); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("manifest.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bySchema is what the schema says of a manifest that is YAML at all.
func bySchema(t testing.TB, s *jsonschema.Schema, source string) error {
	t.Helper()
	var tree any
	if err := yaml.Unmarshal([]byte(source), &tree); err != nil {
		t.Fatalf("not YAML: %v", err)
	}
	data, err := json.Marshal(tree)
	if err != nil {
		t.Fatalf("not JSON: %v", err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(value)
}

func TestSchemaAgreesWithTheParser(t *testing.T) {
	s := compileSchema(t)
	for name, source := range map[string]string{"complete": complete, "smallest": smallest} {
		if err := bySchema(t, s, source); err != nil {
			t.Errorf("%s: the schema refuses what the parser takes: %v", name, err)
		}
	}
	for _, c := range bad {
		if !c.parserOnly && bySchema(t, s, c.source) == nil {
			t.Errorf("%s: the schema takes what the parser refuses", c.name)
		}
	}
}

// Whoever reads the schema in an editor learns what a field means.
func TestSchemaDescribesEveryField(t *testing.T) {
	var document struct {
		Properties map[string]struct {
			Description string `json:"description"`
			Ref         string `json:"$ref"`
		} `json:"properties"`
	}
	if err := json.Unmarshal([]byte(versions.Schema()), &document); err != nil {
		t.Fatal(err)
	}
	for name, p := range document.Properties {
		if p.Description == "" && p.Ref == "" {
			t.Errorf("field %s has no description", name)
		}
	}
	var fields map[string]any
	if err := yaml.Unmarshal([]byte(complete), &fields); err != nil {
		t.Fatal(err)
	}
	for name := range fields {
		if _, ok := document.Properties[name]; !ok {
			t.Errorf("the schema lacks %s", name)
		}
	}
	if len(document.Properties) != len(fields) {
		t.Errorf("the schema has %d fields, the test %d", len(document.Properties), len(fields))
	}
}
