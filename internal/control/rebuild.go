package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/versions"
)

// Imported is what became of one name that the archive holds.
type Imported struct {
	// Ref is empty for an image manifest that cannot be read.
	Ref versions.Ref
	// Digest is the one on record afterwards; empty if there is no record.
	Digest string
	State  ImportState
	// Reason and Next are set for a conflict and for damage.
	Reason, Next string
	// Digests are all those that the archive holds under the name, the tagged one first.
	Digests []string
}

// ImportState says what became of it.
type ImportState string

// The states of an import.
const (
	// ImportedNow: a record was made (or, in a dry run, would be).
	ImportedNow ImportState = "imported"
	// Known already: the record names what the archive holds.
	Known ImportState = "known"
	// Conflicting contents: the archive holds more than one, or another than the record names. Nothing was changed.
	Conflicting ImportState = "conflict"
	// Damaged: it cannot be read whole. Nothing was changed.
	Damaged ImportState = "damaged"
)

// name is everything that the archive holds under one name:version.
type name struct {
	ref  versions.Ref
	held []archive.Held // the tagged one first, then by digest
}

// catalogue is what the archive held when an import began. Listing it is one pass over the archive, so that its pages share one.
type catalogue struct {
	mu    sync.Mutex
	names []name
}

// ImportArchive makes records of what the archive holds and no record names, so that a control plane whose etcd was lost comes to know its
// versions again: as published, since what became of them was in the lost records. A name that the archive holds with several contents is
// not chosen from, unless choose gives the digest. It takes up to limit names after `after`, in their order; an empty `after` begins anew.
func (c *Controller) ImportArchive(ctx context.Context, actor Actor, after versions.Ref, limit int, choose map[versions.Ref]string, dryRun bool) (out []Imported, next versions.Ref, err error) {
	names, err := c.names(ctx, after == versions.Ref{})
	if err != nil {
		return nil, next, err
	}
	at, _ := slices.BinarySearchFunc(names, after, func(n name, after versions.Ref) int {
		if byName(n.ref, after) <= 0 {
			return -1
		}
		return 1
	})
	if after == (versions.Ref{}) {
		at = 0
	}
	taken := 0
	for _, n := range names[at:] {
		if taken == limit {
			return out, next, nil
		}
		one, err := c.importName(ctx, actor, n, choose[n.ref], dryRun)
		if err != nil {
			return nil, next, err
		}
		out = append(out, one...)
		if n.ref != (versions.Ref{}) { // unreadable manifests have no name to go on from: they all come in the first page
			taken, next = taken+1, n.ref
		}
	}
	return out, versions.Ref{}, nil
}

func byName(a, b versions.Ref) int {
	return cmp.Or(strings.Compare(a.Spec, b.Spec), versions.Compare(a.Version, b.Version))
}

// names lists what the archive holds, by name.
func (c *Controller) names(ctx context.Context, anew bool) ([]name, error) {
	c.catalogue.mu.Lock()
	defer c.catalogue.mu.Unlock()
	if !anew && c.catalogue.names != nil {
		return c.catalogue.names, nil
	}
	held, err := c.archive.Held(ctx)
	if err != nil {
		return nil, unavailable(err, "specctl import --from-archive")
	}
	byRef := map[versions.Ref][]archive.Held{}
	for _, h := range held {
		byRef[h.Ref] = append(byRef[h.Ref], h)
	}
	names := make([]name, 0, len(byRef))
	for ref, all := range byRef {
		slices.SortFunc(all, func(a, b archive.Held) int {
			if a.Tagged != b.Tagged {
				if a.Tagged {
					return -1
				}
				return 1
			}
			return strings.Compare(a.Digest, b.Digest)
		})
		names = append(names, name{ref: ref, held: all})
	}
	slices.SortFunc(names, func(a, b name) int { return byName(a.ref, b.ref) })
	c.catalogue.names = names
	return names, nil
}

// importName decides over one name.
func (c *Controller) importName(ctx context.Context, actor Actor, n name, chosen string, dryRun bool) ([]Imported, error) {
	if n.ref == (versions.Ref{}) {
		var out []Imported
		for _, h := range n.held {
			out = append(out, Imported{State: Damaged, Digests: []string{h.Digest}, Reason: h.Err.Error(), Next: "restore it from a mirror or a backup of the archive"})
		}
		return out, nil
	}
	one := Imported{Ref: n.ref, State: Known}
	for _, h := range n.held {
		one.Digests = append(one.Digests, h.Digest)
	}
	record, known := c.store.View().Version(n.ref.Spec, n.ref.Version)
	switch {
	case known && (len(n.held) > 1 || n.held[0].Digest != record.Digest):
		one.State, one.Digest = Conflicting, record.Digest
		one.Reason = fmt.Sprintf("the record of %s names %s; the archive holds under this name %s", n.ref, record.Digest, describe(n.held))
		one.Next = "specctl verify " + n.ref.String() + "   (the record stands: what was published first)"
		return []Imported{one}, nil
	case known:
		one.Digest = record.Digest
		return []Imported{one}, nil
	case chosen != "" && !slices.Contains(one.Digests, chosen):
		return nil, refuse("specctl import --from-archive --dry-run", "the archive holds no %s as %s: it holds %s", n.ref, chosen, describe(n.held))
	case chosen == "" && len(n.held) > 1:
		one.State, one.Reason = Conflicting, fmt.Sprintf("the archive holds %s with several contents: %s", n.ref, describe(n.held))
		one.Next = fmt.Sprintf("specctl import --from-archive --choose %s@%s   (after comparing them with another tool)", n.ref, n.held[0].Digest)
		return []Imported{one}, nil
	}
	packed, err := c.archive.Get(ctx, cmp.Or(chosen, n.held[0].Digest))
	var away *archive.Unreachable
	switch {
	case errors.As(err, &away):
		return nil, unavailable(err, "specctl import --from-archive")
	case err != nil:
		one.State, one.Reason, one.Next = Damaged, err.Error(), "specctl publish DIR   (the folder of "+n.ref.String()+")"
		return []Imported{one}, nil
	}
	done, err := c.publishPacked(ctx, actor, packed, dryRun)
	var refused *Refused
	switch {
	case errors.As(err, &refused): // its host belongs to another spec, or somebody published the name meanwhile
		one.State, one.Reason, one.Next = Conflicting, refused.Why, refused.Next
		return []Imported{one}, nil
	case err != nil:
		return nil, err
	}
	if one.Digest = done.Record.Digest; done.Created {
		one.State = ImportedNow
	}
	return []Imported{one}, nil
}

// describe lists digests and says which one other tools are given.
func describe(held []archive.Held) string {
	var parts []string
	for _, h := range held {
		if h.Tagged {
			parts = append(parts, h.Digest+" (tagged)")
		} else {
			parts = append(parts, h.Digest)
		}
	}
	return strings.Join(parts, ", ")
}

// unavailable turns an archive that does not answer into a refusal that says what to do.
func unavailable(err error, again string) error {
	var away *archive.Unreachable
	if !errors.As(err, &away) {
		return err
	}
	return &Refused{Why: err.Error() + "; nothing was changed", Next: again + "   (once it answers; traffic and rollbacks do not need it)"}
}
