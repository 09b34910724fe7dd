package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/conformance"
	"github.com/specproxy/specproxy/internal/signing"
	"github.com/specproxy/specproxy/internal/versions"
)

// Attachments keeps what is attached to versions, as OCI artifacts that refer to them.
type Attachments interface {
	PutAttachment(ctx context.Context, at versions.Attachment) error
	// Attachments of the version with this digest, verified, oldest first; kind is a type, or empty for all.
	Attachments(ctx context.Context, subject, kind string) ([]versions.Attachment, error)
}

// Attach is what is to be attached to a version.
type Attach struct {
	Ref versions.Ref
	// Digest of the version as the caller saw it; empty if it did not look.
	Digest string
	Type   string
	Data   []byte
	// Suite names a report that does not name itself.
	Suite string
	// Image is the attachment's OCI image manifest in another archive, instead of Type and Suite.
	Image []byte
}

// Attach stores a signature or a test report beside a version. What could never be of use is refused: a signature of something else, a report
// that cannot be read. Whether a signature is by a key that counts shows when it is needed. The same content again changes nothing.
func (c *Controller) Attach(ctx context.Context, actor Actor, a Attach) (versions.Attachment, bool, error) {
	record, err := known(c.store.View(), a.Ref.Spec, a.Ref.Version)
	if err != nil {
		return versions.Attachment{}, false, err
	}
	if a.Digest != "" && a.Digest != record.Digest {
		return versions.Attachment{}, false, refuse("specctl show "+a.Ref.String(), "%s is %s here; the caller means %s", a.Ref, record.Digest, a.Digest)
	}
	packed, err := c.archive.Get(ctx, record.Digest)
	if err != nil {
		return versions.Attachment{}, false, fmt.Errorf("archive: %s: %w", a.Ref, err)
	}
	at, err := a.build(packed, actor)
	if err != nil {
		return at, false, err
	}
	there, err := c.archive.Attachments(ctx, record.Digest, at.Type)
	if damaged := (*versions.Damaged)(nil); err != nil && !errors.As(err, &damaged) { // storing the same content again repairs it
		return at, false, fmt.Errorf("archive: what is attached to %s: %w", a.Ref, err)
	}
	for _, other := range there {
		// When and by whom it was attached first is what counts.
		if bytes.Equal(other.Data, at.Data) {
			return other, false, nil
		}
	}
	if len(there) >= versions.MaxAttachments {
		return at, false, refuse("publish a new version", "%s has %d attachments of type %s, which is all it can have", a.Ref, len(there), at.Type)
	}
	if err := c.archive.PutAttachment(ctx, at); err != nil {
		return at, false, fmt.Errorf("archive: attach to %s: %w", a.Ref, err)
	}
	c.log.Info("attached to a version", zap.Stringer("version", a.Ref), zap.String("type", at.Type), zap.String("digest", at.Digest), zap.String("by", actor.Name))
	return at, true, nil
}

// build checks the content and gives it the form in which it is stored.
func (a Attach) build(packed versions.Packed, actor Actor) (versions.Attachment, error) {
	if len(a.Image) > 0 {
		return a.travelled(packed)
	}
	mediaType, title := "", ""
	data := a.Data
	switch a.Type {
	case versions.TypeSignature:
		mediaType = versions.MediaTypeEnvelope
		if _, err := signing.Claims(data, signing.Of(packed)); err != nil {
			return versions.Attachment{}, refuse("specctl sign "+a.Ref.String()+" --key FILE", "this is no signature of %s: %v", a.Ref, err)
		}
	case versions.TypeConformance:
		report, err := conformance.Parse(data, a.Suite)
		if err != nil {
			return versions.Attachment{}, refuse("specctl attach "+a.Ref.String()+" --conformance FILE --suite NAME", "nothing is attached to %s: %v", a.Ref, err)
		}
		mediaType, title = report.MediaType, report.Suite
	}
	at, err := versions.NewAttachment(packed, a.Type, mediaType, title, data, actor.Name, time.Now())
	if err != nil {
		return at, refuse("specctl attach --help", "nothing is attached to %s: %v", a.Ref, err)
	}
	return at, nil
}

// travelled takes an attachment over from another archive, as it was there.
func (a Attach) travelled(packed versions.Packed) (versions.Attachment, error) {
	next := "export it again where it came from: specctl export " + a.Ref.String() + " -f FILE"
	at, err := versions.UnpackAttachment(a.Image, func(string) ([]byte, error) { return a.Data, nil })
	if err != nil {
		return at, refuse(next, "nothing is attached to %s: %v", a.Ref, err)
	}
	if at.Subject != packed.Digest {
		return at, refuse(next, "the attachment %s refers to %s; %s is %s", at.Digest, at.Subject, a.Ref, packed.Digest)
	}
	switch at.Type {
	case versions.TypeSignature:
		_, err = signing.Claims(at.Data, signing.Of(packed))
	case versions.TypeConformance:
		_, err = Report(at)
	}
	if err != nil {
		return at, refuse(next, "nothing is attached to %s: %v", a.Ref, err)
	}
	return at, nil
}
