package fleet

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
)

// chunk is the size of one PullResponse's data; well below gRPC's 4 MiB limit for a message.
const chunk = 1 << 20

// Pull sends one version's manifest and documents. The archive has verified them; the caller verifies again what reached it.
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
	for _, b := range packed.Blobs {
		if err := sendBlob(stream, b.Digest, b.Path, b.Data); err != nil {
			return err
		}
	}
	return nil
}

func sendBlob(stream grpc.ServerStreamingServer[sidecarv1.PullResponse], digest, path string, data []byte) error {
	for {
		n := min(chunk, len(data))
		msg := &sidecarv1.PullResponse{Digest: digest, Path: path, Data: data[:n], Last: n == len(data)}
		if err := stream.Send(msg); err != nil || msg.Last {
			return err
		}
		data = data[n:]
	}
}
