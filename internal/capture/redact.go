package capture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Window is how many bytes of a body are looked at: more than is kept, so that what is redacted is seen whole.
const Window = 2 * MaxBytes

// maxDepth of JSON that is read, strings that hold JSON included.
const maxDepth = 64

// Body is the beginning of a request's or a response's body.
type Body struct {
	// Type and Encoding are what Content-Type and Content-Encoding say.
	Type, Encoding string
	// Begin has at most Window bytes; Whole says that no more followed.
	Begin []byte
	Whole bool
	// Missing says why nothing was taken; empty if something was.
	Missing string
}

// Part is what an excerpt has of one body.
type Part struct {
	Text string `json:"text,omitempty"`
	// Cut: the body went on.
	Cut bool `json:"cut,omitempty"`
	// Missing says why there is no text; empty if there is.
	Missing string `json:"missing,omitempty"`
}

// Excerpt of one execution.
type Excerpt struct{ Request, Response Part }

// Redactor applies the rules of one manifest. It may be used by several goroutines.
type Redactor struct {
	rules    Rules
	fields   []field
	patterns []pattern
}

type field struct{ path, with string }

type pattern struct {
	*regexp.Regexp
	with string
	rule int
}

// New compiles rules that Check accepts.
func New(rules Rules) (*Redactor, error) {
	r := &Redactor{rules: rules}
	for i, rule := range rules.Redact {
		if rule.Field != "" {
			r.fields = append(r.fields, field{"." + fold(rule.Field), rule.with()})
			continue
		}
		p, err := compile(rule.Regex)
		if err != nil {
			return nil, fmt.Errorf("redaction rule %d: %w", i+1, err)
		}
		r.patterns = append(r.patterns, pattern{p, rule.with(), i + 1})
	}
	return r, nil
}

// Excerpt redacts what was captured of an execution.
func (r *Redactor) Excerpt(request, response Body) Excerpt {
	return Excerpt{Request: r.part(r.rules.Request, request), Response: r.part(r.rules.Response, response)}
}

// Reason redacts what an agent gives as the reason of an outcome: records keep it for good. Patterns see it; fields of JSON are not in it.
func (r *Redactor) Reason(said string) string {
	out := r.matches(said)
	if said != "" && slices.ContainsFunc(r.patterns, func(p pattern) bool { return p.MatchString(out) }) {
		return defaultWith
	}
	return out
}

func (r *Redactor) part(limit int, b Body) Part {
	text, whole, err := r.text(limit, b)
	if err != nil {
		return Part{Missing: err.Error()}
	}
	out := Part{Text: text, Cut: !whole}
	if len(text) > limit {
		out = Part{Text: runes(text[:limit]), Cut: true}
	}
	// The last word: joints and cuts can make what no rule has seen.
	for _, shown := range []string{text, out.Text} {
		for _, p := range r.patterns {
			if p.MatchString(shown) {
				return Part{Missing: fmt.Sprintf("rule %d still matches after redaction", p.rule)}
			}
		}
	}
	return out
}

// text is all that was captured, redacted; whole says that nothing is missing at its end.
func (r *Redactor) text(limit int, b Body) (text string, whole bool, err error) {
	encoding := strings.TrimSpace(b.Encoding)
	switch {
	case limit == 0:
		return "", false, errors.New("the manifest captures none of it")
	case b.Missing != "":
		return "", false, errors.New(b.Missing)
	case len(b.Begin) == 0 && b.Whole:
		return "", false, errors.New("it was empty")
	case len(b.Begin) == 0:
		return "", false, errors.New("nothing of it had come")
	case encoding != "" && !strings.EqualFold(encoding, "identity"):
		return "", false, fmt.Errorf("it is encoded (%.40s)", encoding)
	}
	kind, err := kindOf(b.Type)
	if err != nil {
		return "", false, err
	}
	text = string(b.Begin)
	if !b.Whole {
		text = runes(text)
	}
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return "", false, errors.New("it is not text")
	}
	if len(r.rules.Redact) == 0 {
		return text, b.Whole, nil
	}
	switch kind {
	case "json":
		if !b.Whole {
			return "", false, fmt.Errorf("only its first %d bytes were looked at, in which what rules redact cannot be found safely", len(b.Begin))
		}
		text, err = r.json(text, 0, "", nil)
		return r.matches(text), true, err
	case "stream":
		if !b.Whole {
			text = text[:strings.LastIndexByte(text, '\n')+1]
			if text == "" {
				return "", false, errors.New("no line of it had ended where it was cut")
			}
		}
		text, err = r.lines(text)
		return text, b.Whole, err
	case "text":
		if !b.Whole {
			return "", false, fmt.Errorf("only its first %d bytes were looked at, in which what rules redact cannot be found safely", len(b.Begin))
		}
		text, err = r.plain(text, nil)
		return text, true, err
	}
	return "", false, fmt.Errorf("its type (%.60s) is none in which rules can be applied", orNone(b.Type))
}

func orNone(kind string) string {
	if kind == "" {
		return "not stated"
	}
	return kind
}

// kindOf sorts a Content-Type: json, stream (a line at a time), text, or other.
func kindOf(stated string) (string, error) {
	kind, parameters, err := mime.ParseMediaType(stated)
	if err != nil {
		return "other", nil //nolint:nilerr // what cannot be read is no type in which rules can be applied
	}
	if charset := parameters["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii") {
		return "", fmt.Errorf("its characters are encoded as %.20s", charset)
	}
	switch {
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		return "json", nil
	case kind == "text/event-stream" || kind == "application/x-ndjson" || kind == "application/jsonl":
		return "stream", nil
	case kind == "text/plain":
		return "text", nil
	}
	return "other", nil
}

// plain is text that may be JSON all the same. joined collects its texts; it may be nil.
func (r *Redactor) plain(text string, joined map[string]string) (string, error) {
	if looksLikeJSON(text) && json.Valid([]byte(text)) {
		out, err := r.json(text, 0, "", joined)
		return r.matches(out), err
	}
	if len(r.fields) > 0 {
		return "", errors.New("it is not JSON, so that fields cannot be found")
	}
	if len(r.patterns) > 0 && strings.Contains(text, `\u`) {
		return "", errors.New("it holds escaped characters outside JSON, which a rule cannot see")
	}
	out := r.matches(text)
	if joined != nil {
		joined[""] += strings.TrimPrefix(out, " ")
	}
	return out, nil
}

// lines redacts a stream: its rules see one line at a time, and what its texts are once a client has put them together.
func (r *Redactor) lines(text string) (string, error) {
	var out strings.Builder
	joined := map[string]string{}
	for line := range strings.Lines(text) {
		body := strings.TrimRight(line, "\r\n")
		end := line[len(body):]
		label := ""
		for _, name := range []string{"data:", "event:", "id:", "retry:", ":"} {
			if rest, ok := strings.CutPrefix(body, name); ok {
				label, body = name, rest
				break
			}
		}
		redacted := r.matches(body)
		if (label == "" || label == "data:") && strings.TrimSpace(body) != "" {
			var err error
			if redacted, err = r.plain(body, joined); err != nil {
				return "", fmt.Errorf("a line of it cannot be redacted: %w", err)
			}
		}
		out.WriteString(label + redacted + end)
	}
	for _, whole := range joined {
		if slices.ContainsFunc(r.patterns, func(p pattern) bool { return p.MatchString(whole) }) || r.quotesField(whole) {
			return "", errors.New("what a rule redacts is spread over its lines")
		}
	}
	return out.String(), nil
}

// quotesField says that a text names the last part of a field that a rule redacts, as JSON would.
func (r *Redactor) quotesField(text string) bool {
	text = fold(text)
	return slices.ContainsFunc(r.fields, func(f field) bool {
		name := f.path[strings.LastIndexByte(f.path, '.')+1:]
		return strings.Contains(text, `"`+name+`"`) || strings.Contains(text, `"`+name+`\"`)
	})
}

func (r *Redactor) matches(text string) string {
	for _, p := range r.patterns {
		text = p.ReplaceAllLiteralString(text, p.with)
	}
	return text
}

// looksLikeJSON says that it is an object or a list, if it is JSON.
func looksLikeJSON(text string) bool {
	text = strings.TrimSpace(text)
	return strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[")
}

// json writes JSON anew without what rules redact. path is the folded path of the value, each name after a dot; joined collects texts by it.
func (r *Redactor) json(text string, depth int, path string, joined map[string]string) (string, error) {
	if !json.Valid([]byte(text)) {
		return "", errors.New("it is not JSON, so that fields cannot be found")
	}
	w := writer{Redactor: r, in: json.NewDecoder(strings.NewReader(text)), joined: joined}
	w.in.UseNumber()
	if err := w.value(path, depth); err != nil {
		return "", err
	}
	return w.out.String(), nil
}

type writer struct {
	*Redactor
	in     *json.Decoder
	out    bytes.Buffer
	joined map[string]string // nil: not wanted
}

func (w *writer) value(path string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("its JSON is deeper than %d", maxDepth)
	}
	token, err := w.in.Token()
	if err != nil {
		return fmt.Errorf("its JSON cannot be read: %w", err)
	}
	switch t := token.(type) {
	case json.Delim:
		return w.composite(t, path, depth)
	case string:
		return w.text(t, path, depth)
	case json.Number:
		s := t.String()
		switch redacted := w.matches(s); {
		case redacted != s:
			w.quote(redacted)
		case len(w.patterns) > 0 && strings.ContainsAny(s, "eE"): // what a rule would match can be written so that it does not
			w.quote(w.patterns[0].with)
		default:
			w.out.WriteString(s)
		}
	case bool:
		fmt.Fprint(&w.out, t)
	case nil:
		w.out.WriteString("null")
	}
	return nil
}

func (w *writer) composite(open json.Delim, path string, depth int) error {
	w.out.WriteString(open.String())
	for first := true; w.in.More(); first = false {
		if !first {
			w.out.WriteByte(',')
		}
		if open == '[' {
			if err := w.value(path, depth+1); err != nil {
				return err
			}
			continue
		}
		if err := w.member(path, depth); err != nil {
			return err
		}
	}
	end, err := w.in.Token()
	if err != nil {
		return fmt.Errorf("its JSON cannot be read: %w", err)
	}
	fmt.Fprint(&w.out, end)
	return nil
}

func (w *writer) member(path string, depth int) error {
	token, err := w.in.Token()
	if err != nil {
		return fmt.Errorf("its JSON cannot be read: %w", err)
	}
	name, _ := token.(string)
	w.quote(w.matches(name))
	w.out.WriteByte(':')
	path += "." + fold(name)
	for _, f := range w.fields {
		if strings.HasSuffix(path, f.path) {
			var dropped json.RawMessage
			if err := w.in.Decode(&dropped); err != nil {
				return fmt.Errorf("its JSON cannot be read: %w", err)
			}
			w.quote(f.with)
			return nil
		}
	}
	return w.value(path, depth+1)
}

// text writes a string, which may hold JSON itself.
func (w *writer) text(s, path string, depth int) error {
	inside := looksLikeJSON(s) && json.Valid([]byte(s))
	switch {
	case inside:
		inner, err := w.json(s, depth+1, path, w.joined)
		if err != nil {
			return err
		}
		s = inner
	case w.quotesField(s):
		return errors.New("a text in it quotes a field that a rule redacts, and is not JSON")
	case len(w.patterns) > 0 && strings.Contains(s, `\u`):
		return errors.New("a text in it holds escaped characters outside JSON, which a rule cannot see")
	}
	redacted := w.matches(s)
	for _, p := range w.patterns {
		if p.MatchString(redacted) {
			return fmt.Errorf("rule %d still matches after redaction", p.rule)
		}
	}
	if w.joined != nil && !inside {
		w.joined[path] += redacted
	}
	w.quote(redacted)
	return nil
}

func (w *writer) quote(s string) {
	encoder := json.NewEncoder(&w.out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(s) // a string always can be
	w.out.Truncate(w.out.Len() - 1)
}

// fold makes names equal that decoders take for the same.
func fold(name string) string { return strings.ToLower(strings.ToUpper(name)) }

// runes drops the part of a character at the end.
func runes(text string) string {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if c := text[len(text)-n]; utf8.RuneStart(c) {
			if !utf8.FullRuneInString(text[len(text)-n:]) {
				return text[:len(text)-n]
			}
			break
		}
	}
	return text
}
