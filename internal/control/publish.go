package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// Published is what Publish did.
type Published struct {
	Record  versions.Record
	Created bool
	// Warnings a publisher should read, such as files the manifest does not name.
	Warnings []string
}

// shownIgnored is how many files that are no part of a version are named to its publisher.
const shownIgnored = 20

// Conflict says that a name:version exists with other bytes.
type Conflict struct{ Refused }

// Publish packs a folder (path → bytes), stores its documents and then its record. The documents are written first: a crash between the two
// leaves unreferenced blobs and no version. The same bytes again change nothing.
func (c *Controller) Publish(ctx context.Context, actor Actor, files map[string][]byte, claimed string) (Published, error) {
	packed, err := versions.Pack(files)
	if err != nil {
		return Published{}, &Refused{Why: err.Error(), Next: "correct the folder and publish again: specctl lint DIR"}
	}
	if claimed != "" && claimed != packed.Digest {
		return Published{}, refuse("publish again", "the folder arrived as %s, but the caller had computed %s; it was changed on the way", packed.Digest, claimed)
	}
	out, err := c.publishPacked(ctx, actor, packed, false)
	if err != nil {
		return Published{}, err
	}
	for i, path := range packed.Ignored {
		if i == shownIgnored {
			out.Warnings = append(out.Warnings, fmt.Sprintf("and %d more files", len(packed.Ignored)-i))
			break
		}
		out.Warnings = append(out.Warnings, fmt.Sprintf("%s is not named under documents in spec.yaml: it is not part of %s", path, packed.Ref()))
	}
	return out, nil
}

// ImportVersion stores a version in the form in which it travels: as strictly as Publish does, under the digest that it had where it came from.
func (c *Controller) ImportVersion(ctx context.Context, actor Actor, image []byte, files map[string][]byte, dryRun bool) (Published, error) {
	byDigest := make(map[string][]byte, len(files))
	for _, data := range files {
		byDigest[versions.DigestOf(data)] = data
	}
	packed, err := versions.Unpack(image, func(digest string) ([]byte, error) {
		if data, ok := byDigest[digest]; ok {
			return data, nil
		}
		return nil, fs.ErrNotExist
	})
	if err != nil {
		return Published{}, &Refused{Why: err.Error(), Next: "export it again where it came from: specctl export NAME:VERSION -f FILE"}
	}
	return c.publishPacked(ctx, actor, packed, dryRun)
}

// publishPacked stores the documents, then the record; a dry run only says what would become of that.
func (c *Controller) publishPacked(ctx context.Context, actor Actor, packed versions.Packed, dryRun bool) (Published, error) {
	ref := packed.Ref()
	out := Published{}
	// Who is to be refused leaves nothing in the archive; the transaction below is what decides.
	if old, ok := c.store.View().Version(ref.Spec, ref.Version); ok && old.Digest != packed.Digest {
		return Published{}, conflict(old, packed.Digest)
	}
	if !dryRun {
		if err := c.archive.Put(ctx, packed); err != nil {
			return Published{}, unavailable(err, "publish again")
		}
	}
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		if old, ok := tx.Version(ref.Spec, ref.Version); ok {
			out.Record, out.Created = old, false
			if old.Digest != packed.Digest {
				return conflict(old, packed.Digest)
			}
			return nil
		}
		for _, host := range packed.Manifest.Hosts {
			if owner, ok := tx.HostOwner(host); ok && owner != ref.Spec {
				return refuse("choose another name under `hosts` in spec.yaml", "%s claims the host %s, which belongs to %s", ref, host, owner)
			}
			tx.ClaimHost(host, ref.Spec)
		}
		out.Created = true
		out.Record = versions.Record{
			Spec: ref.Spec, Version: ref.Version, Digest: packed.Digest, PublishedAt: time.Now().UTC(), PublishedBy: actor.Name,
			Manifest: packed.Manifest, Standing: versions.Published,
		}
		if dryRun {
			return errDryRun
		}
		tx.PutVersion(out.Record)
		out.Warnings = named(tx, out.Record)
		return nil
	})
	if dryRun && (err == nil || errors.Is(err, errDryRun)) {
		return out, nil
	}
	if err != nil {
		return Published{}, err
	}
	// Tags are for people and other tools; nothing here resolves by them.
	if err := c.archive.Tag(ctx, ref, packed.Digest); err != nil {
		c.log.Warn("tag the version in the archive", zap.Stringer("version", ref), zap.Error(err))
	}
	if out.Created {
		c.log.Info("version published", zap.Stringer("version", ref), zap.String("digest", packed.Digest), zap.String("by", actor.Name))
	}
	return out, nil
}

// named writes into the record that the version says it fixes that it does.
func named(tx *store.Tx, v versions.Record) []string {
	if v.Manifest.Fixes == "" {
		return nil
	}
	record, ok := tx.PostMortem(v.Manifest.Fixes)
	switch {
	case !ok:
		return []string{fmt.Sprintf("it says that it fixes %s, which does not exist", v.Manifest.Fixes)}
	case !slices.Contains(record.Specs, v.Spec):
		return []string{fmt.Sprintf("it says that it fixes %s, which is about %s", record.ID, strings.Join(record.Specs, ", "))}
	}
	tx.AppendPostMortem(record.ID, v.PublishedAt, v.PublishedBy, postmortem.Named{Spec: v.Spec, Version: v.Version, Digest: v.Digest})
	return nil
}

// conflict refuses other bytes for a version.
func conflict(old versions.Record, digest string) error {
	return &Conflict{Refused{
		Why:  fmt.Sprintf("%s exists already with other content: published %s, this is %s; a version is immutable", old.Ref(), old.Digest, digest),
		Next: "raise `version` in spec.yaml and publish again",
	}}
}

// known finds a version or says how to get one.
func known(r reader, spec, version string) (versions.Record, error) {
	record, ok := r.Version(spec, version)
	if ok {
		return record, nil
	}
	if !r.Known(spec) {
		return record, unknownSpec(spec)
	}
	return record, &NotFound{Refused{Why: fmt.Sprintf("version %s of %s is not published", version, spec), Next: "specctl versions " + spec}}
}

func unknownSpec(spec string) error {
	return &NotFound{Refused{Why: fmt.Sprintf("spec %s does not exist", spec), Next: "specctl publish DIR   (or see what exists: specctl)"}}
}

// reader is what commands read, from a view or inside a transaction.
type reader interface {
	Version(spec, version string) (versions.Record, bool)
	Known(spec string) bool
}

// IsNotFound says that the command named something that does not exist.
func IsNotFound(err error) bool {
	var nf *NotFound
	return errors.As(err, &nf)
}
