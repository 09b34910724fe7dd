package postmortem

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Event is one thing that happened to one record. Events are only ever added; a record is what its events say, in their order.
type Event struct {
	// Seq counts the events of all records, from 1.
	Seq    uint64    `json:"seq"`
	Record string    `json:"record"`
	At     time.Time `json:"at"`
	// Actor is who did it; "specproxy" for what the control plane observed by itself.
	Actor string `json:"actor"`
	// Kind says what Fact holds: see facts.
	Kind string          `json:"kind"`
	Fact json.RawMessage `json:"fact"`
}

// System is the actor of what nobody did.
const System = "specproxy"

// Entry is one event in the chain of all of them. Hash is the SHA-256, in hexadecimal, of the event's bytes exactly as they stand here; Link
// that of the link before and this hash, both as text. So whoever holds one link can tell whether anything before it was changed, and one
// record's events can be checked with nothing but the hashes of the others.
type Entry struct {
	Event json.RawMessage `json:"event,omitempty"`
	Hash  string          `json:"hash"`
	Link  string          `json:"link"`
}

// Head is the newest link of the chain. It is worth something where it is kept apart from the chain.
type Head struct {
	Seq  uint64 `json:"seq"`
	Link string `json:"link"`
}

// Origin is the head of a chain without events.
func Origin() Head { return Head{Link: strings.Repeat("0", 2*sha256.Size)} }

// Append makes the entry of the event that follows the head, and the head after it. The event's number is set here.
func (h Head) Append(e Event) (Entry, Head, error) {
	if h.Link == "" {
		h = Origin()
	}
	e.Seq = h.Seq + 1
	raw, err := json.Marshal(e)
	if err != nil {
		return Entry{}, h, fmt.Errorf("event %d of %s cannot be written as JSON: %w", e.Seq, e.Record, err)
	}
	hash := hashOf(raw)
	next := h.extend(hash)
	return Entry{Event: raw, Hash: hash, Link: next.Link}, next, nil
}

func (h Head) extend(hash string) Head {
	return Head{Seq: h.Seq + 1, Link: hashOf([]byte(h.Link + hash))}
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Decode reads the event of an entry.
func (e Entry) Decode() (Event, error) {
	var event Event
	if err := json.Unmarshal(e.Event, &event); err != nil {
		return event, fmt.Errorf("an event of the chain cannot be read: %w", err)
	}
	return event, nil
}

// Verify follows the chain from a link that is known, and says at which event it was altered. It returns the head that it arrived at, to be
// compared with one that was kept elsewhere: a chain that was made anew in all its parts is whole in itself.
func Verify(from Head, entries []Entry) (Head, error) {
	head := from
	if head.Link == "" {
		head = Origin()
	}
	for _, e := range entries {
		event, err := e.Decode()
		if err != nil {
			return head, err
		}
		where := fmt.Sprintf("event %d (%s, %s)", event.Seq, event.Record, event.Kind)
		switch next := head.extend(e.Hash); {
		case event.Seq != head.Seq+1:
			return head, fmt.Errorf("%s follows event %d: events are missing or out of order", where, head.Seq)
		case hashOf(compact(e.Event)) != e.Hash:
			return head, fmt.Errorf("%s was altered: its bytes hash to %s, the chain says %s", where, hashOf(compact(e.Event)), e.Hash)
		case next.Link != e.Link:
			return head, fmt.Errorf("%s does not follow what is before it: its link is %s, it must be %s", where, e.Link, next.Link)
		default:
			head = next
		}
	}
	return head, nil
}

// compact undoes an indentation; what was marshalled here is compact already.
func compact(raw []byte) []byte {
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return raw
	}
	return out.Bytes()
}

// Witnessed compares a chain with a head that was kept apart from it, and fails if the chain no longer leads through it.
func Witnessed(witness Head, entries []Entry) error {
	if witness.Seq == 0 {
		return nil
	}
	for _, e := range entries {
		event, err := e.Decode()
		if err != nil {
			return err
		}
		if event.Seq != witness.Seq {
			continue
		}
		if e.Link != witness.Link {
			return fmt.Errorf("the chain was rewritten: at event %d its link is %s, but %s was published", witness.Seq, e.Link, witness.Link)
		}
		return nil
	}
	return fmt.Errorf("the chain was cut: event %d with link %s was published and is not there", witness.Seq, witness.Link)
}
