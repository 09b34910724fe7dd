package gate_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/specproxy/specproxy/internal/sidecar/gate"
)

// Of header blocks that are too large over HTTP/2 net/http tells nobody: they are counted by its answers, and an error that it tells of is counted once.
func TestOversizedHeadersOverHTTP2AreCounted(t *testing.T) {
	const limit = 16 << 10
	header := func(n, size int) (fields [][2]string) {
		fields = [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/"}}
		for i := range n {
			fields = append(fields, [2]string{fmt.Sprint("x-", i), strings.Repeat("~", size)}) // which Huffman's code does not shorten
		}
		return fields
	}
	for _, c := range []struct {
		name   string
		fields [][2]string
		stream uint32
		reason gate.Reason
		code   http2.ErrCode // of the GOAWAY; 0: the connection lives on
	}{
		{"within", header(10, 1000), 1, -1, 0},
		{"a little too large", header(20, 1000), 1, gate.HeaderSize, 0},
		{"by far too large", header(80, 1000), 1, gate.HTTP2, http2.ErrCodeProtocol},
		{"one field too large", header(1, 25_000), 1, gate.HTTP2, http2.ErrCodeCompression},
		{"wrong otherwise, which is told", header(0, 0), 2, gate.HTTP2, http2.ErrCodeProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := open(t, gate.Limits{HeaderBytes: limit})
			conn := d.dial()
			if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
				t.Fatal(err)
			}
			f := http2.NewFramer(conn, conn)
			f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			if err := f.WriteSettings(); err != nil {
				t.Fatal(err)
			}
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			for _, h := range c.fields {
				_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1], Sensitive: true})
			}
			go func() { // an error shows below
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
			}()
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					if !errors.Is(err, io.EOF) && c.code == 0 {
						t.Fatal(err)
					}
					break
				}
				if g, ok := frame.(*http2.GoAwayFrame); ok {
					if g.ErrCode != c.code {
						t.Errorf("GOAWAY %v, want %v", g.ErrCode, c.code)
					}
					break
				}
				if h, ok := frame.(*http2.MetaHeadersFrame); ok {
					if want := map[bool]string{true: "431", false: "200"}[c.reason == gate.HeaderSize]; c.code != 0 || h.PseudoValue("status") != want {
						t.Errorf("status %s", h.PseudoValue("status"))
					}
				}
				if e, ok := frame.(interface{ StreamEnded() bool }); ok && e.StreamEnded() {
					break
				}
			}
			if c.reason < 0 {
				d.nothingRefused()
				return
			}
			d.counted(c.reason, 1)
			for _, reason := range []gate.Reason{gate.HeaderSize, gate.HTTP2} {
				if n := d.refusals.Of(reason); reason != c.reason && n != 0 || n > 1 {
					t.Errorf("%s is counted %d times", reason, n)
				}
			}
		})
	}
}
