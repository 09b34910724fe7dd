package specdiff_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/specdiff"
	"github.com/specproxy/specproxy/internal/versions"
)

func example(t *testing.T, version string) versions.Packed {
	t.Helper()
	files, err := versions.LoadFolder(os.DirFS("../../examples/refunds/specs/" + version))
	if err != nil {
		t.Fatal(err)
	}
	p, err := versions.Pack(files)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

type fataler interface {
	Fatal(args ...any)
}

func pack(t fataler, manifest string, documents map[string]string) versions.Packed {
	files := map[string][]byte{}
	var names []string
	for name, text := range documents {
		files[name] = []byte(text)
		names = append(names, name)
	}
	slices.Sort(names)
	files["spec.yaml"] = fmt.Appendf(nil, "name: s\n%s\ndocuments: [%s]\n", manifest, strings.Join(names, ", "))
	p, err := versions.Pack(files)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The refund policy that goes wrong in the worked example is one line of one document.
func TestTheExampleInWords(t *testing.T) {
	d := specdiff.Compare(example(t, "2.0.3"), example(t, "2.1.0"))
	var words []string
	for _, p := range d.Summary {
		words = append(words, string(p.Topic)+": "+p.Text)
	}
	want := []string{
		"limits: limits.yaml: refund.limit is 100, lowered from 500",
		"documents: limits.yaml: 3 lines added, 2 removed",
		"documents: prompt.md: 3 lines added, 3 removed",
		"lineage: 2.1.0 was derived from 2.0.3",
	}
	for _, w := range []string{want[0], want[3]} {
		if !slices.Contains(words, w) {
			t.Errorf("the summary does not say %q:\n%s", w, strings.Join(words, "\n"))
		}
	}
	var paths []string
	for _, doc := range d.Documents {
		paths = append(paths, string(doc.Status)+" "+doc.Path)
	}
	if diff := cmp.Diff([]string{"changed spec.yaml", "changed limits.yaml", "changed prompt.md"}, paths); diff != "" {
		t.Errorf("documents (-want +got):\n%s", diff)
	}
	limits := d.Documents[1].Unified
	for _, line := range []string{"--- a/limits.yaml\n", "+++ b/limits.yaml\n", "\n-  limit: 500\n", "\n+  limit: 100\n"} {
		if !strings.Contains(limits, line) {
			t.Errorf("the unified text lacks %q:\n%s", line, limits)
		}
	}
	if strings.HasPrefix(limits, "diff ") {
		t.Errorf("the unified text begins with a command:\n%s", limits)
	}
}

// inWords is how a contract of nothing but this default is explained.
func inWords(d drain.Disposition) string {
	lines := drain.Explain(drain.Contract{Effects: drain.Guarded, Default: drain.Action{OnRollback: d}})
	return lines[slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "default: ") })]
}

func TestWords(t *testing.T) {
	const contract = "inFlight: {effects: guarded, default: {onRollback: complete}}"
	base := map[string]string{"a.md": "one\ntwo\n", "limits.yaml": "refund: {limit: 100, currency: USD}\n"}
	for _, x := range []struct {
		name                string
		before, after       string
		docsBefore, docsNow map[string]string
		want                []string
	}{
		{"only the number", "version: 1.0.0\n" + contract, "version: 1.0.1\n" + contract, base, base, nil},
		{
			"the contract", "version: 1.0.0\n" + contract, "version: 1.0.1\ninFlight: {effects: guarded, default: {onRollback: cancel}}", base, base,
			[]string{"contract: no longer: " + inWords(drain.Complete), "contract: now: " + inWords(drain.Cancel)},
		},
		{
			"what runs it", "version: 1.0.0\nruntime: {model: m-7, tools: {search: '1', pay: '2'}}\n" + contract,
			"version: 1.0.1\nruntime: {model: m-8, tools: {pay: '3', mail: '1'}}\n" + contract, base, base,
			[]string{
				"tools: mail is now demanded: 1", "tools: pay 3 instead of 2", "tools: search is no longer demanded (was 1)", "runtime: model m-8 instead of m-7",
			},
		},
		{
			"limits", "version: 1.0.0\n" + contract, "version: 1.0.1\nbake: 2h\nrequest: {bodyBuffer: 65536}\n" + contract, base,
			map[string]string{"a.md": "one\ntwo\n", "limits.yaml": "refund: {limit: 500, currency: EUR, cases: 3}\n"},
			[]string{
				"limits: requests up to 65536 bytes can be handed over, lowered from 1048576", "limits: it must hold all the traffic for 2h to be good, not 1h",
				"limits: limits.yaml: refund.cases is now set: 3", "limits: limits.yaml: refund.limit is 500, raised from 100",
				"settings: limits.yaml: refund.currency is EUR, changed from USD", "documents: limits.yaml: 1 line added, 1 removed",
			},
		},
		{
			"documents come and go", "version: 1.0.0\n" + contract, "version: 1.0.1\n" + contract, map[string]string{"a.md": "x", "b.bin": "\x00\x01"},
			map[string]string{"b.bin": "\x00\x02", "c.md": "y"},
			[]string{"documents: a.md is gone", "documents: b.bin changed (not text)", "documents: c.md is new"},
		},
		{
			"data that cannot be read is text", "version: 1.0.0\n" + contract, "version: 1.0.1\n" + contract, map[string]string{"x.yaml": "a: [1\n"},
			map[string]string{"x.yaml": "a: [1, 2\n"}, []string{"documents: x.yaml: 1 line added, 1 removed"},
		},
	} {
		t.Run(x.name, func(t *testing.T) {
			d := specdiff.Compare(pack(t, x.before, x.docsBefore), pack(t, x.after, x.docsNow))
			var words []string
			for _, p := range d.Summary {
				words = append(words, string(p.Topic)+": "+p.Text)
			}
			if diff := cmp.Diff(x.want, words); diff != "" {
				t.Errorf("summary (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFields(t *testing.T) {
	d := specdiff.Compare(
		pack(t, "version: 1.0.0\ninFlight: {default: {onRollback: complete}, rules: [{when: {method: GET}, onRollback: cancel, retryAfter: 1s}]}", nil),
		pack(t, "version: 1.1.0\nparents: [1.0.0]\ninFlight: {default: {onRollback: complete}, rules: [{when: {method: GET}, onRollback: complete}]}", nil))
	want := []specdiff.Field{
		{Path: "inFlight.rules[0].onRollback", Before: "cancel", After: "complete"},
		{Path: "inFlight.rules[0].retryAfter", Before: "1s"},
		{Path: "parents[0]", After: "1.0.0"},
		{Path: "version", Before: "1.0.0", After: "1.1.0"},
	}
	if diff := cmp.Diff(want, d.Fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

// No change is overlooked, and none is made up.
func TestEveryChangedDocumentShows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		side := func(label string) map[string]string {
			docs := map[string]string{}
			for _, name := range []string{"a.md", "b/c.yaml", "d.json"} {
				if rapid.Bool().Draw(t, label+name) {
					docs[name] = rapid.StringMatching(`([a-z]: [0-9]\n|\x00|x\n){0,5}`).Draw(t, label+name+"text")
				}
			}
			return docs
		}
		before, after := side("before"), side("after")
		const m = "version: 1.0.0\ninFlight: {default: {onRollback: complete}}"
		d := specdiff.Compare(pack(t, m, before), pack(t, m, after))
		shown := map[string]specdiff.Document{}
		for _, doc := range d.Documents {
			shown[doc.Path] = doc
		}
		for _, name := range []string{"a.md", "b/c.yaml", "d.json"} {
			was, had := before[name]
			now, has := after[name]
			doc, ok := shown[name]
			if ok != (had != has || was != now) {
				t.Fatalf("%s: from %q to %q; shown: %v", name, was, now, ok)
			}
			if ok && doc.Opaque == "" && doc.Unified == "" && was != now {
				t.Fatalf("%s changed and nothing of it is shown: %+v", name, doc)
			}
		}
		if same := specdiff.Compare(pack(t, m, before), pack(t, m, before)); !same.Same() || len(same.Documents)+len(same.Fields)+len(same.Summary) > 0 {
			t.Fatalf("a version differs from itself: %+v", same)
		}
	})
}
