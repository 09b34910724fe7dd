// Package registry keeps packed spec versions in an OCI registry, and a verified copy of what it has seen on this machine.
//
// Invariants:
//   - what Get returns has the digest that was asked for, and so have all its documents: what a registry, a proxy or a disk made of them is
//     an error, never content;
//   - when Put returns nil the registry has acknowledged every document and the image manifest, in this order;
//   - an image manifest arrives under a tag of its own, "keep-<hex of its digest>": no moment exists at which a garbage collector that
//     deletes what is untagged may take a version;
//   - no call waits longer than the patience for a registry that says nothing, however long a transfer as a whole takes.
//
// Opening needs no answer from the registry, and versions that this replica has seen are served while it is away.
package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"oras.land/oras-go/v2/errdef"
	orasregistry "oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/versions"
)

// Scheme begins the name of an archive in a registry.
const Scheme = "oci://"

// defaultPatience is how long a registry may say nothing.
const defaultPatience = 10 * time.Second

// maxImageSize bounds an image manifest: registries take at most 4 MiB.
const maxImageSize = 4 << 20

// Options of an Archive.
type Options struct {
	// Target is oci://HOST[:PORT]/REPOSITORY. A host on this machine is spoken to without TLS, every other with it.
	Target string
	// Copy is where versions that passed through are kept; required.
	Copy *archive.Archive
	Log  *zap.Logger
	// Patience is how long the registry may say nothing before a call gives up. 0: 10 s.
	Patience time.Duration
	// UserAgent names this program to the registry.
	UserAgent string
}

// Archive is one repository. It may be used from many goroutines and by many processes.
type Archive struct {
	name string
	repo *remote.Repository
	copy *archive.Archive
	log  *zap.Logger
}

// Open checks the name. It does not contact the registry: the control plane must start, and roll back, without it.
func Open(o Options) (*Archive, error) {
	rest, ok := strings.CutPrefix(o.Target, Scheme)
	if !ok {
		return nil, fmt.Errorf("archive %q: write %sHOST[:PORT]/REPOSITORY, such as %sregistry.example.com/agents/specs", o.Target, Scheme, Scheme)
	}
	ref, err := orasregistry.ParseReference(rest)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w: write %sHOST[:PORT]/REPOSITORY", o.Target, err, Scheme)
	}
	if ref.Reference != "" {
		return nil, fmt.Errorf("archive %s: name a repository, without a tag or digest: %s%s/%s", o.Target, Scheme, ref.Registry, ref.Repository)
	}
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	repo := &remote.Repository{
		Client:    client(o.Patience, o.UserAgent),
		Reference: ref,
		PlainHTTP: local(ref.Registry),
		// A registry's answer is bounded in each page, and so is the number of pages.
		TagListPageSize: 1000,
		TagListMaxPages: 10_000,
		// A list of referrers that was replaced is untagged, and so the collector's; many registries allow nobody else to delete.
		SkipReferrersGC: true,
		HandleWarning: func(w remote.Warning) {
			o.Log.Warn("the registry warns", zap.String("archive", o.Target), zap.String("text", w.Text))
		},
	}
	return &Archive{name: Scheme + ref.Registry + "/" + ref.Repository, repo: repo, copy: o.Copy, log: o.Log}, nil
}

// local says that a registry's host[:port] is this machine.
func local(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

// String is oci://HOST/REPOSITORY.
func (a *Archive) String() string { return a.name }

// keepTag holds an image manifest in the registry, whatever becomes of the version's own tag. It has no dot, as every version's tag does.
func keepTag(digest string) string { return keepPrefix + strings.TrimPrefix(digest, sha256Prefix) }

const (
	keepPrefix   = "keep-"
	sha256Prefix = "sha256:"
)

// Put stores one version. It may be repeated.
func (a *Archive) Put(ctx context.Context, p versions.Packed) error {
	if err := p.Verify(); err != nil {
		return fmt.Errorf("archive %s: refusing to store %s: %w", a.name, p.Ref(), err)
	}
	there := false
	for _, blob := range slices.Concat([]versions.Blob{versions.EmptyConfig}, p.Blobs) {
		had, err := a.push(ctx, blob)
		if err != nil {
			return fmt.Errorf("archive %s: storing %s of %s: %w", a.name, blob.Path, p.Ref(), a.reason(err))
		}
		there = there || had
	}
	// The image manifest comes last: while it is not there, the version is not.
	if err := a.tag(ctx, p, keepTag(p.Digest)); err != nil {
		return fmt.Errorf("archive %s: storing %s: %w", a.name, p.Ref(), a.reason(err))
	}
	if there {
		// A registry keeps what it has under a digest and does not look at it again, so that a damaged blob survives its own repair.
		if _, err := a.fetch(ctx, p.Digest); err != nil {
			return fmt.Errorf("archive %s: %s was stored, but does not come back: %w", a.name, p.Ref(), err)
		}
	}
	return a.copy.Put(ctx, p)
}

// push writes one blob, unless the registry says that it has it.
func (a *Archive) push(ctx context.Context, blob versions.Blob) (had bool, err error) {
	desc := descriptor(blob)
	had, err = a.repo.Blobs().Exists(ctx, desc)
	if had || err != nil {
		return had, err
	}
	err = a.repo.Blobs().Push(ctx, desc, bytes.NewReader(blob.Data))
	if unauthorized(err) {
		// An upload is two requests with one token, which may have expired between them; the next upload gets a new one.
		err = a.repo.Blobs().Push(ctx, desc, bytes.NewReader(blob.Data))
	}
	if errors.Is(err, errdef.ErrAlreadyExists) {
		return true, nil
	}
	return false, err
}

// tag sends the image manifest under a tag.
func (a *Archive) tag(ctx context.Context, p versions.Packed, tag string) error {
	image := versions.Blob{Digest: p.Digest, MediaType: versions.MediaTypeImage, Data: p.ManifestBytes}
	return a.repo.Manifests().PushReference(ctx, descriptor(image), bytes.NewReader(image.Data), tag)
}

// Tag points a version's tag, "<spec>-<version>", at this digest, away from another that had it. The version must have been Put.
func (a *Archive) Tag(ctx context.Context, ref versions.Ref, digest string) error {
	if now, err := a.Resolve(ctx, ref); err == nil && now == digest {
		return nil
	}
	p, err := a.Get(ctx, digest)
	if err != nil {
		return err
	}
	if p.Ref() != ref {
		return fmt.Errorf("archive %s: %s is %s, not %s", a.name, digest, p.Ref(), ref)
	}
	if err := a.tag(ctx, p, archive.Tag(ref)); err != nil {
		return fmt.Errorf("archive %s: tagging %s: %w", a.name, ref, a.reason(err))
	}
	return nil
}

// Resolve is the digest that a version's tag points at. The error wraps archive.ErrNotFound if there is no such tag.
func (a *Archive) Resolve(ctx context.Context, ref versions.Ref) (string, error) {
	desc, err := a.repo.Manifests().Resolve(ctx, archive.Tag(ref))
	if errors.Is(err, errdef.ErrNotFound) {
		return "", fmt.Errorf("archive %s: version %s: %w", a.name, ref, archive.ErrNotFound)
	}
	if err != nil {
		return "", fmt.Errorf("archive %s: version %s: %w", a.name, ref, a.reason(err))
	}
	return desc.Digest.String(), nil
}

// Get returns the version with this digest, every byte of it verified: from this machine's copy if that is whole, else from the registry.
// The error wraps archive.ErrNotFound, is a *archive.Damaged, or a *archive.Unreachable.
func (a *Archive) Get(ctx context.Context, digest string) (versions.Packed, error) {
	p, err := a.copy.Get(ctx, digest)
	if err == nil {
		return p, nil
	}
	if !errors.Is(err, archive.ErrNotFound) {
		a.log.Warn("the copy of a version is not whole: asking the registry", zap.String("digest", digest), zap.Error(err))
	}
	p, err = a.fetch(ctx, digest)
	if err != nil {
		return versions.Packed{}, fmt.Errorf("archive %s: %w", a.name, err)
	}
	if err := a.copy.Put(ctx, p); err != nil {
		a.log.Warn("keep a copy of a version", zap.Stringer("version", p.Ref()), zap.Error(err))
	}
	return p, nil
}

// Check reads one version from the registry itself, every byte of it, and both its tags.
func (a *Archive) Check(ctx context.Context, ref versions.Ref, digest string) (versions.Packed, error) {
	p, err := a.fetch(ctx, digest)
	if err != nil {
		return p, fmt.Errorf("archive %s: %w", a.name, err)
	}
	return p, archive.CheckTag(ctx, a, ref, digest)
}

// fetch reads a version from the registry.
func (a *Archive) fetch(ctx context.Context, want string) (versions.Packed, error) {
	if err := digest.Digest(want).Validate(); err != nil || !strings.HasPrefix(want, sha256Prefix) {
		return versions.Packed{}, fmt.Errorf("%q is not a digest: want sha256: and 64 digits of lower-case hexadecimal", want)
	}
	image, err := a.image(ctx, want)
	if err != nil {
		return versions.Packed{}, err
	}
	return versions.Unpack(image, func(blob string) ([]byte, error) { return a.blob(ctx, blob, versions.MaxVersionSize) })
}

// image reads an image manifest and holds it against its digest.
func (a *Archive) image(ctx context.Context, want string) ([]byte, error) {
	_, r, err := a.repo.Manifests().FetchReference(ctx, want)
	image, err := readAll(r, err, maxImageSize)
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		return nil, fmt.Errorf("version %s: %w", want, archive.ErrNotFound)
	case err != nil:
		return nil, a.reason(err)
	}
	if got := versions.DigestOf(image); got != want {
		return nil, &archive.Damaged{Digest: want, Path: versions.ManifestBlob, Got: got}
	}
	return image, nil
}

// readAll reads up to limit bytes and one more, which shows in the digest.
func readAll(r io.ReadCloser, err error, limit int64) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	return data, errors.Join(err, r.Close())
}

func descriptor(b versions.Blob) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: b.MediaType, Digest: digest.Digest(b.Digest), Size: int64(len(b.Data))}
}
