package capture_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/capture"
)

const card = `\b\d{16}\b`

func redactor(t interface{ Fatal(...any) }, rules capture.Rules) *capture.Redactor {
	var problems []string
	rules.Check(func(field, message string) { problems = append(problems, field+": "+message) })
	if problems != nil {
		t.Fatal(problems)
	}
	r, err := capture.New(rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestExcerpts(t *testing.T) {
	field, regex := capture.Rule{Field: "card.number"}, capture.Rule{Regex: card, With: "[card]"}
	js, text, sse := "application/json; charset=utf-8", "text/plain", "text/event-stream"
	for _, c := range []struct {
		name  string
		rules []capture.Rule
		limit int
		body  capture.Body
		want  capture.Part
	}{
		{"a field at any depth, in lists, in any case", []capture.Rule{field}, 0, whole(js, `{"params":{"Card":[{"NUMBER":"1"},{"number":{"a":2}}]},"number":3}`), capture.Part{Text: `{"params":{"Card":[{"NUMBER":"[redacted]"},{"number":"[redacted]"}]},"number":3}`}},
		{"a field named twice", []capture.Rule{field}, 0, whole(js, `{"card":{"number":1,"number":2}}`), capture.Part{Text: `{"card":{"number":"[redacted]","number":"[redacted]"}}`}},
		{"a name with a dot", []capture.Rule{field}, 0, whole(js, `{"card.number":1}`), capture.Part{Text: `{"card.number":"[redacted]"}`}},
		{"an escaped name", []capture.Rule{field}, 0, whole(js, `{"card":{"n\u0075mber":1}}`), capture.Part{Text: `{"card":{"number":"[redacted]"}}`}},
		{"a name with another end", []capture.Rule{field}, 0, whole(js, `{"card":{"my-number":1},"discard":{"number":2}}`), capture.Part{Text: `{"card":{"my-number":1},"discard":{"number":2}}`}},
		{"JSON in a string", []capture.Rule{field}, 0, whole(js, `{"text":"{\"card\":{\"number\":1}}"}`), capture.Part{Text: `{"text":"{\"card\":{\"number\":\"[redacted]\"}}"}`}},
		{"an escaped value", []capture.Rule{regex}, 0, whole(js, `{"a":"x \u0031234567890123456"}`), capture.Part{Text: `{"a":"x [card]"}`}},
		{"a number, a name and an exponent", []capture.Rule{regex}, 0, whole(js, `{"1234567890123456":1234567890123456,"b":1234567890.123456e6}`), capture.Part{Text: `{"[card]":"[card]","b":"[card]"}`}},
		{"text", []capture.Rule{regex}, 0, whole(text, "paid by 1234567890123456!"), capture.Part{Text: "paid by [card]!"}},
		{"text that is JSON", []capture.Rule{regex}, 0, whole(text, ` {"a":"\u0031234567890123456"}`), capture.Part{Text: `{"a":"[card]"}`}},
		{"events", []capture.Rule{field, regex}, 0, whole(sse, "event: step\ndata: {\"card\":{\"number\":1}}\n\n: 1234567890123456\n"), capture.Part{Text: "event: step\ndata:{\"card\":{\"number\":\"[redacted]\"}}\n\n: [card]\n"}},
		{"events cut in the middle of a line", []capture.Rule{regex}, 0, capture.Body{Type: sse, Begin: []byte("data: one\n\ndata: 12345678901")}, capture.Part{Text: "data: one\n\n", Cut: true}},
		{"a cut in a character", nil, 5, whole(text, "über¸ü"), capture.Part{Text: "über", Cut: true}},
		{"a body of which only the beginning was seen, without rules", nil, 0, capture.Body{Type: js, Begin: []byte(`{"a":"ü`)[:7]}, capture.Part{Text: `{"a":"`, Cut: true}},

		{"none wanted", nil, -1, whole(js, `{}`), capture.Part{Missing: "the manifest captures none of it"}},
		{"empty", nil, 0, whole(js, ""), capture.Part{Missing: "it was empty"}},
		{"nothing yet", nil, 0, capture.Body{Type: js}, capture.Part{Missing: "nothing of it had come"}},
		{"compressed", nil, 0, capture.Body{Type: js, Encoding: "gzip", Begin: []byte("x"), Whole: true}, capture.Part{Missing: "it is encoded (gzip)"}},
		{"binary", nil, 0, whole("application/grpc", "\x00\x00\x00\x00\x01a"), capture.Part{Missing: "it is not text"}},
		{"invalid UTF-8", nil, 0, whole(text, "a\xffb"), capture.Part{Missing: "it is not text"}},
		{"another charset", nil, 0, whole("text/plain; charset=utf-7", "x"), capture.Part{Missing: "its characters are encoded as utf-7"}},
		{"no JSON under a rule for a field", []capture.Rule{field}, 0, whole(js, `{"card":{"number":12`), capture.Part{Missing: "it is not JSON, so that fields cannot be found"}},
		{"text under a rule for a field", []capture.Rule{field}, 0, whole(text, `card.number=12`), capture.Part{Missing: "it is not JSON, so that fields cannot be found"}},
		{"JSON cut in the middle", []capture.Rule{field}, 0, capture.Body{Type: js, Begin: []byte(`{"card":{"num`)}, capture.Part{Missing: "only its first 13 bytes were looked at, in which what rules redact cannot be found safely"}},
		{"text cut in the middle", []capture.Rule{regex}, 0, capture.Body{Type: text, Begin: []byte(`12345678901`)}, capture.Part{Missing: "only its first 11 bytes were looked at, in which what rules redact cannot be found safely"}},
		{"a line that is no JSON under a rule for a field", []capture.Rule{field}, 0, whole(sse, "data: {\"card\":\ndata: {\"number\":1}}\n"), capture.Part{Missing: "a line of it cannot be redacted: it is not JSON, so that fields cannot be found"}},
		{"escapes outside JSON", []capture.Rule{regex}, 0, whole(text, `x={"a":"\u0031"}`), capture.Part{Missing: "it holds escaped characters outside JSON, which a rule cannot see"}},
		{"a form under a rule", []capture.Rule{regex}, 0, whole("application/x-www-form-urlencoded", "a=%31234"), capture.Part{Missing: "its type (application/x-www-form-urlencoded) is none in which rules can be applied"}},
		{"no type under a rule", []capture.Rule{regex}, 0, whole("", "a"), capture.Part{Missing: "its type (not stated) is none in which rules can be applied"}},
		{"a secret spread over events", []capture.Rule{regex}, 0, whole(sse, "data: {\"delta\":\"by 41111111\"}\n\ndata: {\"delta\":\"11111111\"}\n\n"), capture.Part{Missing: "what a rule redacts is spread over its lines"}},
		{"a secret spread over lines of text", []capture.Rule{regex}, 0, whole(sse, "data: by 41111111\ndata: 11111111\n\n"), capture.Part{Missing: "what a rule redacts is spread over its lines"}},
		{"JSON spread over events", []capture.Rule{field}, 0, whole(sse, "data: {\"part\":\"{\\\"card\\\":{\\\"num\"}\n\ndata: {\"part\":\"ber\\\":12}}\"}\n\n"), capture.Part{Missing: "what a rule redacts is spread over its lines"}},
		{"texts of events that hold none", []capture.Rule{regex, field}, 0, whole(sse, "data: {\"delta\":\"by 4111\"}\n\ndata: {\"delta\":\" and 1111\"}\n\n"), capture.Part{Text: "data:{\"delta\":\"by 4111\"}\n\ndata:{\"delta\":\" and 1111\"}\n\n"}},
		{"JSON within a text", []capture.Rule{field}, 0, whole(js, `{"text":"so: {\"card\":{\"NUMBER\":12}}"}`), capture.Part{Missing: "a text in it quotes a field that a rule redacts, and is not JSON"}},
		{"JSON in a string within a text", []capture.Rule{field}, 0, whole(js, `{"text":"so: {\\\"card\\\":{\\\"number\\\":12}}"}`), capture.Part{Missing: "a text in it quotes a field that a rule redacts, and is not JSON"}},
		{"escapes in a text that is not JSON", []capture.Rule{regex}, 0, whole(js, `{"text":"so: \\u0031234567890123456"}`), capture.Part{Missing: "a text in it holds escaped characters outside JSON, which a rule cannot see"}},
		{"a pattern that backtracks elsewhere", []capture.Rule{{Regex: `(a+)+$`, With: "-"}}, 0, whole(text, strings.Repeat("a", capture.MaxBytes-1)+"b"), capture.Part{Text: strings.Repeat("a", capture.MaxBytes-1) + "b"}},
		{"two documents", []capture.Rule{field}, 0, whole(js, `{}{"card":{"number":1}}`), capture.Part{Missing: "it is not JSON, so that fields cannot be found"}},
		{"deep", []capture.Rule{field}, 0, whole(js, strings.Repeat("[", 100)+strings.Repeat("]", 100)), capture.Part{Missing: "its JSON is deeper than 64"}},
		{"what matches only once it is put together", []capture.Rule{{Regex: "ab|a-c", With: "-"}}, 0, whole(text, "aabc"), capture.Part{Missing: "rule 1 still matches after redaction"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			limit := c.limit
			if limit == 0 {
				limit = capture.MaxBytes
			}
			r := redactor(t, capture.Rules{Request: max(limit, 0), Response: 1, Redact: c.rules})
			if got := r.Excerpt(c.body, whole(text, "")).Request; got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func whole(kind, text string) capture.Body {
	return capture.Body{Type: kind, Begin: []byte(text), Whole: true}
}

// TestNothingThatARuleNamesIsInAnExcerpt: whatever the body is, wherever it is cut, by whatever type it goes.
func TestNothingThatARuleNamesIsInAnExcerpt(t *testing.T) {
	const secret, number = "hush", "4111111111111111"
	pattern := regexp.MustCompile(card)
	rapid.Check(t, func(t *rapid.T) {
		rules := []capture.Rule{{Regex: card}, {Field: "secret"}, {Field: "card.holder"}, {Regex: "h[u]sh"}}
		r := redactor(t, capture.Rules{Request: rapid.IntRange(1, capture.MaxBytes).Draw(t, "limit"), Response: 1, Redact: rules})
		var body string
		kind := rapid.SampledFrom([]string{"application/json", "text/plain", "text/event-stream", "application/x-ndjson", "application/a2a+json"}).Draw(t, "type")
		for range rapid.IntRange(1, 4).Draw(t, "documents") {
			raw, err := json.Marshal(document(t, 0, secret, number))
			if err != nil {
				t.Fatal(err)
			}
			text := escaped(t, string(raw))
			switch kind {
			case "text/event-stream":
				body += "data: " + text + "\n\n"
			case "application/x-ndjson":
				body += text + "\n"
			default:
				body = text
			}
		}
		cut := len(body)
		if rapid.Bool().Draw(t, "is cut") {
			cut = rapid.IntRange(0, len(body)).Draw(t, "cut")
		}
		got := r.Excerpt(capture.Body{Type: kind, Begin: []byte(body[:cut]), Whole: cut == len(body)}, capture.Body{}).Request
		if strings.Contains(got.Text, secret) || strings.Contains(got.Text, `private`) || pattern.MatchString(got.Text) {
			t.Fatalf("of %s\nthe excerpt is %s", body, got.Text)
		}
		if cut == len(body) && got.Text == "" {
			t.Fatalf("of %s nothing was captured: %s", body, got.Missing)
		}
		if !utf8.ValidString(got.Text) || (got.Text == "") == (got.Missing == "") {
			t.Fatalf("got %+v", got)
		}
	})
}

// document holds what rules name, at places that they name.
func document(t *rapid.T, depth int, secret, number string) any {
	kind := rapid.IntRange(0, 7).Draw(t, "kind")
	if depth == 0 {
		kind = 1
	}
	switch {
	case kind == 0 && depth < 3:
		return []any{document(t, depth+1, secret, number), document(t, depth+1, secret, number)}
	case kind <= 2 && depth < 4:
		return map[string]any{
			rapid.SampledFrom([]string{"a", "ü", "card"}).Draw(t, "name"):     document(t, depth+1, secret, number),
			rapid.SampledFrom([]string{"secret", "Secret"}).Draw(t, "hidden"): rapid.SampledFrom([]any{"private", []string{"private"}, map[string]any{"x": "private"}}).Draw(t, "private"),
			"b": map[string]any{"card": map[string]any{"holder": "private", "last": 4}},
		}
	case kind == 3:
		return "by " + number + " or " + secret
	case kind == 4:
		return json.Number(number)
	case kind == 5:
		return fmt.Sprintf(`{"secret":"private","n":%s}`, number)
	case kind == 6:
		return rapid.StringMatching(`[a-gi-z é"\\<]{0,10}`).Draw(t, "text")
	}
	return true
}

// escaped writes some letters and digits of strings as escapes.
func escaped(t *rapid.T, raw string) string {
	if !rapid.Bool().Draw(t, "escaped") {
		return raw
	}
	return strings.NewReplacer("hush", `h\u0075sh`, `"secret"`, `"s\u0065cret"`, "by 4", `by \u0034`).Replace(raw)
}

func TestReasonsAreRedacted(t *testing.T) {
	for _, c := range []struct {
		rules      []capture.Rule
		said, want string
	}{
		{[]capture.Rule{{Regex: card, With: "[card]"}}, "4111111111111111 was declined", "[card] was declined"},
		{[]capture.Rule{{Field: "card"}}, "the card was declined", "the card was declined"},
		{[]capture.Rule{{Regex: "ab|a-c", With: "-"}}, "aabc", "[redacted]"},
	} {
		if got := redactor(t, capture.Rules{Request: 1, Redact: c.rules}).Reason(c.said); got != c.want {
			t.Errorf("%q became %q, want %q", c.said, got, c.want)
		}
	}
}

func TestRulesAreChecked(t *testing.T) {
	for want, rules := range map[string]capture.Rules{
		": captures nothing":                                           {},
		".request: 8193: between 0 and 8192 bytes":                     {Request: 8193},
		".response: -1":                                                {Request: 1, Response: -1},
		".redact: lists 17 rules":                                      {Request: 1, Redact: make([]capture.Rule, 17)},
		".redact[0]: write either field or regex":                      {Request: 1, Redact: []capture.Rule{{}}},
		".redact[0]: write either":                                     {Request: 1, Redact: []capture.Rule{{Field: "a", Regex: "a"}}},
		`.redact[0].field: "a..b"`:                                     {Request: 1, Redact: []capture.Rule{{Field: "a..b"}}},
		".redact[0].regex: is no regular expression of RE2":            {Request: 1, Redact: []capture.Rule{{Regex: `(?<=a)b`}}},
		".redact[0].regex: x* matches an empty text":                   {Request: 1, Redact: []capture.Rule{{Regex: "x*"}}},
		".redact[0].regex: has 257 bytes":                              {Request: 1, Redact: []capture.Rule{{Regex: strings.Repeat("a", 257)}}},
		".redact[0].regex: is too large: with those before it, it ta":  {Request: 1, Redact: []capture.Rule{{Regex: `(?:(?:[a-z ]{1,31}x?){1,31}){1}[0-9]{5}`}}},
		".redact[1].regex: is too large":                               {Request: 1, Redact: []capture.Rule{{Regex: `a{600}`}, {Regex: `b{600}`}}},
		".redact[0].with":                                              {Request: 1, Redact: []capture.Rule{{Field: "a", With: "a\nb"}}},
		".redact[0]: puts [redacted] in place of what is redacted, wh": {Request: 1, Redact: []capture.Rule{{Field: "a"}, {Regex: "[a-z]+", With: "-"}}},
	} {
		var got []string
		rules.Check(func(field, message string) { got = append(got, field+": "+message) })
		if len(got) == 0 || !strings.HasPrefix(got[0], want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestKeeperKeepsTheFirstAndTheLast(t *testing.T) {
	k := capture.NewKeeper(redactor(t, capture.Rules{Request: 10, Response: 10}))
	const all = 5 * capture.Kept
	for n := range all {
		i := n * 17 % all // they end in another order than they began
		k.Put(fmt.Sprint(i), time.Unix(int64(i), 0), whole("text/plain", fmt.Sprint("asked ", i)), whole("text/plain", "no"))
		if _, ok := k.Excerpt(fmt.Sprint(i)); ok {
			k.Put(fmt.Sprint(i), time.Unix(int64(i), 0), whole("text/plain", "another exchange"), capture.Body{})
		}
	}
	for i := range all {
		e, ok := k.Excerpt(fmt.Sprint(i))
		if want := i < capture.Kept || i >= all-capture.Kept; ok != want || ok && (e.Request.Text != fmt.Sprint("asked ", i) || e.Response.Text != "no") {
			t.Errorf("of %d there is %v %+v", i, ok, e)
		}
	}
	if _, ok := (*capture.Keeper)(nil).Excerpt("0"); ok {
		t.Error("a keeper that is none keeps something")
	}
}
