package bundle

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/specproxy/specproxy/internal/versions"
)

// Write writes the versions, each once, with their attachments.
func Write(w io.Writer, entries []Entry) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	blobs := map[string][]byte{}
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b Entry) int {
		if a.Version.Manifest.Name != b.Version.Manifest.Name {
			return strings.Compare(a.Version.Manifest.Name, b.Version.Manifest.Name)
		}
		return versions.Compare(a.Version.Manifest.Version, b.Version.Manifest.Version)
	})
	for _, e := range entries {
		if err := e.Version.Verify(); err != nil {
			return fmt.Errorf("%s: %w", e.Version.Ref(), err)
		}
		if _, twice := blobs[e.Version.Digest]; twice {
			return fmt.Errorf("%s is named twice", e.Version.Ref())
		}
		for _, b := range append(slices.Clone(e.Version.Blobs), versions.EmptyConfig) {
			blobs[b.Digest] = b.Data
		}
		blobs[e.Version.Digest] = e.Version.ManifestBytes
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: versions.MediaTypeImage, ArtifactType: versions.ArtifactType, Digest: digest.Digest(e.Version.Digest),
			Size: int64(len(e.Version.ManifestBytes)), Annotations: map[string]string{ocispec.AnnotationRefName: e.Version.Ref().Tag()},
		})
		for _, at := range e.Attachments {
			if err := at.Verify(); err != nil {
				return fmt.Errorf("attachment of %s: %w", e.Version.Ref(), err)
			}
			if at.Subject != e.Version.Digest {
				return fmt.Errorf("attachment %s refers to %s, not to %s", at.Digest, at.Subject, e.Version.Ref())
			}
			content := at.Blob()
			blobs[content.Digest], blobs[at.Digest] = content.Data, at.Image
			index.Manifests = append(index.Manifests, ocispec.Descriptor{
				MediaType: versions.MediaTypeImage, ArtifactType: at.Type, Digest: digest.Digest(at.Digest), Size: int64(len(at.Image)),
				Annotations: map[string]string{annotationSubject: at.Subject},
			})
		}
	}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	list, err := json.Marshal(index)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	if err := file(t, ocispec.ImageLayoutFile, layout); err != nil {
		return err
	}
	if err := file(t, ocispec.ImageIndexFile, list); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(blobs)) {
		if err := file(t, blobFolder+strings.TrimPrefix(name, "sha256:"), blobs[name]); err != nil {
			return err
		}
	}
	return t.Close()
}

func file(t *tar.Writer, name string, data []byte) error {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644, Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	_, err := t.Write(data)
	return err
}
