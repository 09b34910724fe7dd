package postmortem

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// File of an export.
type File struct {
	Name string
	Data []byte
}

// Export is everything of one record, for reading and for checking: PM-1.md, PM-1.json, and PM-1.events.jsonl, which has one entry a line from
// the record's first event to the end of the chain. Of other records' events only the hash is given, which is all that following takes.
func Export(r Record, chain []Entry) ([]File, error) {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%s cannot be written as JSON: %w", r.ID, err)
	}
	var lines bytes.Buffer
	begun := false
	before := Origin()
	for _, e := range chain {
		event, err := e.Decode()
		if err != nil {
			return nil, err
		}
		own := event.Record == r.ID
		if own && !begun {
			begun = true
			if err := line(&lines, struct {
				After Head `json:"after"`
			}{before}); err != nil {
				return nil, err
			}
		}
		before = Head{Seq: event.Seq, Link: e.Link}
		if !begun {
			continue
		}
		if !own {
			e.Event = nil
		}
		if err := line(&lines, e); err != nil {
			return nil, err
		}
	}
	return []File{
		{r.ID + ".md", []byte(Markdown(r))},
		{r.ID + ".json", append(raw, '\n')},
		{r.ID + ".events.jsonl", lines.Bytes()},
	}, nil
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
