package gate

import (
	"bytes"
	"math"
)

// scanner follows the framing of an HTTP/1 connection (RFC 9112, sections 2 to 7): where heads begin and end, and how long bodies are. It
// keeps no more than the beginning of a line.
type scanner struct {
	state state
	// line is what has come of an unfinished line, but for what is beyond maxLine.
	line []byte
	long bool
	last byte

	// Of the head that is being read.
	first    bool // its request line is still to come
	old      bool // HTTP/1.0
	length   int64
	measured bool // it has a Content-Length
	chunked  bool

	// left is how much of the body, or of its chunk, is still to come.
	left uint64
}

type state int

const (
	start state = iota // of a request, or of the connection
	head
	body
	chunkSize
	chunkData
	chunkEnd // the CRLF after a chunk's data
	trailer
	opaque // no HTTP/1
)

// maxLine is how much of a line is looked at; net/http takes no longer lines where it matters, in chunks.
const maxLine = 4096

// preface is how HTTP/2 begins (RFC 9113, section 3.4). net/http looks for it by itself.
const preface = "PRI * HTTP/2.0"

func (s *scanner) inHead() bool { return s.state == head }

// atLineStart says that nothing of the line has been passed on; a lone CR is told from the start by feed.
func (s *scanner) atLineStart() bool { return len(s.line) == 0 && !s.long }

// feed looks at the next bytes. It returns how many of them may be passed on, all of them if nothing is wrong. After a refusal the scanner
// is of no more use.
func (s *scanner) feed(p []byte) (good int, refused Reason) {
	for at := 0; at < len(p); {
		switch s.state {
		case opaque:
			return len(p), none
		case body, chunkData:
			n := min(uint64(len(p)-at), s.left)
			at += int(n) //nolint:gosec // at most len(p)
			if s.left -= n; s.left > 0 {
				break
			}
			if s.state == body {
				s.state = start
			} else {
				s.state = chunkEnd
			}
		default:
			if s.state == start {
				s.state, s.first, s.old, s.length, s.measured, s.chunked = head, true, false, 0, false, false
			}
			if (p[at] == ' ' || p[at] == '\t') && s.atLineStart() && (s.state == head && !s.first || s.state == trailer) {
				return at, FoldedLine
			}
			end := bytes.IndexByte(p[at:], '\n')
			if end < 0 {
				s.keep(p[at:])
				if s.state == chunkEnd && string(s.line) != "\r" {
					return at, Malformed // before net/http sees it, which would then close the connection by itself
				}
				return len(p), none
			}
			if reason := s.take(p[at : at+end]); reason != none {
				return s.before(at, end, reason), reason
			}
			s.line, s.long, s.last = s.line[:0], false, 0
			at += end + 1
		}
	}
	return len(p), none
}

// before is how much may be passed on of a line that is refused at its end, so that a line which is no header can follow.
func (s *scanner) before(at, end int, reason Reason) int {
	if reason == BareLF {
		if end > 0 {
			s.keep([]byte{0}) // the line has begun
		}
		return at + end
	}
	s.line = s.line[:0] // of the empty line at the end of a head at most a CR has gone
	return at
}

func (s *scanner) keep(p []byte) {
	s.last = p[len(p)-1]
	room := maxLine - len(s.line)
	if len(p) > room {
		s.long = true
		p = p[:room]
	}
	s.line = append(s.line, p...)
}

// take looks at a whole line, less its LF.
func (s *scanner) take(line []byte) Reason {
	last := s.last
	if len(line) > 0 {
		last = line[len(line)-1]
	}
	if last != '\r' {
		return BareLF
	}
	if !s.atLineStart() {
		if len(line) > 0 {
			s.keep(line)
		}
		line = s.line
	}
	if !s.long {
		line = line[:len(line)-1]
	}
	switch s.state {
	case head:
		return s.headLine(line)
	case chunkSize:
		return s.sizeLine(line)
	case chunkEnd:
		if len(line) > 0 {
			return Malformed
		}
		s.state = chunkSize
	case trailer:
		if len(line) == 0 {
			s.state = start
		}
	}
	return none
}

func (s *scanner) headLine(line []byte) Reason {
	if s.first {
		s.first = false
		s.old = bytes.HasSuffix(line, []byte("HTTP/1.0"))
		if string(line) == preface {
			s.state = opaque
		}
		return none
	}
	if len(line) == 0 {
		return s.endHead()
	}
	name, value, _ := bytes.Cut(line, []byte(":"))
	switch {
	case len(name) == len("content-length") && bytes.EqualFold(name, []byte("content-length")):
		n, ok := number(bytes.Trim(value, " \t"), 10)
		if s.measured || !ok || n > math.MaxInt64 || s.long {
			return s.refuseAtEnd()
		}
		s.measured, s.length = true, int64(n) //nolint:gosec // checked above
	case len(name) == len("transfer-encoding") && bytes.EqualFold(name, []byte("transfer-encoding")):
		if s.chunked || s.old || s.long {
			return s.refuseAtEnd()
		}
		s.chunked = true // any other coding is refused by net/http
	}
	return none
}

// refuseAtEnd marks the head as one to refuse. It is refused at its end, where net/http has not begun with it yet.
func (s *scanner) refuseAtEnd() Reason {
	s.measured, s.chunked = true, true
	return none
}

func (s *scanner) endHead() Reason {
	switch {
	case s.measured && s.chunked:
		return Framing
	case s.chunked:
		s.state = chunkSize
	case s.length > 0:
		s.state, s.left = body, uint64(s.length) //nolint:gosec // never negative
	default:
		s.state = start
	}
	return none
}

// sizeLine reads "1a2b;extension".
func (s *scanner) sizeLine(line []byte) Reason {
	digits, _, _ := bytes.Cut(line, []byte(";"))
	n, ok := number(bytes.TrimRight(digits, " \t"), 16)
	if !ok || s.long {
		return Malformed
	}
	if s.state, s.left = chunkData, n; n == 0 {
		s.state = trailer
	}
	return none
}

// number reads digits and nothing else.
func number(digits []byte, base uint64) (n uint64, ok bool) {
	if len(digits) == 0 || len(digits) > 18 {
		return 0, false
	}
	for _, c := range digits {
		var d uint64
		switch {
		case '0' <= c && c <= '9':
			d = uint64(c - '0')
		case base == 16 && 'a' <= c|0x20 && c|0x20 <= 'f':
			d = uint64(c|0x20-'a') + 10
		default:
			return 0, false
		}
		if n > (math.MaxUint64-d)/base {
			return 0, false
		}
		n = n*base + d
	}
	return n, true
}
