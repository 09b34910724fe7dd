package control

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
)

// Chain is what VerifyChain found.
type Chain struct {
	Head    postmortem.Head
	Records int
	// Err says what was altered; nil: nothing.
	Err error
}

// VerifyChain follows the chain of all events from its beginning, compares it with the head that is kept beside it and with one that was
// published (zero: none), and every record with what its events say.
func VerifyChain(view *store.View, witness postmortem.Head) Chain {
	entries := view.Chain(0, 0)
	head, err := postmortem.Verify(postmortem.Origin(), entries)
	out := Chain{Head: head, Err: err}
	if out.Err == nil && head != view.ChainHead() {
		out.Err = fmt.Errorf("the chain ends at event %d with link %s, but its head is event %d with link %s", head.Seq, head.Link, view.ChainHead().Seq, view.ChainHead().Link)
	}
	if out.Err == nil {
		out.Err = postmortem.Witnessed(witness, entries)
	}
	if out.Err == nil {
		out.Err = kept(view, entries)
	}
	for _, record := range view.PostMortems() {
		if out.Err != nil {
			return out
		}
		out.Records++
		out.Err = replays(record, view.PostMortemEvents(record.ID))
	}
	return out
}

// kept says that no record is lost of which the chain has events.
func kept(view *store.View, entries []postmortem.Entry) error {
	for _, e := range entries {
		event, err := e.Decode()
		if err != nil {
			return err
		}
		if _, ok := view.PostMortem(event.Record); !ok {
			return fmt.Errorf("%s is lost: events of it are in the chain, from event %d on", event.Record, event.Seq)
		}
	}
	return nil
}

// replays says that a record is what its events say.
func replays(record postmortem.Record, entries []postmortem.Entry) error {
	said, err := postmortem.Replay(entries)
	if err != nil {
		return err
	}
	want, err := json.Marshal(said)
	if err != nil {
		return err
	}
	got, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s is not what its %d events say: it was altered beside the chain", record.ID, len(entries))
	}
	return nil
}
