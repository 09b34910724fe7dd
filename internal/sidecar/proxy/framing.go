package proxy

import (
	"bytes"
	"encoding/binary"
	"mime"
	"net/http"

	"github.com/specproxy/specproxy/internal/agentproto"
	"github.com/specproxy/specproxy/internal/agentproto/grpc"
	"github.com/specproxy/specproxy/internal/agentproto/plain"
)

// framing knows a streaming protocol whose responses can end early with a word to the client.
type framing interface {
	// whole is how many bytes of b are whole frames.
	whole(b []byte) int
	// tear says that b, which has no whole frame, went out all the same.
	tear(b []byte)
	// torn says that the client has the beginning of a frame and not its end.
	torn() bool
	// signal ends the response: the bytes to send, between frames, or trailers in res.
	signal(s agentproto.Signal, res *http.Response) []byte
}

// framingOf is nil for a response that can only be broken off: of a stated length, encoded, or of no known protocol.
func framingOf(res *http.Response) framing {
	contentType := res.Header.Get("Content-Type")
	if grpc.IsContentType(contentType) {
		return &grpcFraming{}
	}
	if res.ContentLength >= 0 || res.Header.Get("Content-Encoding") != "" {
		return nil
	}
	if media, _, _ := mime.ParseMediaType(contentType); media == "text/event-stream" {
		return &eventFraming{}
	}
	return nil
}

// eventFraming: a server-sent event ends with an empty line.
type eventFraming struct{ isTorn bool }

func (f *eventFraming) whole(b []byte) int {
	end := 0
	for _, boundary := range []string{"\n\n", "\n\r\n", "\r\r"} {
		if i := bytes.LastIndex(b, []byte(boundary)); i >= 0 {
			end = max(end, i+len(boundary))
		}
	}
	if end > 0 {
		f.isTorn = false
	}
	return end
}

func (f *eventFraming) tear([]byte) { f.isTorn = true }
func (f *eventFraming) torn() bool  { return f.isTorn }

func (f *eventFraming) signal(s agentproto.Signal, _ *http.Response) []byte { return plain.Event(s) }

// grpcFraming: a message is a flag, its length in 4 bytes, and that many bytes (gRPC over HTTP/2, "Length-Prefixed-Message").
type grpcFraming struct {
	missing uint64 // bytes of a torn message that have not come yet
}

const grpcPrefix = 5

func (f *grpcFraming) whole(b []byte) int {
	if f.missing > uint64(len(b)) {
		return 0
	}
	end := f.missing
	for end+grpcPrefix <= uint64(len(b)) {
		next := end + grpcPrefix + uint64(binary.BigEndian.Uint32(b[end+1:]))
		if next > uint64(len(b)) {
			break
		}
		end = next
	}
	if end > 0 {
		f.missing = 0
	}
	return int(end) //nolint:gosec // at most len(b)
}

func (f *grpcFraming) tear(b []byte) {
	if f.missing == 0 {
		f.missing = grpcPrefix + uint64(binary.BigEndian.Uint32(b[1:]))
	}
	f.missing -= uint64(len(b))
}

func (f *grpcFraming) torn() bool { return f.missing > 0 }

func (f *grpcFraming) signal(s agentproto.Signal, res *http.Response) []byte {
	res.Trailer = grpc.Trailers(s)
	return nil
}
