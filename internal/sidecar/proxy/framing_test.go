package proxy

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// pieces is a body that comes in the given pieces.
type pieces [][]byte

func (p *pieces) Read(b []byte) (int, error) {
	if len(*p) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*p)[0])
	if (*p)[0] = (*p)[0][n:]; len((*p)[0]) == 0 {
		*p = (*p)[1:]
	}
	return n, nil
}

// split cuts a body at random places.
func split(t *rapid.T, body []byte) pieces {
	var p pieces
	for len(body) > 0 {
		n := rapid.IntRange(1, len(body)).Draw(t, "piece")
		p = append(p, body[:n])
		body = body[n:]
	}
	return p
}

// relay feeds a framing as stream does and returns what goes out at each step.
func relay(f framing, in pieces) (out [][]byte, held []byte) {
	for _, piece := range in {
		held = append(held, piece...)
		whole := f.whole(held)
		if whole == 0 && len(held) > holdLimit {
			f.tear(held)
			whole = len(held)
		}
		out = append(out, bytes.Clone(held[:whole]))
		held = bytes.Clone(held[whole:])
	}
	return out, held
}

func TestEventsGoOutWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		end := rapid.SampledFrom([]string{"\n\n", "\r\n\r\n", "\r\r"}).Draw(t, "end of line")
		var body []byte
		boundaries := map[int]bool{0: true}
		for range rapid.IntRange(0, 5).Draw(t, "events") {
			body = append(body, "data: "+rapid.StringMatching(`[a-z]{0,20}`).Draw(t, "data")+end...)
			boundaries[len(body)] = true
		}
		tail := rapid.StringMatching(`(data: [a-z]{0,5})?`).Draw(t, "tail")
		body = append(body, tail...)
		f := &eventFraming{}
		out, held := relay(f, split(t, body))
		sent := 0
		for _, o := range out {
			if sent += len(o); !boundaries[sent] {
				t.Fatalf("%q went out, which ends within an event", body[:sent])
			}
		}
		if string(held) != tail || f.torn() {
			t.Fatalf("held %q, want %q", held, tail)
		}
	})
}

func TestMessagesGoOutWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var body []byte
		boundaries := map[int]bool{0: true}
		large := false
		for range rapid.IntRange(0, 4).Draw(t, "messages") {
			size := rapid.OneOf(rapid.IntRange(0, 50), rapid.IntRange(holdLimit-10, 3*holdLimit)).Draw(t, "size")
			large = large || size > holdLimit-grpcPrefix
			body = append(body, 0)
			body = binary.BigEndian.AppendUint32(body, uint32(size)) //nolint:gosec // small
			body = append(body, make([]byte, size)...)
			boundaries[len(body)] = true
		}
		f := &grpcFraming{}
		in := split(t, body)
		sent := 0
		var held []byte
		for _, piece := range in {
			var out [][]byte
			out, held = relay(f, pieces{append(held, piece...)})
			sent += len(out[0])
			if !f.torn() && !boundaries[sent] {
				t.Fatalf("%d bytes went out, which ends within a message, and it does not know", sent)
			}
			if f.torn() && !large {
				t.Fatal("a message that could be held was torn")
			}
		}
		if f.torn() || len(held) > 0 || sent != len(body) {
			t.Fatalf("of %d bytes %d went out, %d are held", len(body), sent, len(held))
		}
	})
}

// A body without a cut is what the agent sent, however it came.
func TestStreamChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOf(rapid.SampledFrom([]byte("ab\n\r"))).Draw(t, "body")
		in := split(t, body)
		s := &stream{body: io.NopCloser(&in), x: &exchange{proxy: &Proxy{Config: Config{Now: time.Now}}}, res: &http.Response{}, framing: &eventFraming{}}
		var got bytes.Buffer
		if _, err := io.CopyBuffer(&got, struct{ io.Reader }{s}, make([]byte, rapid.IntRange(1, 10).Draw(t, "buffer"))); err != nil || !bytes.Equal(got.Bytes(), body) {
			t.Fatalf("got %q, want %q, %v", got.Bytes(), body, err)
		}
	})
}

func FuzzGRPCTimeout(f *testing.F) {
	for _, seed := range []string{"1S", "99999999H", "0n", "5", "", "-1S", "1x", "123456789S"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := grpcTimeout(s)
		if !ok {
			return
		}
		if d < 0 {
			t.Errorf("%q is %s", s, d)
		}
		again, ok := grpcTimeout(formatGRPCTimeout(d))
		if !ok || again < d && again < 27*3600e9 {
			t.Errorf("%q is %s, written %s, read %s", s, d, formatGRPCTimeout(d), again)
		}
	})
}
