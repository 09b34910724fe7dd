package control

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// Archive keeps versions for ever: a directory, or a repository of a registry. What it returns is verified.
type Archive interface {
	// Put stores a version; Tag points the version's tag at it, once its record is there.
	Put(ctx context.Context, p versions.Packed) error
	Tag(ctx context.Context, ref versions.Ref, digest string) error
	// Get returns a version from the nearest whole copy, Check from the archive itself and with its tag.
	Get(ctx context.Context, digest string) (versions.Packed, error)
	Check(ctx context.Context, ref versions.Ref, digest string) (versions.Packed, error)
	Attachments
	// Held lists everything in it, whoever recorded it.
	Held(ctx context.Context) ([]archive.Held, error)
	Attachments
	// String is where it is.
	String() string
}

// Archive is where the archive is.
func (c *Controller) Archive() string { return c.archive.String() }

// State of a version in the archive.
type State string

// States that checking and importing find.
const (
	// Whole: every byte is what the record names.
	Whole State = "whole"
	// DamagedState: what is there is not what its digest names.
	DamagedState State = "damaged"
	// Missing: nothing is there under the digest.
	Missing State = "missing"
	// MistaggedState: the version is whole, but its tag points elsewhere.
	MistaggedState State = "mistagged"
	// Unread: the archive did not answer, so nothing is known.
	Unread State = "unread"
)

// Checked is what reading one version from the archive found.
type Checked struct {
	Record versions.Record
	State  State
	// Reason and Next are set unless it is Whole.
	Reason, Next string
	// Documents and Bytes that were read, spec.yaml included.
	Documents, Bytes int
}

// VerifyArchive reads versions from the archive itself, every byte of them, in the order of their names: those after the version `after` of
// those asked for, at most limit. next is where to go on; its Spec is empty at the end.
func (c *Controller) VerifyArchive(ctx context.Context, asked versions.Ref, after versions.Ref, limit int) (out []Checked, next versions.Ref, err error) {
	view := c.store.View()
	if asked.Version != "" {
		record, err := known(view, asked.Spec, asked.Version)
		if err != nil {
			return nil, next, err
		}
		return []Checked{c.check(ctx, record)}, next, nil
	}
	if asked.Spec != "" && !view.Known(asked.Spec) {
		return nil, next, unknownSpec(asked.Spec)
	}
	for _, record := range recordsAfter(view, asked.Spec, after, limit) {
		if err := ctx.Err(); err != nil {
			return nil, next, err
		}
		out = append(out, c.check(ctx, record))
	}
	if len(out) == limit {
		next = out[limit-1].Record.Ref()
	}
	return out, next, nil
}

// recordsAfter pages through the records of one spec, or of all.
func recordsAfter(view *store.View, spec string, after versions.Ref, limit int) []versions.Record {
	var all []versions.Record
	read := func(spec, version string) {
		page, err := view.SomeVersions(store.VersionQuery{Spec: spec, After: version, Limit: limit - len(all)})
		if err == nil { // only a filter by numbers can be wrong
			all = append(all, page...)
		}
	}
	if spec != "" {
		read(spec, after.Version)
		return all
	}
	if after.Spec != "" {
		read(after.Spec, after.Version)
	}
	for at := after.Spec; len(all) < limit; {
		names := view.SomeSpecs("", at, 1)
		if len(names) == 0 {
			break
		}
		at = names[0]
		read(at, "")
	}
	return all
}

func (c *Controller) check(ctx context.Context, record versions.Record) Checked {
	out := Checked{Record: record, State: Whole}
	packed, err := c.archive.Check(ctx, record.Ref(), record.Digest)
	for _, b := range packed.Blobs {
		out.Documents++
		out.Bytes += len(b.Data)
	}
	var damaged *archive.Damaged
	var mistagged *archive.Mistagged
	again := fmt.Sprintf("specctl publish DIR   (the folder of %s: the same bytes repair the copy)", record.Ref())
	switch {
	case err == nil && packed.Ref() != record.Ref():
		out.State, out.Reason, out.Next = DamagedState, fmt.Sprintf("the digest on record holds %s", packed.Ref()), "specctl versions "+record.Spec
	case err == nil:
	case errors.As(err, &mistagged):
		out.State, out.Reason, out.Next = MistaggedState, mistagged.Error(), again
	case errors.Is(err, archive.ErrNotFound):
		out.State, out.Reason, out.Next = Missing, fmt.Sprintf("%s holds nothing under %s", c.archive, record.Digest), again
	case errors.As(err, &damaged):
		out.State, out.Reason, out.Next = DamagedState, damaged.Error(), again
	default:
		out.State, out.Reason, out.Next = Unread, err.Error(), "specctl verify "+record.Ref().String()
	}
	if out.State != Whole {
		c.log.Warn("a version in the archive is not as its record says", zap.Stringer("version", record.Ref()), zap.String("state", string(out.State)), zap.Error(err))
	}
	return out
}
