package grpc

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/specproxy/specproxy/internal/agentproto"
)

// The details of a status are written here by their wire format: a crowd that is cancelled at once gets one each, and the generic encoder,
// which goes by reflection for maps and Any, took a sixth of all that a cancel costs. The tests read them with the generated types.

// Types of google.protobuf.Any.
const (
	errorInfoType = "type.googleapis.com/google.rpc.ErrorInfo"
	retryInfoType = "type.googleapis.com/google.rpc.RetryInfo"
)

// status is google.rpc.Status: code 1, message 2, details 3.
func status(code codes.Code, message string, details [][]byte) []byte {
	b := make([]byte, 0, 512)
	b = protowire.AppendTag(b, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(code))
	b = text(b, 2, message)
	for _, d := range details {
		b = protowire.AppendTag(b, 3, protowire.BytesType)
		b = protowire.AppendBytes(b, d)
	}
	return b
}

// packed is google.protobuf.Any: type_url 1, value 2.
func packed(typeURL string, value []byte) []byte {
	b := text(make([]byte, 0, len(typeURL)+len(value)+8), 1, typeURL)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	return protowire.AppendBytes(b, value)
}

// errorInfo is google.rpc.ErrorInfo: reason 1, domain 2, metadata 3, a map from text to text. What is empty is left out.
func errorInfo(s agentproto.Signal) []byte {
	b := make([]byte, 0, 384)
	b = text(b, 1, s.Code())
	b = text(b, 2, Domain)
	to := ""
	if s.RolledBack() {
		to = s.To
	}
	for _, m := range [...][2]string{
		{"effects", string(s.Known())}, {"execution", s.Execution}, {"from", s.From}, {"postMortem", s.PostMortem}, {"spec", s.Spec}, {"to", to}, {"why", s.Why},
	} {
		if m[1] == "" {
			continue
		}
		b = protowire.AppendTag(b, 3, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(protowire.SizeTag(1)+protowire.SizeBytes(len(m[0]))+protowire.SizeTag(2)+protowire.SizeBytes(len(m[1])))) //nolint:gosec // a size
		b = text(b, 1, m[0])
		b = text(b, 2, m[1])
	}
	return b
}

// retryInfo is google.rpc.RetryInfo: retry_delay 1, a google.protobuf.Duration: seconds 1, nanos 2.
func retryInfo(delay time.Duration) []byte {
	delay = max(delay, 0)
	var d []byte
	for i, n := range [...]time.Duration{delay / time.Second, delay % time.Second} {
		if n > 0 {
			d = protowire.AppendTag(d, protowire.Number(i+1), protowire.VarintType)
			d = protowire.AppendVarint(d, uint64(n)) //nolint:gosec // not negative
		}
	}
	b := protowire.AppendTag(nil, 1, protowire.BytesType)
	return protowire.AppendBytes(b, d)
}

func text(b []byte, number protowire.Number, s string) []byte {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	return protowire.AppendString(b, s)
}
