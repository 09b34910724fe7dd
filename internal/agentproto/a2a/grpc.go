package a2a

import (
	"encoding/binary"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// rpc says where a gRPC method of the protocol has its message and its metadata: SendMessageRequest of a2a.proto, 1.0 and 0.3.
type rpc struct{ message, metadata protowire.Number }

var rpcs = map[string]rpc{
	"/lf.a2a.v1.A2AService/SendMessage":          {message: 2, metadata: 4},
	"/lf.a2a.v1.A2AService/SendStreamingMessage": {message: 2, metadata: 4},
	"/a2a.v1.A2AService/SendMessage":             {message: 1, metadata: 3},
	"/a2a.v1.A2AService/SendStreamingMessage":    {message: 1, metadata: 3},
}

// Numbers of fields: Message.metadata, google.protobuf.Struct.fields, of a map's entry, and google.protobuf.Value.string_value.
const (
	messageMetadata protowire.Number = 6
	structFields    protowire.Number = 1
	entryKey        protowire.Number = 1
	entryValue      protowire.Number = 2
	stringValue     protowire.Number = 3
)

// frameHeader is the length of what comes before a gRPC message: whether it is compressed, and its size.
const frameHeader = 5

// IsSend says that the path is that of a gRPC method which sends a message.
func IsSend(path string) bool {
	_, ok := rpcs[path]
	return ok
}

// Framed says that the first message of a gRPC request's body is there as a whole.
func Framed(body []byte) bool {
	return len(body) >= frameHeader && uint64(len(body)-frameHeader) >= uint64(binary.BigEndian.Uint32(body[1:]))
}

// Legible says that the first message of a gRPC request's body is not compressed (gRPC over HTTP/2, "Compressed-Flag"). A request without a
// message hides nothing.
func Legible(body []byte) bool { return len(body) == 0 || body[0] == 0 }

// SkillGRPC is the id of the skill that a gRPC request asks for, empty if it names none or is not legible. body is the body or its beginning.
func SkillGRPC(path string, body []byte) string {
	at, ok := rpcs[path]
	body = body[:min(len(body), Limit)]
	if !ok || len(body) < frameHeader || !Legible(body) {
		return ""
	}
	size := uint64(binary.BigEndian.Uint32(body[1:]))
	request := body[frameHeader:]
	request = request[:min(size, uint64(len(request)))]
	var ofMessage, ofRequest string
	each(request, func(number protowire.Number, value []byte) {
		switch number {
		case at.message:
			each(value, func(number protowire.Number, value []byte) {
				if number == messageMetadata {
					ofMessage = skillIn(value)
				}
			})
		case at.metadata:
			ofRequest = skillIn(value)
		}
	})
	if ofMessage != "" {
		return ofMessage
	}
	return ofRequest
}

// skillIn looks into a google.protobuf.Struct.
func skillIn(metadata []byte) string {
	found := map[string]string{}
	each(metadata, func(number protowire.Number, entry []byte) {
		if number != structFields {
			return
		}
		var key, text string
		each(entry, func(number protowire.Number, value []byte) {
			switch number {
			case entryKey:
				key = string(value)
			case entryValue:
				each(value, func(number protowire.Number, value []byte) {
					if number == stringValue {
						text = string(value)
					}
				})
			}
		})
		found[key] = text
	})
	for _, key := range keys {
		if found[key] != "" {
			return found[key]
		}
	}
	return ""
}

// each calls fn for the fields that have bytes. Of a message that is cut off what is there counts; what makes no sense ends it.
func each(message []byte, fn func(number protowire.Number, value []byte)) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return
			}
			message = message[n:]
			continue
		}
		size, n := protowire.ConsumeVarint(message)
		if n < 0 {
			return
		}
		message = message[n:]
		value := message[:min(size, uint64(len(message)))]
		fn(number, slices.Clip(value))
		message = message[len(value):]
	}
}
