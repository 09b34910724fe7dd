package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/specproxy/specproxy/internal/versions"
)

// temporary is the pattern of the files from which index.json and oci-layout are renamed.
const temporary = ".layout-*"

// Tag is the OCI tag under which other tools find a version.
func Tag(ref versions.Ref) string { return ref.Tag() }

// Tag points a version's tag at the copy with this digest, away from another that had it. The copy must have been Put.
func (a *Archive) Tag(ctx context.Context, ref versions.Ref, digest string) error {
	p, err := a.Get(ctx, digest)
	if err != nil {
		return err
	}
	if p.Ref() != ref {
		return fmt.Errorf("archive %s: %s is %s, not %s", a.dir, digest, p.Ref(), ref)
	}
	unlock, err := a.lock.Lock()
	if err != nil {
		return fmt.Errorf("archive %s: %w", a.dir, err)
	}
	defer unlock()
	image := versions.Blob{Digest: digest, MediaType: versions.MediaTypeImage, Data: p.ManifestBytes}
	if err := a.enter(image, Tag(ref), true); err != nil {
		return fmt.Errorf("archive %s: tagging %s: %w", a.dir, ref, err)
	}
	return nil
}

// Resolve is the digest that a version's tag points at. The error wraps ErrNotFound if there is no such tag. A sidecar starts by it while
// the control plane, which knows better, is away.
func (a *Archive) Resolve(ctx context.Context, ref versions.Ref) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	tags, err := a.tags()
	if err != nil {
		return "", fmt.Errorf("archive %s: %w", a.dir, err)
	}
	if digest, ok := tags[Tag(ref)]; ok {
		return digest, nil
	}
	return "", fmt.Errorf("archive %s: version %s: %w", a.dir, ref, ErrNotFound)
}

// tagCache is the tags of index.json as it was last read, by tag. It is replaced whole, so that a reader may keep a map.
type tagCache struct {
	mu    sync.Mutex
	state fs.FileInfo
	tags  map[string]string
	// attached are the entries of attachments by the digest of what they refer to; by "" where an entry does not say.
	attached map[string][]ocispec.Descriptor
}

// tags of index.json by name.
func (a *Archive) tags() (map[string]string, error) {
	tags, _, err := a.entries()
	return tags, err
}

// entries of index.json: tags by name, and attachments by subject. The file is read again only when it is another one: every writer renames a
// new one into place.
func (a *Archive) entries() (tags map[string]string, attached map[string][]ocispec.Descriptor, err error) {
	state, err := os.Stat(filepath.Join(a.dir, ocispec.ImageIndexFile))
	if err != nil {
		return nil, nil, err
	}
	c := &a.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != nil && os.SameFile(c.state, state) && c.state.ModTime().Equal(state.ModTime()) && c.state.Size() == state.Size() {
		return c.tags, c.attached, nil
	}
	index, err := a.readIndex()
	if err != nil {
		return nil, nil, err
	}
	c.state, c.tags, c.attached = state, make(map[string]string, len(index.Manifests)), map[string][]ocispec.Descriptor{}
	for _, entry := range index.Manifests {
		if entry.ArtifactType == versions.TypeSignature || entry.ArtifactType == versions.TypeConformance {
			subject := entry.Annotations[annotationSubject]
			c.attached[subject] = append(c.attached[subject], entry)
		}
		tag := entry.Annotations[ocispec.AnnotationRefName]
		if _, twice := c.tags[tag]; tag != "" && !twice {
			c.tags[tag] = entry.Digest.String()
		}
	}
	return c.tags, c.attached, nil
}

// enter puts an image manifest into the index. Its tag goes to it if no other digest has the tag, or if move says to take it away from
// that one. The lock is held.
func (a *Archive) enter(image versions.Blob, tag string, move bool) error {
	if tags, err := a.tags(); err == nil && tags[tag] == image.Digest {
		return nil
	}
	index, err := a.readIndex()
	if err != nil {
		return err
	}
	entry := descriptor(image)
	entry.ArtifactType = versions.ArtifactType
	entry.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	for i, other := range index.Manifests {
		if other.Annotations[ocispec.AnnotationRefName] != tag {
			continue
		}
		if other.Digest == entry.Digest {
			return nil
		}
		if move {
			delete(index.Manifests[i].Annotations, ocispec.AnnotationRefName)
		} else {
			entry.Annotations = nil
		}
	}
	same := func(d ocispec.Descriptor) bool { return d.Digest == entry.Digest }
	if i := slices.IndexFunc(index.Manifests, same); i >= 0 {
		index.Manifests[i] = entry
	} else {
		index.Manifests = append(index.Manifests, entry)
	}
	return a.writeIndex(index)
}

func (a *Archive) readIndex() (ocispec.Index, error) {
	var index ocispec.Index
	file := filepath.Join(a.dir, ocispec.ImageIndexFile)
	data, err := os.ReadFile(file)
	if err != nil {
		return index, err
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return index, fmt.Errorf("%s is damaged (%w): remove it and open the archive again: versions are kept by their digests, "+
			"the index only lists their tags", file, err)
	}
	return index, nil
}

func (a *Archive) writeIndex(index ocispec.Index) error {
	return a.writeJSON(ocispec.ImageIndexFile, index)
}

// ensureLayout writes the two files that make a directory an OCI image layout, if they are not there, and checks those that are.
func (a *Archive) ensureLayout() error {
	file := filepath.Join(a.dir, ocispec.ImageLayoutFile)
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := a.writeJSON(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		var layout ocispec.ImageLayout
		if err := json.Unmarshal(data, &layout); err != nil {
			return fmt.Errorf("%s is damaged (%w): remove it and open the archive again", file, err)
		}
		if layout.Version != ocispec.ImageLayoutVersion {
			return fmt.Errorf("%s names layout version %q, this program knows %q", file, layout.Version, ocispec.ImageLayoutVersion)
		}
	}
	if err := os.MkdirAll(filepath.Dir(a.blobPath(versions.EmptyConfig.Digest)), 0o700); err != nil {
		return err
	}
	_, err = a.readIndex()
	if errors.Is(err, fs.ErrNotExist) {
		return a.writeIndex(ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{},
		})
	}
	return err
}

// writeJSON replaces a file of the layout in one step: whoever reads it, and whatever crashes, sees the old one or the new one. The lock
// is held.
func (a *Archive) writeJSON(name string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(a.dir, temporary)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(a.dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncPath(a.dir)
}

// syncPath forces a file, or the names in a directory, to disk.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
