package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// Erasure is what Erase did.
type Erasure struct {
	// Keys of executions and Excerpts, which are texts of them, that are gone.
	Keys, Excerpts int
	// Kept is what is still there, and why; a line each.
	Kept []string
}

// Erase erases personal data of a record: what its events name by digest, the keys in the records of its executions, and what was captured of
// them. The chain stays whole.
func (c *Controller) Erase(ctx context.Context, actor Actor, id string, digests []string, reason string) (Erasure, error) {
	if actor.Automation || strings.TrimSpace(reason) == "" {
		return Erasure{}, refuse(fmt.Sprintf("specctl postmortem erase %s --reason \"…\"", id), "a person erases personal data of %s, and says why", id)
	}
	var done Erasure
	gone := map[string]bool{}
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		done = Erasure{}
		clear(gone)
		record, err := knownRecord(tx, id)
		if err != nil {
			return err
		}
		fact := postmortem.Erased{Reason: reason, Digests: []string{}}
		for _, p := range tx.Personal(id) {
			if len(digests) == 0 || slices.Contains(digests, p.Digest) {
				tx.DeletePersonal(id, p.Digest)
				gone[p.Text] = true
				fact.Digests = append(fact.Digests, p.Digest)
				if p.Excerpt {
					done.Excerpts++
				} else {
					done.Keys++
				}
			}
		}
		if err := unknownDigest(record, digests, fact.Digests); err != nil {
			return err
		}
		changed, everything := len(fact.Digests) > 0, len(digests) == 0
		failed := failingOf(record)
		again := map[string]bool{} // keys that sidecars told again since they were erased
		for _, v := range recordedBy(record) {
			for _, x := range tx.Excerpts(v.Spec, v.Version) {
				if withoutTexts(&x, gone, everything) {
					tx.PutExcerpt(x)
					changed = true
				}
			}
			for _, l := range lists {
				for _, b := range l.read(tx, v.Spec, v.Version) {
					if withoutKeys(&b, func(x store.Failure) bool {
						if everything && !gone[x.Key] && failed[x.ID] {
							again[x.Key] = true
						}
						return gone[x.Key] || again[x.Key]
					}) {
						l.put(tx, b)
					}
				}
			}
		}
		done.Keys += len(again)
		changed = changed || len(again) > 0
		if changed {
			tx.AppendPostMortem(id, time.Now().UTC(), actor.Name, fact)
		}
		return nil
	})
	if err != nil {
		return Erasure{}, err
	}
	done.Kept = c.kept(id, gone)
	if err := c.store.Forget(ctx); err != nil {
		return done, fmt.Errorf("what %s held is erased, but etcd's history still has it, since it could not be compacted: repeat the command: %w", id, err)
	}
	return done, nil
}

// lists are the records of executions, by which they are done again, undone and explained.
var lists = []struct {
	read func(r store.Reader, spec, version string) []store.FailureBatch
	put  func(tx *store.Tx, b store.FailureBatch)
}{
	{store.Reader.Failures, (*store.Tx).PutFailures},
	{store.Reader.Acts, (*store.Tx).PutActs},
	{store.Reader.Settled, (*store.Tx).PutSettled},
}

// recordedBy are the versions that a record is about.
func recordedBy(record postmortem.Record) []versions.Ref {
	var out []versions.Ref
	for _, r := range record.Rollbacks {
		for _, v := range append([]string{r.Target}, versionsOf(r.Abandoned)...) {
			out = append(out, versions.Ref{Spec: r.Spec, Version: v})
		}
	}
	return out
}

// failingOf are the failing executions that a record names.
func failingOf(record postmortem.Record) map[string]bool {
	out := map[string]bool{}
	for _, r := range record.Rollbacks {
		if r.Evidence != nil {
			for _, x := range r.Evidence.Failing {
				out[x.ID] = true
			}
		}
	}
	return out
}

// kept says what is still there of a record, of which some texts are gone.
func (c *Controller) kept(id string, gone map[string]bool) []string {
	view := c.store.View()
	record, _ := view.PostMortem(id)
	var out []string
	said := func(n int, format string, args ...any) {
		if n > 0 {
			out = append(out, fmt.Sprintf(format, append([]any{n}, args...)...))
		}
	}
	left := map[string]bool{}
	for _, p := range view.Personal(id) {
		left[p.Text] = true
	}
	said(len(left), "keys and texts of %[2]s that were not named: %[1]d; specctl postmortem erase %[2]s --reason \"…\" erases all", id)
	for _, other := range view.PostMortems() {
		same := 0
		for _, p := range view.Personal(other.ID) {
			if other.ID != id && gone[p.Text] {
				same++
			}
		}
		said(same, "keys and texts that %[2]s names too: %[1]d; specctl postmortem erase %[2]s --reason \"…\" erases them there", other.ID)
	}
	others, running := map[string]bool{}, 0
	for _, v := range recordedBy(record) {
		for _, l := range lists {
			for _, b := range l.read(view, v.Spec, v.Version) {
				for _, x := range b.Executions {
					if x.Key != "" && !left[x.Key] {
						others[v.Spec+" "+x.Key] = true
					}
				}
			}
		}
		for _, x := range c.fleet.Running(v.Spec, v.Version) {
			if x.Execution.GetKey() != "" {
				running++
			}
		}
	}
	said(len(others), "keys of executions that %[2]s does not name, because they did not fail or failed before its first step: %[1]d; they are done again and undone by them", id)
	said(running, "keys of executions that still run: %[1]d; those that fail come into %[2]s, to be erased again then", id)
	for _, r := range record.Rollbacks {
		if record.Open() && (r.Evidence == nil || !r.Evidence.Final) {
			out = append(out, fmt.Sprintf("what %s still gathers of %s, until it is closed or its window is over: erase again then", id, r.Spec))
		}
	}
	return append(out, fmt.Sprintf("the digests, and ids, paths and reasons of executions: they are in the chain, by which %s is verified", id))
}

// unknownDigest refuses digests that stand for nothing in the record, and never did: who mistypes one must not believe that it is gone.
func unknownDigest(record postmortem.Record, named, erased []string) error {
	for _, d := range named {
		was := func(e postmortem.Erasure) bool { return slices.Contains(e.Digests, d) }
		if !slices.Contains(erased, d) && !slices.ContainsFunc(record.Erasures, was) {
			return refuse("specctl postmortem export "+record.ID+"   ("+record.ID+".personal.json lists them)", "%s names nothing by the digest %s: nothing was erased", record.ID, d)
		}
	}
	return nil
}

// withoutTexts takes texts out of an excerpt, or all of it, and says whether there were any. What is left keeps it from being told again.
func withoutTexts(x *store.Excerpt, texts map[string]bool, everything bool) bool {
	changed := false
	for _, p := range []*capture.Part{&x.Request, &x.Response} {
		if p.Text != "" && (everything || texts[p.Text]) {
			*p, changed = capture.Part{Missing: "it was erased"}, true
		}
	}
	x.Erased = x.Erased || changed
	return changed
}

// withoutKeys takes keys out of a batch, and says whether there were any.
func withoutKeys(b *store.FailureBatch, gone func(store.Failure) bool) bool {
	changed := false
	b.Executions = slices.Clone(b.Executions)
	for i, x := range b.Executions {
		if x.Key != "" && gone(x) {
			b.Executions[i].Key, changed = "", true
		}
	}
	return changed
}
