package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/specproxy/specproxy/internal/versions"
)

// Held is one version as the archive itself knows it, whoever recorded it.
type Held struct {
	Digest string
	// Ref is what its image manifest calls it; only the documents can prove that.
	Ref versions.Ref
	// Tagged says that the version's tag points at this digest, so that other tools are given it under that name.
	Tagged bool
	// Err is why the image manifest could not be read; Ref is then empty.
	Err error
}

// Mistagged says that other tools are given another digest under a version's tag, or none.
type Mistagged struct {
	Ref versions.Ref
	// Want is the digest of the version, Got that of the tag; empty if there is no such tag.
	Want, Got string
}

func (m *Mistagged) Error() string {
	if m.Got == "" {
		return fmt.Sprintf("the archive has no tag %s: other tools do not find %s, and a garbage collector may take it", Tag(m.Ref), m.Ref)
	}
	return fmt.Sprintf("the archive's tag %s points at %s: other tools are given that instead of %s, which is %s", Tag(m.Ref), m.Got, m.Ref, m.Want)
}

// String is where the archive is.
func (a *Archive) String() string { return a.dir }

// Check reads one version from disk, every byte of it, and its tag. The error wraps ErrNotFound or is a *Damaged, as of Get, or a *Mistagged.
// It returns what was read.
func (a *Archive) Check(ctx context.Context, ref versions.Ref, digest string) (versions.Packed, error) {
	p, err := a.Get(ctx, digest)
	if err != nil {
		return p, err
	}
	return p, CheckTag(ctx, a, ref, digest)
}

// Resolver finds the digest that a version's tag points at; the error wraps ErrNotFound if there is none.
type Resolver interface {
	Resolve(ctx context.Context, ref versions.Ref) (string, error)
}

// CheckTag says that a version's tag points elsewhere, with a *Mistagged.
func CheckTag(ctx context.Context, r Resolver, ref versions.Ref, digest string) error {
	got, err := r.Resolve(ctx, ref)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if got != digest {
		return &Mistagged{Ref: ref, Want: digest, Got: got}
	}
	return nil
}

// Held lists the versions in the layout, in no order. It looks at the blobs themselves: index.json, which lists them for other tools, may
// have been lost with their names.
func (a *Archive) Held(ctx context.Context) ([]Held, error) {
	tagged, err := a.tags()
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", a.dir, err)
	}
	byDigest := make(map[string]bool, len(tagged))
	for _, digest := range tagged {
		byDigest[digest] = true
	}
	entries, err := os.ReadDir(filepath.Join(a.dir, ocispec.ImageBlobsDir, digest.SHA256.String()))
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", a.dir, err)
	}
	var all []Held
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := digest.NewDigestFromEncoded(digest.SHA256, entry.Name()).String()
		if !sha256Digest.MatchString(name) {
			continue
		}
		h, is := a.held(ctx, name)
		if !is && !byDigest[name] {
			continue // A document, as far as anybody knows.
		}
		h.Tagged = h.Err == nil && tagged[Tag(h.Ref)] == name
		delete(byDigest, name)
		all = append(all, h)
	}
	for name := range byDigest {
		h, _ := a.held(ctx, name)
		all = append(all, h)
	}
	return all, nil
}

// held reads one blob; false if it does not look like the image manifest of a version.
func (a *Archive) held(ctx context.Context, name string) (Held, bool) {
	h := Held{Digest: name}
	data, err := a.fetch(ctx, name, maxImageSize)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		h.Err = &Damaged{Digest: name, Path: versions.ManifestBlob}
		return h, false
	case err != nil:
		h.Err = err
		return h, false
	}
	h.Ref, h.Err = ImageRef(name, data)
	return h, h.Err == nil || bytes.Contains(data[:min(len(data), 512)], []byte(versions.ArtifactType))
}

// ImageRef is what an image manifest calls its version, once its bytes are known to be the ones that the digest names.
func ImageRef(digest string, image []byte) (versions.Ref, error) {
	if got := versions.DigestOf(image); got != digest {
		return versions.Ref{}, &Damaged{Digest: digest, Path: versions.ManifestBlob, Got: got}
	}
	return versions.RefOfImage(image)
}
