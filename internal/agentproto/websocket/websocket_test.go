package websocket

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/agentproto"
	"github.com/specproxy/specproxy/internal/drain"
)

// frame writes one as RFC 6455 section 5.2 has it.
func frame(opcode byte, size int, masked bool) []byte {
	b := []byte{0x80 | opcode, 0}
	switch {
	case size < 126:
		b[1] = byte(size)
	case size < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(size))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(size))
	}
	if masked {
		b[1] |= 0x80
		b = append(b, 1, 2, 3, 4)
	}
	return append(b, bytes.Repeat([]byte{0x88}, size)...)
}

func TestBoundariesAreFoundHoweverTheBytesCome(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []byte
		ends := map[int]bool{0: true}
		for range rapid.IntRange(1, 6).Draw(t, "frames") {
			size := rapid.OneOf(rapid.IntRange(0, 130), rapid.SampledFrom([]int{65535, 65536, 70000})).Draw(t, "size")
			all = append(all, frame(2, size, rapid.Bool().Draw(t, "masked"))...)
			ends[len(all)] = true
		}
		var f Frames
		for at := 0; at < len(all); {
			n := min(len(all)-at, rapid.OneOf(rapid.IntRange(1, 5), rapid.IntRange(1, 100_000)).Draw(t, "piece"))
			if need := f.Need(); rapid.Bool().Draw(t, "careful") {
				n = min(n, need)
				for end := at + 1; end < at+n; end++ {
					if ends[end] {
						t.Fatalf("Need of %d passes a boundary", need)
					}
				}
			}
			f.Feed(all[at : at+n])
			at += n
			if f.Between() != ends[at] {
				t.Fatalf("after %d bytes Between is %v", at, f.Between())
			}
		}
		if f.Closed() {
			t.Fatal("no close frame was sent")
		}
		f.Feed([]byte{0x88, 0})
		if !f.Closed() || !f.Between() {
			t.Fatal("the close frame is not seen")
		}
	})
}

func TestCloseFrame(t *testing.T) {
	s := agentproto.Signal{Spec: "shop", From: "2.1.0", To: "2.0.3", Effects: drain.EffectsNone, RetryAfter: 1500 * time.Millisecond}
	const reason = "SPEC_VERSION_ROLLED_BACK effects=none retry=true after=1500ms from=2.1.0 to=2.0.3"
	if got := Reason(s); got != reason {
		t.Errorf("reason %q", got)
	}
	want := append([]byte{0x88, byte(2 + len(reason)), 0x03, 0xf4}, reason...)
	if got := CloseFrame(reason, false); !bytes.Equal(got, want) {
		t.Errorf("to a client: %x", got)
	}
	want = append([]byte{0x88, 0x80 | byte(2+len(reason)), 0, 0, 0, 0, 0x03, 0xf4}, reason...)
	if got := CloseFrame(reason, true); !bytes.Equal(got, want) {
		t.Errorf("to a server: %x", got)
	}
	s.To = strings.Repeat("é", 200)
	if got := Reason(s); len(got) > 123 || !strings.HasPrefix(got, "SPEC_VERSION_ROLLED_BACK effects=none retry=true") {
		t.Errorf("a long reason is %d bytes: %q", len(got), got)
	}
	s = agentproto.Signal{From: "2.1.0", To: "2.1.0", Effects: drain.EffectsIrreversible}
	if got := Reason(s); got != "INSTANCE_LEAVING effects=irreversible retry=false after=0ms" {
		t.Errorf("reason %q", got)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(frame(1, 300, true), 3)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		var whole, pieces Frames
		whole.Feed(data)
		size = max(1, size)
		for at := 0; at < len(data); at += size {
			pieces.Feed(data[at:min(at+size, len(data))])
		}
		if whole != pieces {
			t.Fatalf("%+v in one piece, %+v in pieces of %d", whole, pieces, size)
		}
	})
}
