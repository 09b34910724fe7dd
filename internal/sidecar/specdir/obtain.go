// Package specdir gets the sidecar its spec version, verified, and lays its documents out for the agent.
//
// Invariants:
//   - what Obtain returns is, byte for byte, what its digest names, whoever it came from;
//   - the control plane says which digest a version has; the local copy is believed only while every replica is away;
//   - what Keys did not sign is not obtained: whoever gave it, and whatever the control plane says;
//   - a damaged copy, local or remote, is refused by name and never given to an agent.
package specdir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/signing"
	"github.com/specproxy/specproxy/internal/versions"
)

// Replica is one control-plane replica to pull from.
type Replica struct {
	Address string
	Client  sidecarv1.SidecarServiceClient
}

// Source is where a version comes from.
type Source struct {
	Replicas []Replica
	// Copy is the local copy, shared by the sidecars of this machine.
	Copy *archive.Archive
	// Keys, one of which must have signed the version; none: it need not be signed.
	Keys []signing.PublicKey
	// Patience is how long replicas that are all away are asked again, if there is no local copy to start from.
	Patience time.Duration
	Log      *zap.Logger
}

// pullTimeout bounds one pull from one replica.
const pullTimeout = 30 * time.Second

// Obtain returns the version, from the local copy if a replica confirms its digest or all are away, else pulled, verified and stored.
func (s Source) Obtain(ctx context.Context, ref versions.Ref) (versions.Packed, error) {
	p, err := s.obtain(ctx, ref)
	if err != nil || len(s.Keys) == 0 {
		return p, err
	}
	if err := s.Signed(ctx, p, s.Keys); err != nil {
		return versions.Packed{}, fmt.Errorf("%w; the agent is not started (--require-key)", err)
	}
	return p, nil
}

func (s Source) obtain(ctx context.Context, ref versions.Ref) (versions.Packed, error) {
	local, localErr := s.local(ctx, ref)
	if localErr != nil && !errors.Is(localErr, archive.ErrNotFound) {
		s.Log.Warn("the local copy of the spec version cannot be used; it is fetched again", zap.Stringer("version", ref), zap.Error(localErr))
	}
	patience, cancel := context.WithTimeout(ctx, s.Patience)
	defer cancel()
	pause := 50 * time.Millisecond
	for {
		packed, signatures, err := s.ask(ctx, ref, local)
		if err == nil {
			return s.keep(ctx, packed, signatures)
		}
		if away := (*awayError)(nil); !errors.As(err, &away) {
			return versions.Packed{}, err
		}
		if localErr == nil {
			s.Log.Warn("the control plane is away; starting from the verified local copy", zap.Stringer("version", ref),
				zap.String("digest", local.Digest), zap.Error(err))
			return local, nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			pause = min(2*pause, time.Second)
		case <-patience.Done():
			timer.Stop()
			return versions.Packed{}, s.nothing(ref, localErr, err)
		}
	}
}

// nothing says that there is no usable copy anywhere.
func (s Source) nothing(ref versions.Ref, localErr, err error) error {
	if errors.Is(localErr, archive.ErrNotFound) {
		return fmt.Errorf("%s: there is no local copy, and %w; start the control plane (xds) or correct --control", ref, err)
	}
	return fmt.Errorf("%s: the local copy is refused: %w; and %w, so it cannot be fetched again; the agent is not started", ref, localErr, err)
}

func (s Source) local(ctx context.Context, ref versions.Ref) (versions.Packed, error) {
	digest, err := s.Copy.Resolve(ctx, ref)
	if err != nil {
		return versions.Packed{}, err
	}
	p, err := s.Copy.Get(ctx, digest)
	if err != nil {
		return versions.Packed{}, err
	}
	if p.Ref() != ref {
		return versions.Packed{}, fmt.Errorf("it calls itself %s", p.Ref())
	}
	return p, nil
}

// keep stores what was pulled, and makes it what the version's name means here.
func (s Source) keep(ctx context.Context, p versions.Packed, signatures [][]byte) (versions.Packed, error) {
	if err := s.Copy.Put(ctx, p); err != nil {
		return versions.Packed{}, fmt.Errorf("keep a local copy of %s: %w", p.Ref(), err)
	}
	if err := s.keepSignatures(ctx, p, signatures); err != nil {
		return versions.Packed{}, err
	}
	if digest, err := s.Copy.Resolve(ctx, p.Ref()); err == nil && digest == p.Digest {
		return p, nil
	}
	if err := s.Copy.Tag(ctx, p.Ref(), p.Digest); err != nil {
		return versions.Packed{}, fmt.Errorf("keep a local copy of %s: %w", p.Ref(), err)
	}
	return p, nil
}

// awayError says that no replica could be asked.
type awayError struct{ reasons []string }

func (e *awayError) Error() string {
	return "the control plane is away (" + strings.Join(e.reasons, "; ") + ")"
}

// ask pulls from one replica after the other. An *awayError means that none of them had anything to say.
func (s Source) ask(ctx context.Context, ref versions.Ref, local versions.Packed) (versions.Packed, [][]byte, error) {
	away := &awayError{}
	var refused error
	for _, r := range s.Replicas {
		packed, signatures, err := pull(ctx, r, ref, local)
		if err == nil {
			return packed, signatures, nil
		}
		if ctx.Err() != nil {
			return versions.Packed{}, nil, ctx.Err()
		}
		switch damaged := (*versions.Damaged)(nil); {
		case errors.As(err, &damaged), status.Code(err) == codes.DataLoss:
			refused = fmt.Errorf("%s from %s: %w; the agent is not started; publish the same folder again to repair the archive: specctl publish DIR", ref, r.Address, err)
			s.Log.Error("a replica gave a damaged copy", zap.String("control", r.Address), zap.Error(err))
		case status.Code(err) == codes.Unavailable, status.Code(err) == codes.DeadlineExceeded, status.Code(err) == codes.Canceled:
			away.reasons = append(away.reasons, r.Address+": "+unreached(status.Convert(err).Message()))
		default:
			refused = fmt.Errorf("%s from %s: %w", ref, r.Address, describe(err))
		}
	}
	if refused != nil {
		return versions.Packed{}, nil, refused
	}
	return versions.Packed{}, nil, away
}

// unreached is gRPC's reason, with a remedy where it is one that people meet: a TLS server ends a connection that begins in the clear.
func unreached(reason string) string {
	if strings.Contains(reason, "server preface") {
		return reason + " (if it wants TLS, give --ca FILE and --token-file FILE)"
	}
	return reason
}

// describe takes the gRPC wrapping off a replica's own words.
func describe(err error) error {
	if st, ok := status.FromError(err); ok && st.Code() != codes.Unknown {
		return fmt.Errorf("%s (%s)", st.Message(), st.Code())
	}
	return err
}

// pull gets one version from one replica, every byte verified, and its signatures, which are not. If the replica's digest is that of the local
// copy, that is the answer.
func pull(ctx context.Context, r Replica, ref versions.Ref, local versions.Packed) (versions.Packed, [][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	stream, err := r.Client.Pull(ctx, &sidecarv1.PullRequest{Spec: ref.Spec, Version: ref.Version})
	if err != nil {
		return versions.Packed{}, nil, err
	}
	image, _, err := nextBlob(stream, versions.MaxVersionSize)
	if err != nil {
		return versions.Packed{}, nil, err
	}
	if image.Path != versions.ManifestBlob {
		return versions.Packed{}, nil, fmt.Errorf("the first blob is %q, not the image manifest: is it another version of the control plane?", image.Path)
	}
	if got := versions.DigestOf(image.Data); got != image.Digest {
		return versions.Packed{}, nil, &versions.Damaged{Digest: image.Digest, Path: versions.ManifestBlob, Got: got}
	}
	var signatures [][]byte
	blobs, room := map[string][]byte{}, versions.MaxVersionSize
	for {
		b, signature, err := nextBlob(stream, room)
		if err == io.EOF { //nolint:errorlint // as gRPC returns it
			break
		}
		if err != nil {
			return versions.Packed{}, nil, err
		}
		room -= len(b.Data)
		if signature {
			signatures = append(signatures, b.Data)
			continue
		}
		if image.Digest == local.Digest { // signatures come before the documents, so there are no more
			return local, signatures, nil
		}
		blobs[b.Digest] = b.Data
	}
	packed, err := versions.Unpack(image.Data, func(digest string) ([]byte, error) {
		if data, ok := blobs[digest]; ok {
			return data, nil
		}
		return nil, fmt.Errorf("the replica did not send %s", digest)
	})
	if err != nil {
		return versions.Packed{}, nil, err
	}
	if packed.Ref() != ref {
		return versions.Packed{}, nil, fmt.Errorf("the replica sent %s", packed.Ref())
	}
	return packed, signatures, nil
}

// nextBlob joins one blob's chunks, and says whether it is a signature. io.EOF: there is none.
func nextBlob(stream interface {
	Recv() (*sidecarv1.PullResponse, error)
}, room int) (b versions.Blob, signature bool, err error) {
	for {
		chunk, err := stream.Recv()
		if err == io.EOF && b.Digest != "" { //nolint:errorlint // as gRPC returns it
			return b, false, &versions.Damaged{Digest: b.Digest, Path: b.Path, Got: versions.DigestOf(b.Data)}
		}
		if err != nil {
			return b, false, err
		}
		if b.Digest == "" {
			b.Digest, b.Path, signature = chunk.GetDigest(), chunk.GetPath(), chunk.GetSignature()
		}
		if chunk.GetDigest() != b.Digest || chunk.GetPath() != b.Path {
			return b, false, fmt.Errorf("chunks of %q and %q are mixed", b.Path, chunk.GetPath())
		}
		if len(chunk.GetData()) > room-len(b.Data) {
			return b, false, fmt.Errorf("the version is larger than %d MiB", versions.MaxVersionSize>>20)
		}
		b.Data = append(b.Data, chunk.GetData()...)
		if chunk.GetLast() {
			return b, signature, nil
		}
	}
}
