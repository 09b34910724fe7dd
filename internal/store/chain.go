package store

import (
	"fmt"
	"time"

	"github.com/specproxy/specproxy/internal/postmortem"
)

// link is one entry of the chain as it is kept: what the entry is about, so that it can be found, and the entry.
type link struct {
	Seq    uint64           `json:"seq"`
	Record string           `json:"record"`
	Entry  postmortem.Entry `json:"entry"`
}

// ofRecord has the entries of each record, in their order.
const ofRecord = "record"

var (
	chain = newKind("pmchain", func(link) []string { return nil }).indexed(ofRecord, func(v any) string {
		l := v.(link)
		return within(l.Record) + numbered(l.Seq)
	})
	chainHead = newKind("pmhead", func(postmortem.Head) []string { return nil })
)

// newest is the path of the only head.
const newest = "newest"

// ChainHead returns the newest link of the chain of all post-mortems' events.
func (r reader) ChainHead() postmortem.Head {
	h, ok := one[postmortem.Head](r, chainHead, newest)
	if !ok {
		return postmortem.Origin()
	}
	return h
}

// AppendPostMortem adds an event to the chain and writes the record as it is after it, which it returns. It is the only way in which a record
// changes.
func (t *Tx) AppendPostMortem(id string, at time.Time, actor string, fact postmortem.Fact) postmortem.Record {
	before, _ := t.PostMortem(id)
	event, err := postmortem.NewEvent(id, at, actor, fact)
	if err != nil {
		t.fail(err)
		return before
	}
	entry, head, err := t.ChainHead().Append(event)
	if err != nil {
		t.fail(err)
		return before
	}
	event.Seq = head.Seq
	after, err := before.After(event)
	if err != nil {
		t.fail(fmt.Errorf("post-mortem %s cannot take the event: %w", id, err))
		return before
	}
	t.put(chain, numbered(head.Seq), link{Seq: head.Seq, Record: id, Entry: entry})
	t.put(chainHead, newest, head)
	t.put(postMortems, path(id), after)
	return after
}

// Chain returns the entries after an event, oldest first; limit 0: all.
func (v *View) Chain(after uint64, limit int) []postmortem.Entry {
	s := span{index: byPath, limit: limit}
	if after > 0 {
		s.from = numbered(after)
	}
	return entries(v.walk(chain, s, ""))
}

// PostMortemEvents returns the entries of one record, oldest first.
func (v *View) PostMortemEvents(id string) []postmortem.Entry {
	return entries(v.walk(chain, span{index: ofRecord, prefix: within(id)}, ""))
}

func entries(rows []*row) []postmortem.Entry {
	links := values[link](rows)
	all := make([]postmortem.Entry, 0, len(links))
	for _, l := range links {
		all = append(all, l.Entry)
	}
	return all
}
