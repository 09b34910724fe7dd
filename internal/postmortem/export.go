package postmortem

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Exported is one file of an export. Its name is relative, with forward slashes.
type Exported struct {
	Name string
	Data []byte
}

// Document is PM-1.json: the record, and what follows from its evidence. Its schema is record.schema.json.
type Document struct {
	Schema  string  `json:"$schema"`
	Record  Record  `json:"record"`
	Derived []Found `json:"derived"`
	// Head is the newest link of the chain when the record was exported.
	Head Head `json:"head"`
}

// SchemaID of a Document.
const SchemaID = "https://github.com/specproxy/specproxy/blob/main/internal/postmortem/record.schema.json"

// Found is what follows from the evidence about one abandoned version, and the charts that show it.
type Found struct {
	Spec     string   `json:"spec"`
	Analysis Analysis `json:"analysis"`
	Charts   []Chart  `json:"charts"`
}

// Derive computes all that follows from a record's evidence.
func Derive(r Record) []Found {
	out := []Found{}
	for _, rb := range r.Rollbacks {
		for _, a := range Analyse(rb) {
			out = append(out, Found{Spec: rb.Spec, Analysis: a, Charts: Charts(rb, a)})
		}
	}
	return out
}

// Export is everything of one record, for reading and for checking: PM-1.md with its charts, PM-1.json, PM-1.events.jsonl, and under conformance/ the
// failing executions as cases to complete. PM-1.events.jsonl has one entry of the chain a line, from the record's first event to the end; of
// other records' events only the hash is given, which is all that following takes.
func Export(r Record, found []Found, chain []Entry) ([]Exported, error) {
	lines, head, err := events(r.ID, chain)
	if err != nil {
		return nil, err
	}
	raw, err := json.MarshalIndent(Document{Schema: SchemaID, Record: r, Derived: found, Head: head}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%s cannot be written as JSON: %w", r.ID, err)
	}
	out := []Exported{{r.ID + ".md", []byte(markdown(r, r.ID, found))}, {r.ID + ".json", append(raw, '\n')}, {r.ID + ".events.jsonl", lines}}
	for _, f := range found {
		rb, _ := r.Rollback(f.Spec)
		for _, c := range f.Charts {
			picture, err := c.SVG()
			if err != nil {
				return nil, err
			}
			out = append(out, Exported{chartFile(r.ID, rb, f.Analysis, c), picture})
		}
	}
	for _, rb := range r.Rollbacks {
		cases, err := cases(r.ID, rb)
		if err != nil {
			return nil, err
		}
		out = append(out, cases...)
	}
	return out, nil
}

// events is the content of PM-1.events.jsonl, and the head that it ends at.
func events(id string, chain []Entry) ([]byte, Head, error) {
	var lines bytes.Buffer
	begun := false
	head := Origin()
	for _, e := range chain {
		event, err := e.Decode()
		if err != nil {
			return nil, head, err
		}
		own := event.Record == id
		if own && !begun {
			begun = true
			if err := line(&lines, struct {
				After Head `json:"after"`
			}{head}); err != nil {
				return nil, head, err
			}
		}
		head = Head{Seq: event.Seq, Link: e.Link}
		if !begun {
			continue
		}
		if !own {
			e.Event = nil
		}
		if err := line(&lines, e); err != nil {
			return nil, head, err
		}
	}
	return lines.Bytes(), head, nil
}

// Case is a failing execution as a conformance case. What should have been answered is the publisher's to fill in, and so is what was asked where nothing was captured.
type Case struct {
	Name       string `json:"name"`
	PostMortem string `json:"postMortem"`
	Spec       string `json:"spec"`
	FailedOn   string `json:"failedOn"`
	Execution  string `json:"execution"`
	Method     string `json:"method"`
	Path       string `json:"path"`
	Reason     string `json:"reason,omitempty"`
	Status     int    `json:"status,omitempty"`
	Skill      string `json:"skill,omitempty"`
	// Request and Observed are what was captured; null where nothing was.
	Request  *Captured `json:"request"`
	Observed *Captured `json:"observed"`
	// Expect is null until somebody knows what should have been answered.
	Expect any `json:"expect"`
}

// Captured is a body as its manifest's rules left it.
type Captured struct {
	Body string `json:"body"`
	// Cut: the body went on.
	Cut bool `json:"cut,omitempty"`
}

// captured is nil where there is no text (any more).
func captured(p Part) *Captured {
	if p.Text == "" {
		return nil
	}
	return &Captured{Body: p.Text, Cut: p.Cut}
}

// cases are the first failing executions of a rollback, one for each reason.
func cases(id string, rb Rollback) ([]Exported, error) {
	if rb.Evidence == nil {
		return nil, nil
	}
	var out []Exported
	seen := map[string]bool{}
	all := slices.Concat(rb.Evidence.First, rb.Evidence.Last)
	for _, s := range all {
		if seen[s.Reason] {
			continue
		}
		seen[s.Reason] = true
		if i := slices.IndexFunc(all, func(o Sample) bool { return o.Reason == s.Reason && o.Excerpt != nil && o.Excerpt.Request.Text != "" }); i >= 0 {
			s = all[i] // it says what was asked
		}
		c := Case{
			Name: fmt.Sprintf("%s: %s", id, orNone(s.Reason, "an execution that failed")), PostMortem: id, Spec: rb.Spec, FailedOn: s.Version, Execution: s.ID,
			Method: s.Method, Path: s.Path, Reason: s.Reason, Status: s.Status, Skill: s.Skill,
		}
		if s.Excerpt != nil {
			c.Request, c.Observed = captured(s.Excerpt.Request), captured(s.Excerpt.Response)
		}
		raw, err := json.MarshalIndent(c, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("a case of %s cannot be written as JSON: %w", id, err)
		}
		out = append(out, Exported{fmt.Sprintf("conformance/%s.%s.%d.json", strings.ToLower(id), rb.Spec, len(out)+1), append(raw, '\n')})
	}
	return out, nil
}

func line(b *bytes.Buffer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("an event cannot be written as JSON: %w", err)
	}
	b.Write(raw)
	b.WriteByte('\n')
	return nil
}
