package gate

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"testing"
)

// FuzzScanner compares the scanner with net/http: however the bytes are cut, the verdict is the same, and where net/http reads a request that
// the scanner lets pass, both find its end at the same byte.
func FuzzScanner(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET / HTTP/1.1\n\n", "GET / HTTP/1.1\r\nX: y\r\n z\r\n\r\n",
		preface + "\r\n\r\nSM\r\n\r\n\x00\x00\x00", "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		whole := scanner{}
		good, reason := whole.feed(bytes.Clone(data))
		pieces, at, other := scanner{}, 0, none
		size = max(1, min(size, len(data)))
		for at < len(data) && other == none {
			n, r := pieces.feed(bytes.Clone(data[at:min(at+size, len(data))]))
			at, other = at+n, r
		}
		// Of a line that is refused for what it says, pieces may have gone before; net/http is shown another one in its place.
		if other != reason || at != good && reason != Framing && reason != Malformed {
			t.Fatalf("in one piece: %d bytes, %v; in pieces of %d: %d bytes, %v", good, reason, size, at, other)
		}
		checkEnds(t, data, good, reason)
	})
}

// checkEnds reads requests with net/http and follows with a scanner.
func checkEnds(t *testing.T, data []byte, good int, reason Reason) {
	t.Helper()
	in := bytes.NewReader(data)
	b := bufio.NewReaderSize(in, 16)
	for begin := 0; begin < len(data); {
		r, err := http.ReadRequest(b)
		if err != nil || r.ProtoMajor != 1 || r.Method == "PRI" {
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		_ = r.Body.Close()
		end := len(data) - in.Len() - b.Buffered()
		if reason != none && good < end {
			return // it would not have come so far
		}
		s := scanner{}
		if n, refused := s.feed(data[begin:end]); refused != none || n != end-begin || s.state != start {
			t.Fatalf("net/http reads a request of %d bytes, %q; the scanner passes %d, %v, and is in state %d", end-begin, data[begin:end], n, refused, s.state)
		}
		begin = end
	}
}
