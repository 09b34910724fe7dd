package versions

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// ArtifactType of the OCI image manifest of a spec version.
	ArtifactType = "application/vnd.specproxy.spec.v1"
	// MediaTypeManifest is the media type of spec.yaml, the first layer.
	MediaTypeManifest = "application/vnd.specproxy.manifest.v1+yaml"
	// MediaTypeImage is the media type of the bytes in Packed.ManifestBytes.
	MediaTypeImage = ocispec.MediaTypeImageManifest

	annotationName    = "org.specproxy.spec.name"
	annotationVersion = "org.specproxy.spec.version"
)

// EmptyConfig is the config blob of every packed version (OCI image-spec 1.1, "guidance for an empty descriptor").
var EmptyConfig = Blob{Digest: ocispec.DescriptorEmptyJSON.Digest.String(), MediaType: ocispec.MediaTypeEmptyJSON, Data: []byte("{}")}

// Packed is one version in the form in which it is stored and travels: an OCI image manifest and the blobs it names.
type Packed struct {
	Manifest Manifest
	// Digest is the version's identity: "sha256:<hex>" of ManifestBytes.
	Digest string
	// ManifestBytes is the OCI image manifest. It names spec.yaml and every document by digest and size.
	ManifestBytes []byte
	// Blobs are spec.yaml first, then the documents sorted by path. The config blob, EmptyConfig, is not among them.
	Blobs []Blob
	// Ignored are paths given to Pack that the manifest does not name, sorted. They are not part of the version.
	Ignored []string
}

// Blob is one file of a version.
type Blob struct {
	// Digest is "sha256:<hex>" of Data.
	Digest string
	// Path is relative, with forward slashes.
	Path      string
	MediaType string
	Data      []byte
}

// Ref is the version's name:version.
func (p Packed) Ref() Ref { return Ref{Spec: p.Manifest.Name, Version: p.Manifest.Version} }

// File returns the content of one file of the version by its path.
func (p Packed) File(path string) ([]byte, bool) {
	for _, b := range p.Blobs {
		if b.Path == path {
			return b.Data, true
		}
	}
	return nil, false
}

// DigestOf is "sha256:<hex>" of data.
func DigestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Pack builds a version from a folder's files, by path: spec.yaml and what it names. The result is a pure function of the bytes of these
// files: no time, no order, no machine takes part. It fails with a *ManifestError, or names the document that is missing.
func Pack(files map[string][]byte) (Packed, error) {
	source, ok := files[ManifestPath]
	if !ok {
		return Packed{}, fmt.Errorf("there is no %s: a version is a folder with a manifest of that name and the documents it lists", ManifestPath)
	}
	m, err := ParseManifest(source)
	if err != nil {
		return Packed{}, err
	}
	ref := Ref{Spec: m.Name, Version: m.Version}
	p := Packed{Manifest: m}
	total := 0
	for _, path := range m.files() {
		data, ok := files[path]
		if !ok {
			return Packed{}, missingDocument(ref, path)
		}
		if total += len(data); total > MaxVersionSize {
			return Packed{}, tooLarge(ref, path)
		}
		p.Blobs = append(p.Blobs, Blob{Digest: DigestOf(data), Path: path, MediaType: mediaType(path), Data: data})
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if _, named := p.File(path); !named {
			p.Ignored = append(p.Ignored, path)
		}
	}
	p.ManifestBytes = imageManifest(ref, p.Blobs)
	p.Digest = DigestOf(p.ManifestBytes)
	return p, nil
}

// files are the paths a version consists of, in the order in which they are packed.
func (m Manifest) files() []string {
	return append([]string{ManifestPath}, slices.Sorted(slices.Values(m.Documents))...)
}

func missingDocument(ref Ref, path string) error {
	return fmt.Errorf("%s: document %q is named in %s but is not in the folder: add the file or take it out of documents", ref, path, ManifestPath)
}

func tooLarge(ref Ref, path string) error {
	return fmt.Errorf("%s: with document %q the version is larger than %d MiB: keep large data elsewhere and name it by digest", ref, path, MaxVersionSize>>20)
}

// imageManifest is the OCI image manifest in the one form this package writes.
func imageManifest(ref Ref, blobs []Blob) []byte {
	image := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    MediaTypeImage,
		ArtifactType: ArtifactType,
		Config:       ocispec.Descriptor{MediaType: EmptyConfig.MediaType, Digest: digest.Digest(EmptyConfig.Digest), Size: int64(len(EmptyConfig.Data))},
		Annotations:  map[string]string{annotationName: ref.Spec, annotationVersion: ref.Version},
	}
	for _, b := range blobs {
		image.Layers = append(image.Layers, ocispec.Descriptor{
			MediaType:   b.MediaType,
			Digest:      digest.Digest(b.Digest),
			Size:        int64(len(b.Data)),
			Annotations: map[string]string{ocispec.AnnotationTitle: b.Path},
		})
	}
	data, err := json.Marshal(image)
	if err != nil {
		panic("versions: " + err.Error()) // strings and integers always marshal
	}
	return data
}

// Damaged says that bytes are not the ones a version names: a disk, a transfer or a person changed them.
type Damaged struct {
	// Digest is the one the version names.
	Digest string
	// Path of the document; "manifest" for the OCI image manifest itself.
	Path string
	// Got is the digest of what is there; empty if nothing is.
	Got string
}

// ManifestBlob stands for the OCI image manifest where a blob's path is asked for.
const ManifestBlob = "manifest"

func (d *Damaged) Error() string {
	what := fmt.Sprintf("document %q", d.Path)
	if d.Path == ManifestBlob {
		what = "the image manifest"
	}
	if d.Got == "" {
		return fmt.Sprintf("%s (%s) is missing: the copy of this version is damaged", what, d.Digest)
	}
	return fmt.Sprintf("%s is damaged: the version names %s, the copy has %s", what, d.Digest, d.Got)
}

// Unpack builds a version from its OCI image manifest and a source of blobs, which is asked for each digest once and trusted in nothing:
// every digest and size is verified, and what the image manifest says must agree with the spec.yaml it names. A blob that differs is a
// *Damaged, as is one of which fetch says fs.ErrNotExist; another error of fetch is returned wrapped with the document's path. The caller
// compares Packed.Digest with the one it asked for.
func Unpack(manifestBytes []byte, fetch func(digest string) ([]byte, error)) (Packed, error) {
	p := Packed{Digest: DigestOf(manifestBytes), ManifestBytes: bytes.Clone(manifestBytes)}
	image, err := parseImage(manifestBytes)
	if err != nil {
		return Packed{}, fmt.Errorf("%s is not a packed spec version: %w", p.Digest, err)
	}
	fetched := make(map[string][]byte)
	total := int64(0)
	for _, layer := range image.Layers {
		path, want := layer.Annotations[ocispec.AnnotationTitle], layer.Digest.String()
		if total += layer.Size; layer.Size < 0 || total > MaxVersionSize {
			return Packed{}, fmt.Errorf("%s: with document %q the version is larger than %d MiB", p.Digest, path, MaxVersionSize>>20)
		}
		data, ok := fetched[want]
		if !ok {
			data, err = fetch(want)
			if errors.Is(err, fs.ErrNotExist) {
				return Packed{}, &Damaged{Digest: want, Path: path}
			}
			if err != nil {
				return Packed{}, fmt.Errorf("document %q: %w", path, err)
			}
			fetched[want] = data
		}
		if got := DigestOf(data); got != want || int64(len(data)) != layer.Size {
			return Packed{}, &Damaged{Digest: want, Path: path, Got: got}
		}
		p.Blobs = append(p.Blobs, Blob{Digest: want, Path: path, MediaType: layer.MediaType, Data: data})
	}
	if p.Manifest, err = ParseManifest(p.Blobs[0].Data); err != nil {
		return Packed{}, fmt.Errorf("%s: %w", p.Digest, err)
	}
	if err := p.agree(image); err != nil {
		return Packed{}, err
	}
	return p, nil
}

// Verify says what is wrong with a Packed that came from elsewhere, or nil: it must be what Unpack makes of its own bytes.
func (p Packed) Verify() error {
	if got := DigestOf(p.ManifestBytes); got != p.Digest {
		return &Damaged{Digest: p.Digest, Path: ManifestBlob, Got: got}
	}
	q, err := Unpack(p.ManifestBytes, func(digest string) ([]byte, error) {
		for _, b := range p.Blobs {
			if b.Digest == digest {
				return b.Data, nil
			}
		}
		return nil, fs.ErrNotExist
	})
	if err != nil {
		return err
	}
	same := func(a, b Blob) bool { return a.Path == b.Path && a.Digest == b.Digest && bytes.Equal(a.Data, b.Data) }
	if q.Ref() != p.Ref() || !slices.EqualFunc(q.Blobs, p.Blobs, same) {
		return fmt.Errorf("%s: its manifest or its blobs are not those that its image manifest names", p.Digest)
	}
	return nil
}

// RefOfImage is what an OCI image manifest calls its version. Its documents, which alone can prove that, are not looked at.
func RefOfImage(manifestBytes []byte) (Ref, error) {
	image, err := parseImage(manifestBytes)
	if err != nil {
		return Ref{}, fmt.Errorf("%s is not a packed spec version: %w", DigestOf(manifestBytes), err)
	}
	ref := Ref{Spec: image.Annotations[annotationName], Version: image.Annotations[annotationVersion]}
	return ref, ref.Check()
}

func parseImage(data []byte) (ocispec.Manifest, error) {
	var image ocispec.Manifest
	if err := json.Unmarshal(data, &image); err != nil {
		return image, err
	}
	switch {
	case image.MediaType != MediaTypeImage:
		return image, fmt.Errorf("its media type is %q, not %q", image.MediaType, MediaTypeImage)
	case image.ArtifactType != ArtifactType:
		return image, fmt.Errorf("its artifact type is %q, not %q", image.ArtifactType, ArtifactType)
	case len(image.Layers) == 0 || len(image.Layers) > MaxDocuments+1:
		return image, fmt.Errorf("it has %d layers", len(image.Layers))
	case image.Layers[0].Annotations[ocispec.AnnotationTitle] != ManifestPath:
		return image, fmt.Errorf("its first layer is not %s", ManifestPath)
	}
	for _, layer := range image.Layers {
		if !digestPattern.MatchString(layer.Digest.String()) {
			return image, fmt.Errorf("layer digest %q is not sha256", layer.Digest)
		}
	}
	return image, nil
}

// agree holds the image manifest against the spec.yaml it carries.
func (p Packed) agree(image ocispec.Manifest) error {
	ref := p.Ref()
	if name, version := image.Annotations[annotationName], image.Annotations[annotationVersion]; name != ref.Spec || version != ref.Version {
		return fmt.Errorf("%s: the image manifest calls itself %s:%s, its %s %s", p.Digest, name, version, ManifestPath, ref)
	}
	var paths []string
	for _, b := range p.Blobs {
		paths = append(paths, b.Path)
	}
	if want := p.Manifest.files(); !slices.Equal(paths, want) {
		return fmt.Errorf("%s: the image manifest of %s carries %q, its %s names %q", p.Digest, ref, paths, ManifestPath, want)
	}
	return nil
}
