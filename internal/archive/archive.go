// Package archive keeps packed spec versions on disk, for ever, as an OCI image layout that other OCI tools can read.
//
// The control plane keeps all versions in one; every sidecar keeps its own version in another, its local copy, so that it can start while
// the control plane is away. Invariants:
//   - what Get returns has the digest that was asked for, and so have all its documents: damage is an error, never content;
//   - when Put returns nil the version is on disk: it survives a crash of the process and of the machine;
//   - a crash at any moment leaves a layout that opens, with every version whose Put had returned;
//   - several processes may use one directory at once.
//
// The package is linked into the sidecar: it must not depend on the control plane or its storage engine.
package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/lockedfile"
	"go.uber.org/zap"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"

	"github.com/specproxy/specproxy/internal/versions"
)

// Damaged says which bytes of a version are not what its digest names. Put of the same version repairs it.
type Damaged = versions.Damaged

// ErrNotFound says that the archive has never held the version, as opposed to holding a damaged copy.
var ErrNotFound = errors.New("not in the archive")

// Unreachable says that the archive did not answer, so that nothing is known of what it holds.
type Unreachable struct {
	// Where is the archive's own name for itself, Why the reason in words.
	Where, Why string
}

func (u *Unreachable) Error() string { return u.Where + " does not answer: " + u.Why }

// maxImageSize bounds the OCI image manifest: 1,000 documents with paths of 1 KiB fit.
const maxImageSize = 4 << 20

// lockFile lies in the layout's directory; whoever writes holds it.
const lockFile = "specproxy.lock"

// Archive is one directory. It holds no state of its own but what it last read of the index, and may be used from many goroutines.
//
// Blobs are written by oras-go's Storage: a temporary file, then a rename. Its Store is not used: it rewrites index.json in place, so that a
// crash can tear it, and does not open at all while a single image manifest is damaged.
type Archive struct {
	dir     string
	storage *oci.Storage
	lock    *lockedfile.Mutex
	log     *zap.Logger
	cache   tagCache
}

// Open opens the OCI image layout in dir, which it creates if there is none, and clears what interrupted writers left.
func Open(dir string, log *zap.Logger) (*Archive, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	// Specs hold prompts and limits that are nobody else's business.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	storage, err := oci.NewStorage(dir)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", dir, err)
	}
	a := &Archive{dir: dir, storage: storage, lock: lockedfile.MutexAt(filepath.Join(dir, lockFile)), log: log}
	unlock, err := a.lock.Lock()
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", dir, err)
	}
	defer unlock()
	if err := a.clear(); err != nil {
		return nil, fmt.Errorf("archive %s: clearing what an interrupted write left: %w", dir, err)
	}
	if err := a.ensureLayout(); err != nil {
		return nil, fmt.Errorf("archive %s: %w", dir, err)
	}
	return a, nil
}

// Dir is the absolute path of the layout.
func (a *Archive) Dir() string { return a.dir }

// clear removes the temporary files of writers that died. The lock is held, so no living writer has one.
func (a *Archive) clear() error {
	if err := os.RemoveAll(filepath.Join(a.dir, "ingest")); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(a.dir, temporary))
	if err != nil {
		return err
	}
	for _, file := range left {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// Put stores one version. It may be repeated, and repairs a copy that was damaged. The version also gets the tag "<spec>-<version>" unless
// another digest has it (see Tag): tags are for people and other tools, a digest is what counts.
func (a *Archive) Put(ctx context.Context, p versions.Packed) error {
	if err := p.Verify(); err != nil {
		return fmt.Errorf("archive %s: refusing to store %s: %w", a.dir, p.Ref(), err)
	}
	unlock, err := a.lock.Lock()
	if err != nil {
		return fmt.Errorf("archive %s: %w", a.dir, err)
	}
	defer unlock()

	image := versions.Blob{Digest: p.Digest, Path: versions.ManifestBlob, MediaType: versions.MediaTypeImage, Data: p.ManifestBytes}
	// The image manifest comes last: while it is not there, the version is not.
	for _, blob := range slices.Concat([]versions.Blob{versions.EmptyConfig}, p.Blobs, []versions.Blob{image}) {
		if err := a.push(ctx, blob); err != nil {
			return fmt.Errorf("archive %s: storing %s of %s: %w", a.dir, blob.Path, p.Ref(), err)
		}
	}
	if err := syncPath(filepath.Join(a.dir, ocispec.ImageBlobsDir, digest.SHA256.String())); err != nil {
		return fmt.Errorf("archive %s: %w", a.dir, err)
	}
	if err := a.enter(image, Tag(p.Ref()), false); err != nil {
		return fmt.Errorf("archive %s: entering %s in the index: %w", a.dir, p.Ref(), err)
	}
	return nil
}

// push writes one blob that is not there, or not whole, and forces it to disk. The lock is held.
func (a *Archive) push(ctx context.Context, blob versions.Blob) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	desc := descriptor(blob)
	path := a.blobPath(blob.Digest)
	switch there, err := os.ReadFile(path); {
	case err == nil && bytes.Equal(there, blob.Data):
		return syncPath(path)
	case err == nil:
		a.log.Warn("replacing a damaged blob of the archive",
			zap.String("file", path), zap.String("got", versions.DigestOf(there)))
		if err := a.storage.Delete(ctx, desc); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := a.storage.Push(ctx, desc, bytes.NewReader(blob.Data)); err != nil {
		return err
	}
	return syncPath(path)
}

// Get returns the version with this digest, every byte of it verified. The error wraps ErrNotFound if the archive does not have it, or is
// a *Damaged if its copy is not whole.
func (a *Archive) Get(ctx context.Context, digest string) (versions.Packed, error) {
	p, err := a.get(ctx, digest)
	if err != nil {
		return versions.Packed{}, fmt.Errorf("archive %s: %w", a.dir, err)
	}
	return p, nil
}

func (a *Archive) get(ctx context.Context, digest string) (versions.Packed, error) {
	if !sha256Digest.MatchString(digest) {
		return versions.Packed{}, fmt.Errorf("%q is not a digest: want sha256: and 64 digits of lower-case hexadecimal", digest)
	}
	image, err := a.fetch(ctx, digest, maxImageSize)
	if errors.Is(err, fs.ErrNotExist) {
		return versions.Packed{}, fmt.Errorf("version %s: %w", digest, ErrNotFound)
	}
	if err != nil {
		return versions.Packed{}, err
	}
	if got := versions.DigestOf(image); got != digest {
		return versions.Packed{}, &Damaged{Digest: digest, Path: versions.ManifestBlob, Got: got}
	}
	return versions.Unpack(image, func(blob string) ([]byte, error) { return a.fetch(ctx, blob, versions.MaxVersionSize) })
}

// fetch reads one blob as it is, up to limit bytes; whether it is whole shows in its digest. fs.ErrNotExist: it is not there.
func (a *Archive) fetch(ctx context.Context, blob string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, err := a.storage.Fetch(ctx, ocispec.Descriptor{Digest: digest.Digest(blob)})
	if errors.Is(err, errdef.ErrNotFound) {
		return nil, fmt.Errorf("%s: %w", blob, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, limit+1))
}

var sha256Digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func (a *Archive) blobPath(digest string) string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return filepath.Join(a.dir, ocispec.ImageBlobsDir, algorithm, hex)
}

func descriptor(b versions.Blob) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: b.MediaType, Digest: digest.Digest(b.Digest), Size: int64(len(b.Data))}
}
