package registry

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/versions"
)

// attachedPrefix begins the tags that keep attachments: many registries' collectors do not follow referrers.
const attachedPrefix = "attached-"

// maxReferrers bounds what is read of a version's referrers: other tools attach things too.
const maxReferrers = 10_000

// PutAttachment stores an attachment beside its version, which must be there, as an OCI referrer: by the registry's own list where it has the
// referrers API, else by the list that the OCI specification puts in a tag (distribution-spec 1.1, "referrers tag schema").
func (a *Archive) PutAttachment(ctx context.Context, at versions.Attachment) error {
	if err := at.Verify(); err != nil {
		return fmt.Errorf("archive %s: refusing to store an attachment of %s: %w", a.name, at.Subject, err)
	}
	if _, err := a.image(ctx, at.Subject); err != nil {
		return fmt.Errorf("archive %s: attachment of %s: %w", a.name, at.Subject, err)
	}
	for _, blob := range []versions.Blob{versions.EmptyConfig, at.Blob()} {
		if _, err := a.push(ctx, blob); err != nil {
			return fmt.Errorf("archive %s: storing an attachment of %s: %w", a.name, at.Subject, a.reason(err))
		}
	}
	image := versions.Blob{Digest: at.Digest, MediaType: versions.MediaTypeImage, Data: at.Image}
	tag := attachedPrefix + strings.TrimPrefix(at.Digest, sha256Prefix)
	if err := a.repo.Manifests().PushReference(ctx, descriptor(image), bytes.NewReader(at.Image), tag); err != nil {
		return fmt.Errorf("archive %s: storing an attachment of %s: %w", a.name, at.Subject, a.reason(err))
	}
	a.keep(ctx, at.Subject, []versions.Attachment{at})
	return nil
}

// keep copies attachments beside this machine's copy of their version, so that sidecars are given its signatures while the registry is away.
func (a *Archive) keep(ctx context.Context, subject string, all []versions.Attachment) {
	if _, err := a.copy.Get(ctx, subject); err != nil {
		return // No copy to keep them beside.
	}
	have, err := a.copy.Attachments(ctx, subject, "")
	for _, at := range all {
		if err == nil && slices.ContainsFunc(have, func(h versions.Attachment) bool { return h.Digest == at.Digest }) {
			continue
		}
		if err := a.copy.PutAttachment(ctx, at); err != nil {
			a.log.Warn("keep a copy of an attachment", zap.String("version", subject), zap.Error(err))
		}
	}
}

// Attachments returns what is attached to the version with this digest, every byte of it verified, oldest first; kind is a type, or empty for
// all of ours. One that is not whole is a *archive.Damaged. While the registry is away they are those that this replica has seen: whoever
// demands a signature that came later refuses until it is back.
func (a *Archive) Attachments(ctx context.Context, subject, kind string) ([]versions.Attachment, error) {
	all, err := a.referrers(ctx, subject, kind)
	var away *archive.Unreachable
	if errors.As(err, &away) {
		if seen, copyErr := a.copy.Attachments(ctx, subject, kind); copyErr == nil {
			a.log.Warn("attachments are those seen earlier", zap.String("version", subject), zap.Error(err))
			return seen, nil
		}
	}
	if err == nil {
		a.keep(ctx, subject, all)
	}
	return all, err
}

// referrers asks the registry.
func (a *Archive) referrers(ctx context.Context, subject, kind string) ([]versions.Attachment, error) {
	fail := func(err error) ([]versions.Attachment, error) {
		return nil, fmt.Errorf("archive %s: what is attached to %s: %w", a.name, subject, a.reason(err))
	}
	var listed []ocispec.Descriptor
	desc := ocispec.Descriptor{MediaType: versions.MediaTypeImage, Digest: digest.Digest(subject)}
	err := a.repo.Referrers(ctx, desc, kind, func(page []ocispec.Descriptor) error {
		if listed = append(listed, page...); len(listed) > maxReferrers {
			return fmt.Errorf("more than %d artifacts refer to it", maxReferrers)
		}
		return nil
	})
	switch {
	case unknownRepository(err):
		return nil, nil
	case err != nil:
		return fail(err)
	}
	var all []versions.Attachment
	for _, entry := range listed {
		if entry.ArtifactType != versions.TypeSignature && entry.ArtifactType != versions.TypeConformance {
			continue // another tool's
		}
		at, err := a.attachment(ctx, entry.Digest.String())
		if err != nil {
			return fail(err)
		}
		if at.Subject == subject && at.Type == entry.ArtifactType {
			all = append(all, at)
		}
	}
	slices.SortStableFunc(all, func(x, y versions.Attachment) int { return cmp.Or(x.At.Compare(y.At), cmp.Compare(x.Digest, y.Digest)) })
	return all, nil
}

func (a *Archive) attachment(ctx context.Context, want string) (versions.Attachment, error) {
	image, err := a.image(ctx, want)
	if errors.Is(err, archive.ErrNotFound) {
		return versions.Attachment{}, &archive.Damaged{Digest: want, Path: "attachment"}
	}
	if err != nil {
		return versions.Attachment{}, err
	}
	return versions.UnpackAttachment(image, func(blob string) ([]byte, error) { return a.blob(ctx, blob, versions.MaxAttachmentSize) })
}

// blob reads one blob as it is; whether it is whole shows in its digest. fs.ErrNotExist: it is not there.
func (a *Archive) blob(ctx context.Context, want string, limit int64) ([]byte, error) {
	_, r, err := a.repo.Blobs().FetchReference(ctx, want)
	data, err := readAll(r, err, limit)
	return data, a.reason(err)
}
