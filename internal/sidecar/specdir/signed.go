package specdir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/signing"
	"github.com/specproxy/specproxy/internal/versions"
)

// maxSignatures bounds, in bytes, what of a version's signatures is taken from one replica.
const maxSignatures = versions.MaxAttachments * versions.MaxSignatureSize

// SignedHere returns nil if one of the keys signed the version, by a signature in the local copy. The error says why none counts.
func (s Source) SignedHere(ctx context.Context, p versions.Packed, keys []signing.PublicKey) error {
	attachments, err := s.Copy.Attachments(ctx, p.Digest, versions.TypeSignature)
	if err != nil {
		return fmt.Errorf("the signatures of %s cannot be read: %w", p.Ref(), err)
	}
	if len(attachments) == 0 {
		return fmt.Errorf("%s has no signature; sign it: specctl sign %s --key FILE", p.Ref(), p.Ref())
	}
	var why error
	for _, at := range attachments {
		if _, why = signing.Verify(at.Data, signing.Of(p), keys); why == nil {
			return nil
		}
	}
	return fmt.Errorf("no signature of %s counts here: %w", p.Ref(), why)
}

// Signed is SignedHere, but asks the replicas first for signatures that came later than the local copy, if that has none that counts.
func (s Source) Signed(ctx context.Context, p versions.Packed, keys []signing.PublicKey) error {
	err := s.SignedHere(ctx, p, keys)
	if err == nil {
		return nil
	}
	for _, r := range s.Replicas {
		signatures, pullErr := pullSignatures(ctx, r, p.Digest)
		if pullErr != nil {
			s.Log.Warn("a replica gave no signatures", zap.String("control", r.Address), zap.Error(pullErr))
			continue
		}
		if keepErr := s.keepSignatures(ctx, p, signatures); keepErr != nil {
			return errors.Join(err, keepErr)
		}
		if err = s.SignedHere(ctx, p, keys); err == nil {
			return nil
		}
	}
	return err
}

// keepSignatures stores signatures beside the local copy, so that they count while the control plane is away. What is no signature of this
// version is left out: it could never count.
func (s Source) keepSignatures(ctx context.Context, p versions.Packed, signatures [][]byte) error {
	for _, envelope := range signatures {
		if _, err := signing.Claims(envelope, signing.Of(p)); err != nil {
			s.Log.Warn("a replica gave a signature that is none of this version", zap.Stringer("version", p.Ref()), zap.Error(err))
			continue
		}
		// Without time or name, so that the same envelope is kept once.
		at, err := versions.NewAttachment(p, versions.TypeSignature, versions.MediaTypeEnvelope, "", envelope, "", time.Time{})
		if err != nil {
			return fmt.Errorf("keep a signature of %s: %w", p.Ref(), err)
		}
		if err := s.Copy.PutAttachment(ctx, at); err != nil {
			return fmt.Errorf("keep a signature of %s: %w", p.Ref(), err)
		}
	}
	return nil
}

// pullSignatures gets what is attached by now.
func pullSignatures(ctx context.Context, r Replica, digest string) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	stream, err := r.Client.Pull(ctx, &sidecarv1.PullRequest{Digest: digest, SignaturesOnly: true})
	if err != nil {
		return nil, err
	}
	var signatures [][]byte
	room := maxSignatures
	for {
		b, signature, err := nextBlob(stream, room+versions.MaxManifestSize)
		switch {
		case err == io.EOF: //nolint:errorlint // as gRPC returns it
			return signatures, nil
		case err != nil:
			return nil, err
		case signature:
			if room -= len(b.Data); room < 0 {
				return nil, fmt.Errorf("the signatures are larger than %d MiB", maxSignatures>>20)
			}
			signatures = append(signatures, b.Data)
		case b.Path != versions.ManifestBlob:
			return signatures, nil // a control plane that knows no signatures sends everything
		}
	}
}
