package notify

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
)

// Kinds of messages.
const (
	Rollback   = "rollback"
	Opened     = "postmortem.opened"
	Assigned   = "postmortem.assigned"
	Answered   = "postmortem.answered"
	Approved   = "postmortem.approved"
	Closed     = "postmortem.closed"
	Reopened   = "postmortem.reopened"
	Overridden = "postmortem.overridden"
	Overdue    = "postmortem.overdue"
	// ChainHead is the newest link of the chain, for whoever keeps it where nobody who alters the records can reach it.
	ChainHead = "chain.head"
)

// Kinds lists all of them.
func Kinds() []string {
	return []string{Rollback, Opened, Assigned, Answered, Approved, Closed, Reopened, Overridden, Overdue, ChainHead}
}

// typePrefix makes a kind CloudEvents' type.
const typePrefix = "io.github.specproxy."

// headEvery bounds how often the head is told.
const headEvery = time.Minute

// Message is one CloudEvent, version 1.0, in its JSON form.
type Message struct {
	SpecVersion string `json:"specversion"`
	// ID is the same however often the message is sent, and no other message of the source has it.
	ID      string    `json:"id"`
	Source  string    `json:"source"`
	Type    string    `json:"type"`
	Subject string    `json:"subject,omitempty"`
	Time    time.Time `json:"time"`
	Content string    `json:"datacontenttype"`
	Data    Data      `json:"data"`

	kind string
}

// Data is what a message says. It holds nothing personal but what people wrote into the record themselves.
type Data struct {
	// Summary is one line for people; Text what somebody wrote: a reason, an answer, a note.
	Summary string `json:"summary"`
	Text    string `json:"text,omitempty"`
	// Record that it is about, and the specs that this concerns.
	Record string   `json:"record,omitempty"`
	Specs  []string `json:"specs,omitempty"`
	Actor  string   `json:"actor"`
	// Moves are the rollback's.
	Moves    []Move    `json:"moves,omitempty"`
	Question string    `json:"question,omitempty"`
	Cause    string    `json:"cause,omitempty"`
	Owner    string    `json:"owner,omitempty"`
	Due      time.Time `json:"due,omitzero"`
	Action   string    `json:"action,omitempty"`
	Version  string    `json:"version,omitempty"`
	// Next is the command to type.
	Next string `json:"next,omitempty"`
	// Head of the chain: of the event that the message tells, or the newest.
	Head postmortem.Head `json:"head"`
}

// Move is one spec's rollback.
type Move struct {
	Spec       string   `json:"spec"`
	From       []string `json:"from"`
	To         string   `json:"to"`
	ToDigest   string   `json:"toDigest"`
	Generation uint64   `json:"generation"`
	Command    string   `json:"command"`
}

// next is the message that the receiver is to be told after at, and how far it has been told once it was; nil if there is nothing to tell.
func next(view *store.View, source string, r Receiver, at store.Webhook, now time.Time) (*Message, store.Webhook, error) {
	for {
		entries := view.Chain(at.Seq, 64)
		if len(entries) == 0 {
			break
		}
		for _, entry := range entries {
			e, err := entry.Decode()
			if err != nil {
				return nil, at, err
			}
			record, _ := view.PostMortem(e.Record)
			all := told(source, e, entry, record)
			for i := at.Parts; i < len(all); i++ {
				at.Parts = i + 1
				if r.wants(all[i].kind, all[i].Data.Specs) {
					return &all[i], at, nil
				}
			}
			at.Seq, at.Parts = e.Seq, 0
		}
	}
	m, after := late(view, source, r, at, now)
	if m != nil {
		return m, after, nil
	}
	if head := view.ChainHead(); r.wants(ChainHead, nil) && head.Seq > at.Head && now.Sub(at.HeadAt) >= headEvery {
		after.Head, after.HeadAt = head.Seq, now
		m := message(source, ChainHead, fmt.Sprintf("head-%d-%s", head.Seq, head.Link[:12]), now)
		m.Data.Head, m.Data.Actor, m.Data.Next = head, postmortem.System, fmt.Sprintf("specctl postmortem verify --head %d:%s", head.Seq, head.Link)
		m.Data.Summary = fmt.Sprintf("the chain of post-mortems ends at event %d: %s", head.Seq, head.Link)
		return &m, after, nil
	}
	return nil, after, nil
}

func message(source, kind, id string, at time.Time) Message {
	return Message{SpecVersion: "1.0", ID: id, Source: source, Type: typePrefix + kind, Time: at, Content: "application/json", kind: kind}
}

// told are the messages that one event of the chain is worth. One that this release does not know is worth none.
func told(source string, e postmortem.Event, entry postmortem.Entry, record postmortem.Record) []Message {
	fact, err := e.Says()
	if err != nil {
		return nil
	}
	say := func(kind, summary string, data Data) Message {
		m := message(source, kind, fmt.Sprintf("%d-%s.%s", e.Seq, entry.Link[:12], kind), e.At)
		m.Subject = e.Record
		data.Record, data.Specs, data.Actor, data.Head = e.Record, record.Specs, e.Actor, postmortem.Head{Seq: e.Seq, Link: entry.Link}
		data.Summary, data.Next = summary, "specctl postmortem show "+e.Record
		m.Data = data
		return m
	}
	specs := strings.Join(record.Specs, ", ")
	switch f := fact.(type) {
	case *postmortem.Opened:
		moves, words := moved(*f)
		return []Message{
			say(Rollback, fmt.Sprintf("%s was rolled back by %s: %s", specs, e.Actor, words), Data{Moves: moves, Text: f.Reason}),
			say(Opened, fmt.Sprintf("%s is open: why was %s rolled back?", e.Record, specs), Data{Moves: moves, Text: f.Reason}),
		}
	case *postmortem.Assigned:
		return []Message{say(Assigned, fmt.Sprintf("%s (%s) was given to %s", e.Record, specs, f.Owner), Data{Owner: f.Owner, Due: f.Due, Text: f.Note})}
	case *postmortem.Acted:
		a := f.Action
		if !a.Done.IsZero() {
			return nil
		}
		return []Message{say(Assigned, fmt.Sprintf("%s of %s (%s) was given to %s", a.ID, e.Record, specs, a.Owner), Data{Action: a.ID, Owner: a.Owner, Due: a.Due, Text: a.What})}
	case *postmortem.Answered:
		return []Message{say(Answered, fmt.Sprintf("%s (%s): %s", e.Record, specs, f.Question.Words()), Data{Question: string(f.Question), Text: f.Text})}
	case *postmortem.Approved:
		return []Message{say(Approved, fmt.Sprintf("%s (%s): the answers were approved by %s", e.Record, specs, e.Actor), Data{Text: f.Note})}
	case *postmortem.Closed:
		return []Message{say(Closed, fmt.Sprintf("%s (%s) was closed by %s: %s", e.Record, specs, e.Actor, f.Cause), Data{Cause: string(f.Cause), Text: f.Note})}
	case *postmortem.Reopened:
		return []Message{say(Reopened, fmt.Sprintf("%s (%s) was reopened by %s", e.Record, specs, e.Actor), Data{Text: f.Reason})}
	case *postmortem.Override:
		return []Message{say(Overridden, fmt.Sprintf("%s (%s) was overridden by %s: %s is deployed in spite of it", e.Record, specs, e.Actor, f.Version), Data{Version: f.Version, Text: f.Reason})}
	}
	return nil
}

func moved(f postmortem.Opened) (moves []Move, words string) {
	var parts []string
	for _, rb := range f.Rollbacks {
		m := Move{Spec: rb.Spec, To: rb.Target, ToDigest: rb.Digest, Generation: rb.Generation, Command: rb.Command}
		for _, a := range rb.Abandoned {
			m.From = append(m.From, a.Version)
		}
		moves = append(moves, m)
		parts = append(parts, fmt.Sprintf("%s %s → %s", m.Spec, strings.Join(m.From, ", "), m.To))
	}
	return moves, strings.Join(parts, "; ")
}

// late is a message about something that is overdue and that the receiver was not told of.
func late(view *store.View, source string, r Receiver, at store.Webhook, now time.Time) (*Message, store.Webhook) {
	known := at.Overdue
	at.Overdue = nil
	var first *Message
	var head *postmortem.Head
	say := func(record postmortem.Record, id, who string, due time.Time, words string) {
		if due.IsZero() || due.After(now) || !r.wants(Overdue, record.Specs) {
			return
		}
		id = fmt.Sprintf("%s-overdue-%d", id, due.Unix())
		switch {
		case slices.Contains(known, id):
			at.Overdue = append(at.Overdue, id)
		case first == nil:
			if head == nil {
				newest := view.ChainHead()
				head = &newest
			}
			m := message(source, Overdue, id, due)
			m.Subject = record.ID
			m.Data = Data{
				Record: record.ID, Specs: record.Specs, Actor: postmortem.System, Owner: who, Due: due, Head: *head, Next: "specctl postmortem show " + record.ID,
				Summary: fmt.Sprintf("%s is overdue since %s: %s", words, due.UTC().Format("2006-01-02 15:04Z"), who),
			}
			first = &m
			at.Overdue = append(at.Overdue, id)
		}
	}
	for _, record := range view.PostMortems() {
		specs := strings.Join(record.Specs, ", ")
		if record.Open() && record.Owner != nil {
			say(record, record.ID, record.Owner.Name, record.Owner.Due, fmt.Sprintf("%s (%s)", record.ID, specs))
		}
		for _, a := range record.Actions {
			if a.Done.IsZero() {
				say(record, record.ID+"-"+a.ID, a.Owner, a.Due, fmt.Sprintf("%s of %s (%s), %q,", a.ID, record.ID, specs, a.What))
			}
		}
	}
	return first, at
}

// Sample is a message such as a rollback makes.
func Sample(source string, at time.Time) Message {
	m := message(source, Rollback, "sample", at)
	m.Subject = "PM-0"
	m.Data = Data{
		Summary: "shop was rolled back by ada: shop 2.1.0 → 2.0.0", Text: "a sample: nothing happened", Record: "PM-0", Specs: []string{"shop"}, Actor: "ada",
		Moves: []Move{{Spec: "shop", From: []string{"2.1.0"}, To: "2.0.0", Generation: 3, Command: "rollback"}}, Next: "specctl postmortem show PM-0", Head: postmortem.Origin(),
	}
	return m
}
