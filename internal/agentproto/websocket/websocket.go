// Package websocket ends WebSocket connections (RFC 6455) of executions that were cut: it knows where one frame ends and the next begins, and
// writes the close frame that tells the other end why.
//
// Invariant: whatever bytes come, a boundary is only claimed where RFC 6455 section 5.2 has one.
package websocket

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/specproxy/specproxy/internal/agentproto"
)

// ServiceRestart is the status code of the close frame (IANA WebSocket Close Code Number Registry): try again elsewhere.
const ServiceRestart = 1012

// maxReason is what fits into a control frame beside the code (RFC 6455 section 5.5).
const maxReason = 123

const (
	final      = 0x80
	opClose    = 0x8
	opcodes    = 0x0f
	maskBit    = 0x80
	lengths    = 0x7f
	length16   = 126
	length64   = 127
	headerSize = 2
	maskSize   = 4
)

// Reason says in at most 123 bytes what happened to the execution, what it did, and when to come again.
func Reason(s agentproto.Signal) string {
	text := fmt.Sprintf("%s effects=%s retry=%t after=%dms", s.Code(), s.Known(), s.Repeatable(), s.Milliseconds())
	if s.RolledBack() {
		text += fmt.Sprintf(" from=%s to=%s", s.From, s.To)
	}
	for len(text) > maxReason || !utf8.ValidString(text) {
		text = text[:min(len(text)-1, maxReason)]
	}
	return text
}

// CloseFrame is the frame with the code ServiceRestart. Frames to a server must be masked; the mask need not be a secret here, since nobody
// but us chose what it hides.
func CloseFrame(reason string, toServer bool) []byte {
	payload := binary.BigEndian.AppendUint16(nil, ServiceRestart)
	payload = append(payload, reason[:min(len(reason), maxReason)]...)
	if !toServer {
		return append([]byte{final | opClose, byte(len(payload))}, payload...) //nolint:gosec // at most 125
	}
	frame := append([]byte{final | opClose, maskBit | byte(len(payload))}, 0, 0, 0, 0) //nolint:gosec // at most 125
	return append(frame, payload...)                                                   // masked by zeros
}

// Frames follows one direction of a connection. Its zero value is at the beginning.
type Frames struct {
	header [headerSize + 8 + maskSize]byte
	have   int
	left   uint64 // of the payload
	closed bool
}

// Between says that nothing of a frame has come whose rest has not.
func (f *Frames) Between() bool { return f.have == 0 && f.left == 0 }

// Closed says that a close frame has begun: nothing may follow it.
func (f *Frames) Closed() bool { return f.closed }

// Need is how many bytes may come before the next question to Between, without passing a boundary: at least 1.
func (f *Frames) Need() int {
	if f.left > 0 {
		return int(min(f.left, math.MaxInt32)) //nolint:gosec // bounded
	}
	return max(1, f.size()-f.have)
}

// size is how long the header is, as far as that is known.
func (f *Frames) size() int {
	if f.have < headerSize {
		return headerSize
	}
	size := headerSize
	switch f.header[1] & lengths {
	case length16:
		size += 2
	case length64:
		size += 8
	}
	if f.header[1]&maskBit != 0 {
		size += maskSize
	}
	return size
}

// Feed takes the next bytes.
func (f *Frames) Feed(p []byte) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, uint64(len(p)))
			f.left -= n
			p = p[n:]
			continue
		}
		n := copy(f.header[f.have:max(f.size(), f.have+1)], p)
		f.have += n
		p = p[n:]
		if f.have < headerSize || f.have < f.size() {
			continue
		}
		f.begin()
	}
}

// begin is called with a whole header.
func (f *Frames) begin() {
	switch n := f.header[1] & lengths; n {
	case length16:
		f.left = uint64(binary.BigEndian.Uint16(f.header[headerSize:]))
	case length64:
		f.left = binary.BigEndian.Uint64(f.header[headerSize:])
	default:
		f.left = uint64(n)
	}
	f.closed = f.closed || f.header[0]&opcodes == opClose
	f.have = 0
}
