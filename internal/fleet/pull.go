package fleet

import (
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/versions"
)

// chunk is the size of one PullResponse's data; well below gRPC's 4 MiB limit for a message.
const chunk = 1 << 20

// Pull sends one version's manifest, its signatures and its documents. The archive has verified them; the caller verifies again what reached it.
func (f *Fleet) Pull(req *sidecarv1.PullRequest, stream grpc.ServerStreamingServer[sidecarv1.PullResponse]) error {
	digest := req.GetDigest()
	if digest == "" {
		record, ok := f.store.View().Version(req.GetSpec(), req.GetVersion())
		if !ok {
			return status.Errorf(codes.NotFound, "%s:%s is not published; see what is: specctl versions %s", req.GetSpec(), req.GetVersion(), req.GetSpec())
		}
		digest = record.Digest
	}
	packed, err := f.archive.Get(stream.Context(), digest)
	if err != nil {
		return status.Errorf(codes.DataLoss, "the archive cannot give %s: %v", digest, err)
	}
	if err := sendBlob(stream, packed.Digest, "manifest", packed.ManifestBytes); err != nil {
		return err
	}
	// A signature that cannot be read must not keep a version from those who ask for none; who does finds that it is not there.
	signatures, err := f.archive.Attachments(stream.Context(), packed.Digest, versions.TypeSignature)
	if err != nil {
		f.log.Error("the signatures of a version cannot be read", zap.Stringer("version", packed.Ref()), zap.Error(err))
	}
	for _, at := range signatures {
		if err := send(stream, &sidecarv1.PullResponse{Digest: at.Blob().Digest, Path: "signature", Signature: true}, at.Data); err != nil {
			return err
		}
	}
	if req.GetSignaturesOnly() {
		return nil
	}
	for _, b := range packed.Blobs {
		if err := sendBlob(stream, b.Digest, b.Path, b.Data); err != nil {
			return err
		}
	}
	return nil
}

func sendBlob(stream grpc.ServerStreamingServer[sidecarv1.PullResponse], digest, path string, data []byte) error {
	return send(stream, &sidecarv1.PullResponse{Digest: digest, Path: path}, data)
}

// send sends data in chunks, each like the first.
func send(stream grpc.ServerStreamingServer[sidecarv1.PullResponse], first *sidecarv1.PullResponse, data []byte) error {
	for {
		n := min(chunk, len(data))
		msg := &sidecarv1.PullResponse{
			Digest: first.GetDigest(), Path: first.GetPath(), Signature: first.GetSignature(), Data: data[:n], Last: n == len(data),
		}
		if err := stream.Send(msg); err != nil || msg.Last {
			return err
		}
		data = data[n:]
	}
}
