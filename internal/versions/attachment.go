package versions

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Types of attachments: the artifact types of their OCI image manifests.
const (
	// TypeSignature is a DSSE envelope around an in-toto statement about the version.
	TypeSignature = "application/vnd.specproxy.signature.v1"
	// TypeConformance is a report of tests that the version was put through.
	TypeConformance = "application/vnd.specproxy.conformance.v1"
)

// Media types of what attachments hold.
const (
	MediaTypeEnvelope = "application/vnd.dsse.envelope.v1+json"
	MediaTypeJUnit    = "application/xml"
	MediaTypeJSON     = "application/json"
)

// Bounds on attachments.
const (
	// MaxAttachmentSize is that of a report.
	MaxAttachmentSize = 8 << 20
	// MaxSignatureSize is that of an envelope: a few hundred bytes as a rule. Sidecars hold all of a version's.
	MaxSignatureSize = 64 << 10
	// MaxAttachments of one version and type.
	MaxAttachments = 100
	// MaxAttachmentImage is that of an attachment's OCI image manifest.
	MaxAttachmentImage = 64 << 10
)

const annotationAttachedBy = "org.specproxy.attached.by"

// Attachment is an OCI artifact that refers to a version by its digest. It is no part of the version: it may come later, and go.
type Attachment struct {
	// Digest of Image, its identity.
	Digest string
	// Image is its OCI image manifest, whose subject is the version's.
	Image []byte
	// Subject is the digest of the version.
	Subject string
	// Type is TypeSignature or TypeConformance.
	Type      string
	MediaType string
	// Title names a report's suite.
	Title string
	// By and At say who attached it and when, in the words of the control plane that took it: only a signature proves more.
	By   string
	At   time.Time
	Data []byte
}

// NewAttachment builds an attachment of the version. At is kept to the second.
func NewAttachment(version Packed, kind, mediaType, title string, data []byte, by string, at time.Time) (Attachment, error) {
	a := Attachment{Subject: version.Digest, Type: kind, MediaType: mediaType, Title: title, By: by, At: at.UTC().Truncate(time.Second), Data: data}
	if err := a.bounded(); err != nil {
		return a, err
	}
	layer := Blob{Digest: DigestOf(data), MediaType: mediaType, Data: data}
	image := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    MediaTypeImage,
		ArtifactType: kind,
		Config:       ocispec.Descriptor{MediaType: EmptyConfig.MediaType, Digest: digest.Digest(EmptyConfig.Digest), Size: int64(len(EmptyConfig.Data))},
		Layers:       []ocispec.Descriptor{{MediaType: mediaType, Digest: digest.Digest(layer.Digest), Size: int64(len(data))}},
		Subject:      &ocispec.Descriptor{MediaType: MediaTypeImage, Digest: digest.Digest(version.Digest), Size: int64(len(version.ManifestBytes))},
		Annotations:  map[string]string{ocispec.AnnotationCreated: a.At.Format(time.RFC3339)},
	}
	if by != "" {
		image.Annotations[annotationAttachedBy] = by
	}
	if title != "" {
		image.Annotations[ocispec.AnnotationTitle] = title
	}
	var err error
	if a.Image, err = json.Marshal(image); err != nil {
		return a, fmt.Errorf("attachment of %s: %w", version.Ref(), err)
	}
	if len(a.Image) > MaxAttachmentImage {
		return a, fmt.Errorf("attachment of %s: its OCI image manifest has %d bytes, at most %d", version.Ref(), len(a.Image), MaxAttachmentImage)
	}
	a.Digest = DigestOf(a.Image)
	return a, nil
}

// Blob is the content of the attachment as it is stored.
func (a Attachment) Blob() Blob {
	return Blob{Digest: DigestOf(a.Data), Path: "attachment", MediaType: a.MediaType, Data: a.Data}
}

func (a Attachment) bounded() error {
	limit := MaxAttachmentSize
	switch a.Type {
	case TypeSignature:
		limit = MaxSignatureSize
	case TypeConformance:
	default:
		return fmt.Errorf("an attachment of type %q is not known here: there is %s and %s", a.Type, TypeSignature, TypeConformance)
	}
	if len(a.Data) == 0 {
		return errors.New("an attachment cannot be empty")
	}
	if len(a.Data) > limit {
		return fmt.Errorf("the attachment has %d bytes: one of type %s has at most %d", len(a.Data), a.Type, limit)
	}
	return nil
}

// UnpackAttachment builds an attachment from its OCI image manifest and a source of blobs. As with Unpack nothing is trusted: what differs from
// its digest is a *Damaged.
func UnpackAttachment(image []byte, fetch func(digest string) ([]byte, error)) (Attachment, error) {
	a := Attachment{Digest: DigestOf(image), Image: image}
	if len(image) > MaxAttachmentImage {
		return a, fmt.Errorf("%s is no attachment: its OCI image manifest has %d bytes, at most %d", a.Digest, len(image), MaxAttachmentImage)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(image, &m); err != nil {
		return a, fmt.Errorf("%s is no attachment: %w", a.Digest, err)
	}
	switch {
	case m.MediaType != MediaTypeImage:
		return a, fmt.Errorf("%s is no attachment: its media type is %q, not %q", a.Digest, m.MediaType, MediaTypeImage)
	case m.Subject == nil || !digestPattern.MatchString(m.Subject.Digest.String()):
		return a, fmt.Errorf("%s is no attachment: it refers to no version", a.Digest)
	case len(m.Layers) != 1 || !digestPattern.MatchString(m.Layers[0].Digest.String()):
		return a, fmt.Errorf("%s is no attachment: it has %d layers, not one named by its sha256", a.Digest, len(m.Layers))
	case m.Layers[0].Size < 0 || m.Layers[0].Size > MaxAttachmentSize:
		return a, fmt.Errorf("%s: its content has %d bytes, at most %d", a.Digest, m.Layers[0].Size, MaxAttachmentSize)
	}
	a.Subject, a.Type, a.MediaType = m.Subject.Digest.String(), m.ArtifactType, m.Layers[0].MediaType
	a.Title, a.By = m.Annotations[ocispec.AnnotationTitle], m.Annotations[annotationAttachedBy]
	if at, err := time.Parse(time.RFC3339, m.Annotations[ocispec.AnnotationCreated]); err == nil {
		a.At = at.UTC()
	}
	want := m.Layers[0].Digest.String()
	data, err := fetch(want)
	if errors.Is(err, fs.ErrNotExist) {
		return a, &Damaged{Digest: want, Path: "attachment"}
	}
	if err != nil {
		return a, fmt.Errorf("content of %s: %w", a.Digest, err)
	}
	if got := DigestOf(data); got != want || int64(len(data)) != m.Layers[0].Size {
		return a, &Damaged{Digest: want, Path: "attachment", Got: got}
	}
	a.Data = data
	return a, a.bounded()
}

// Verify says what is wrong with an attachment that came from elsewhere, or nil.
func (a Attachment) Verify() error {
	if got := DigestOf(a.Image); got != a.Digest {
		return &Damaged{Digest: a.Digest, Path: "attachment", Got: got}
	}
	b, err := UnpackAttachment(a.Image, func(string) ([]byte, error) { return a.Data, nil })
	if err != nil {
		return err
	}
	if b.Subject != a.Subject || b.Type != a.Type || b.MediaType != a.MediaType || b.Title != a.Title {
		return fmt.Errorf("attachment %s is not what its OCI image manifest says", a.Digest)
	}
	return nil
}
