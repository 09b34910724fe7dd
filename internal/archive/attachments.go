package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/specproxy/specproxy/internal/versions"
)

// annotationSubject repeats, in index.json, which version an attachment refers to, so that finding a version's attachments reads none of the
// others. OCI has it only in the attachment's own image manifest.
const annotationSubject = "org.specproxy.subject"

// PutAttachment stores an attachment beside its version, which must be there. It may be repeated, and repairs a copy that was damaged.
func (a *Archive) PutAttachment(ctx context.Context, at versions.Attachment) error {
	if err := at.Verify(); err != nil {
		return fmt.Errorf("archive %s: refusing to store an attachment of %s: %w", a.dir, at.Subject, err)
	}
	unlock, err := a.lock.Lock()
	if err != nil {
		return fmt.Errorf("archive %s: %w", a.dir, err)
	}
	defer unlock()
	if _, err := a.fetch(ctx, at.Subject, maxImageSize); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("archive %s: attachment of %s: version %w", a.dir, at.Subject, ErrNotFound)
	} else if err != nil {
		return fmt.Errorf("archive %s: %w", a.dir, err)
	}
	image := versions.Blob{Digest: at.Digest, Path: "attachment's image manifest", MediaType: versions.MediaTypeImage, Data: at.Image}
	for _, blob := range []versions.Blob{versions.EmptyConfig, at.Blob(), image} {
		if err := a.push(ctx, blob); err != nil {
			return fmt.Errorf("archive %s: storing an attachment of %s: %w", a.dir, at.Subject, err)
		}
	}
	if err := syncPath(filepath.Join(a.dir, ocispec.ImageBlobsDir, digest.SHA256.String())); err != nil {
		return fmt.Errorf("archive %s: %w", a.dir, err)
	}
	if err := a.enterAttachment(image, at); err != nil {
		return fmt.Errorf("archive %s: entering an attachment of %s in the index: %w", a.dir, at.Subject, err)
	}
	return nil
}

// enterAttachment puts an attachment into the index. The lock is held.
func (a *Archive) enterAttachment(image versions.Blob, at versions.Attachment) error {
	index, err := a.readIndex()
	if err != nil {
		return err
	}
	entry := descriptor(image)
	entry.ArtifactType = at.Type
	entry.Annotations = map[string]string{annotationSubject: at.Subject}
	same := func(d ocispec.Descriptor) bool { return d.Digest == entry.Digest }
	if i := slices.IndexFunc(index.Manifests, same); i >= 0 {
		index.Manifests[i] = entry
	} else {
		index.Manifests = append(index.Manifests, entry)
	}
	return a.writeIndex(index)
}

// Attachments returns what is attached to the version with this digest, every byte of it verified, oldest first; kind is a type, or empty for
// all. One that is not whole is a *Damaged: an attachment that cannot be read is not one that is not there.
func (a *Archive) Attachments(ctx context.Context, subject, kind string) ([]versions.Attachment, error) {
	_, attached, err := a.entries()
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", a.dir, err)
	}
	var all []versions.Attachment
	// An entry that another tool made does not say what it refers to.
	for _, entry := range slices.Concat(attached[subject], attached[""]) {
		if kind != "" && entry.ArtifactType != kind {
			continue
		}
		at, err := a.attachment(ctx, entry.Digest.String())
		if err != nil {
			return nil, fmt.Errorf("archive %s: attachment of %s: %w", a.dir, subject, err)
		}
		if at.Subject == subject && at.Type == entry.ArtifactType {
			all = append(all, at)
		}
	}
	slices.SortStableFunc(all, func(a, b versions.Attachment) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Digest, b.Digest))
	})
	return all, nil
}

func (a *Archive) attachment(ctx context.Context, digest string) (versions.Attachment, error) {
	image, err := a.fetch(ctx, digest, versions.MaxAttachmentImage)
	if errors.Is(err, fs.ErrNotExist) {
		return versions.Attachment{}, &Damaged{Digest: digest, Path: "attachment"}
	}
	if err != nil {
		return versions.Attachment{}, err
	}
	if got := versions.DigestOf(image); got != digest {
		return versions.Attachment{}, &Damaged{Digest: digest, Path: "attachment", Got: got}
	}
	return versions.UnpackAttachment(image, func(blob string) ([]byte, error) { return a.fetch(ctx, blob, versions.MaxAttachmentSize) })
}
