package notify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/template"
)

// functions of templates.
var functions = template.FuncMap{
	"json": func(v any) (string, error) {
		raw, err := json.Marshal(v)
		return string(raw), err
	},
	"join": strings.Join,
}

// body is what the receiver is sent for a message.
func (r Receiver) body(m Message) (raw []byte, contentType string, err error) {
	switch r.Format {
	case "slack":
		raw, err = json.Marshal(slack(m))
		return raw, "application/json", err
	case "tracker":
		raw, err = json.Marshal(tracker(m))
		return raw, "application/json", err
	case "template":
		var out bytes.Buffer
		if err := r.template.Execute(&out, m); err != nil {
			return nil, "", err
		}
		if r.ContentType != "" {
			return out.Bytes(), r.ContentType, nil
		}
		if !json.Valid(out.Bytes()) {
			return nil, "", fmt.Errorf("template %s makes no JSON (write {{json .Data.Summary}} for a text, or contentType: text/plain)", r.template.Name())
		}
		return out.Bytes(), "application/json", nil
	}
	raw, err = json.Marshal(m)
	return raw, "application/cloudevents+json", err
}

// longest text of a section that Slack takes.
const longest = 2900

// slack is an incoming webhook's message. Slack's own markup in what people wrote is not obeyed: a note must not be able to call a channel.
func slack(m Message) map[string]any {
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace
	section := func(text string) map[string]any {
		return map[string]any{"type": "section", "text": map[string]any{"type": "mrkdwn", "text": text}}
	}
	blocks := []any{section("*" + cut(escape(m.Data.Summary)) + "*")}
	if m.Data.Text != "" {
		blocks = append(blocks, section(">"+strings.ReplaceAll(cut(escape(m.Data.Text)), "\n", "\n>")))
	}
	if m.Data.Next != "" {
		blocks = append(blocks, map[string]any{"type": "context", "elements": []any{map[string]any{"type": "mrkdwn", "text": "`" + escape(m.Data.Next) + "`"}}})
	}
	return map[string]any{"text": cut(escape(m.Data.Summary)), "blocks": blocks}
}

func cut(text string) string {
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "") + "…"
}

// tracker is what most trackers take to open an item: a title, Markdown, labels. The id of the message and the record's are there so that it can
// look whether it has the item.
func tracker(m Message) map[string]any {
	var body strings.Builder
	if m.Data.Text != "" {
		fmt.Fprintf(&body, "> %s\n\n", strings.ReplaceAll(m.Data.Text, "\n", "\n> "))
	}
	for _, v := range m.Data.Moves {
		fmt.Fprintf(&body, "* %s: %s → %s, generation %d, by `%s`\n", v.Spec, strings.Join(v.From, ", "), v.To, v.Generation, v.Command)
	}
	if m.Data.Owner != "" {
		fmt.Fprintf(&body, "* owner: %s\n", m.Data.Owner)
	}
	if !m.Data.Due.IsZero() {
		fmt.Fprintf(&body, "* due: %s\n", m.Data.Due.UTC().Format("2006-01-02 15:04Z"))
	}
	fmt.Fprintf(&body, "* by %s, %s\n* read it: `%s`\n* chain: `%d:%s`\n", m.Data.Actor, m.Time.UTC().Format("2006-01-02 15:04:05Z"), m.Data.Next, m.Data.Head.Seq, m.Data.Head.Link)
	return map[string]any{
		"title": m.Data.Summary, "body": body.String(), "labels": append([]string{"post-mortem"}, m.Data.Specs...), "externalId": m.Data.Record, "eventId": m.ID, "event": m.kind,
	}
}
