package a2a_test

import (
	"encoding/binary"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/specproxy/specproxy/internal/agentproto/a2a"
)

const send, sendOld = "/lf.a2a.v1.A2AService/SendMessage", "/a2a.v1.A2AService/SendStreamingMessage"

func field(number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
}

func metadata(t testing.TB, fields map[string]any) []byte {
	s, err := structpb.NewStruct(fields)
	if err != nil {
		t.Fatal(err)
	}
	data, err := proto.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func frame(parts ...[]byte) []byte {
	var message []byte
	for _, p := range parts {
		message = append(message, p...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func TestSkillOfGRPC(t *testing.T) {
	quote, other := metadata(t, map[string]any{"n": 7, "skillId": "quote", "deep": map[string]any{"skill": "no"}}), metadata(t, map[string]any{"skill_id": "other"})
	id := field(1, []byte("m-1"))
	role := protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), 1)
	message := append(append(append([]byte{}, id...), role...), field(6, quote)...)
	whole := frame(field(1, []byte("tenant")), field(2, message), field(4, other))
	compressed := append([]byte{}, whole...)
	compressed[0] = 1
	for _, c := range []struct {
		name, path string
		body       []byte
		want       string
	}{
		{"of the message", send, whole, "quote"},
		{"of the request", send, frame(field(2, id), field(4, other)), "other"},
		{"of 0.3", sendOld, frame(field(1, message)), "quote"},
		{"of 0.3's request", sendOld, frame(field(1, id), field(3, other)), "other"},
		{"another method", "/lf.a2a.v1.A2AService/GetTask", whole, ""},
		{"compressed", send, compressed, ""},
		{"no string", send, frame(field(4, metadata(t, map[string]any{"skill": 7}))), ""},
		{"cut off after the metadata", send, whole[:len(whole)-len(other)], "quote"},
		{"nothing", send, nil, ""},
		{"no message", send, []byte{0, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff}, ""},
	} {
		if got := a2a.SkillGRPC(c.path, c.body); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if !a2a.Framed(whole) || a2a.Framed(whole[:len(whole)-1]) || a2a.Framed(nil) || !a2a.IsSend(send) || a2a.IsSend("/x") {
		t.Error("a frame's end is not seen")
	}
}

func FuzzSkillOfGRPC(f *testing.F) {
	f.Add(frame(field(2, field(6, metadata(f, map[string]any{"skill": "quote"})))))
	f.Fuzz(func(_ *testing.T, body []byte) {
		a2a.SkillGRPC(send, body)
		a2a.Framed(body)
	})
}
