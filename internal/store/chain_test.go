package store_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
)

// TestForgedRecordsAreFound plays whoever holds the database: he alters, loses or cuts records, and makes all hashes anew where that helps him.
func TestForgedRecordsAreFound(t *testing.T) {
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		forge func(t *testing.T, s *store.Store, tx *store.Tx)
		// alone is what is found without a head that was published before, with it what else is.
		alone, witnessed string
	}{
		"nothing": {forge: func(*testing.T, *store.Store, *store.Tx) {}},
		"a record beside its chain": {alone: "PM-2 is not what its 2 events say", forge: func(_ *testing.T, _ *store.Store, tx *store.Tx) {
			r, _ := tx.PostMortem("PM-2")
			r.Reason = "nothing to see"
			tx.Forge(r)
		}},
		"a record that is gone": {alone: "PM-2 is lost: events of it are in the chain, from event 2 on", forge: func(_ *testing.T, _ *store.Store, tx *store.Tx) { tx.Lose("PM-2") }},
		"an event, its hash left as it is": {alone: "event 2 (PM-2, opened) was altered", forge: func(_ *testing.T, s *store.Store, tx *store.Tx) {
			entries := s.View().Chain(0, 0)
			entries[1].Event = bytes.Replace(entries[1].Event, []byte("refuses"), []byte("nothing"), 1)
			tx.ForgeChain(entries, tx.ChainHead())
		}},
		"an event in the middle, all hashes after it anew": {witnessed: "the chain was rewritten: at event 6", forge: func(t *testing.T, s *store.Store, tx *store.Tx) {
			entries := s.View().Chain(0, 0)
			head, err := postmortem.Verify(postmortem.Origin(), entries[:1])
			if err != nil {
				t.Fatal(err)
			}
			for i, e := range entries[1:] {
				event, err := e.Decode()
				if err != nil {
					t.Fatal(err)
				}
				event.Fact = bytes.Replace(event.Fact, []byte("refuses"), []byte("nothing"), 1)
				if entries[i+1], head, err = head.Append(event); err != nil {
					t.Fatal(err)
				}
			}
			tx.ForgeChain(entries, head)
			for _, id := range []string{"PM-1", "PM-2", "PM-3"} {
				r, _ := tx.PostMortem(id)
				if id != "PM-1" {
					r.Reason = "nothing"
				}
				tx.Forge(r)
			}
		}},
		"the newest record and its events": {witnessed: "the chain was cut: event 6", forge: func(t *testing.T, s *store.Store, tx *store.Tx) {
			head, err := postmortem.Verify(postmortem.Origin(), s.View().Chain(0, 2))
			if err != nil {
				t.Fatal(err)
			}
			tx.CutChain(head)
			tx.Lose("PM-3")
			for _, id := range []string{"PM-1", "PM-2"} {
				r, _ := tx.PostMortem(id)
				r.Alerts = nil
				tx.Forge(r)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			update := func(f func(tx *store.Tx)) {
				t.Helper()
				if _, err := s.Update(t.Context(), func(tx *store.Tx) error { f(tx); return nil }); err != nil {
					t.Fatal(err)
				}
			}
			records := []string{"PM-1", "PM-2", "PM-3"}
			update(func(tx *store.Tx) {
				for _, id := range records {
					tx.AppendPostMortem(id, noon, "ada", postmortem.Opened{Specs: []string{"shop"}, Reason: "refuses", Rollbacks: []postmortem.Rollback{{Spec: "shop"}}})
				}
				for _, id := range records {
					tx.AppendPostMortem(id, noon, "pager", postmortem.Alerted{Alert: postmortem.Alert{Name: "rings"}})
				}
			})
			published := s.View().ChainHead()
			update(func(tx *store.Tx) { c.forge(t, s, tx) })
			found := func(witness postmortem.Head, want string) {
				t.Helper()
				got := control.VerifyChain(s.View(), witness)
				if want == "" && got.Err != nil || want != "" && (got.Err == nil || !strings.Contains(got.Err.Error(), want)) {
					t.Errorf("with head %d: %v; want %q", witness.Seq, got.Err, want)
				}
			}
			found(postmortem.Head{}, c.alone)
			found(published, c.alone+c.witnessed)
		})
	}
}
