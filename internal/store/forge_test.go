package store

import "github.com/specproxy/specproxy/internal/postmortem"

// Forge writes a record beside its chain, as nobody but who holds the database can.
func (t *Tx) Forge(r postmortem.Record) { t.put(postMortems, path(r.ID), r) }

// Lose deletes a record and leaves its events.
func (t *Tx) Lose(id string) { t.delete(postMortems, path(id)) }

// ForgeChain writes entries in place of those that are there, and a head.
func (t *Tx) ForgeChain(entries []postmortem.Entry, head postmortem.Head) {
	for _, e := range entries {
		event, err := e.Decode()
		if err != nil {
			t.fail(err)
			return
		}
		t.put(chain, numbered(event.Seq), link{Seq: event.Seq, Record: event.Record, Entry: e})
	}
	t.put(chainHead, newest, head)
}

// CutChain deletes the events after a head.
func (t *Tx) CutChain(head postmortem.Head) {
	for seq := head.Seq + 1; seq <= t.ChainHead().Seq; seq++ {
		t.delete(chain, numbered(seq))
	}
	t.put(chainHead, newest, head)
}
