package hop

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// call is what a client sends on each stream.
type call struct {
	fields [][2]string
	body   []byte
	// trailer is one that the answer must end with.
	trailer [2]string
}

var (
	shared    = [][2]string{{"user-agent", "hop/1"}, {"x-forwarded-proto", "http"}, {"x-request-id", "5d1a2f6e-6c55-4c3c-9b43-5a7f5c3a1c11"}, {"x-spec-route", "7"}, {"x-spec-buffer", "1048576"}}
	plainCall = call{
		fields: append([][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "measured.agents"}, {":path", "/small"}, {"content-type", "application/json"}}, shared...),
		body:   bytes.Repeat([]byte("x"), smallBody),
	}
	// grpcCall is a unary call of one message of smallBody bytes.
	grpcCall = call{
		fields:  append([][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "measured.agents"}, {":path", "/hop.Echo/Unary"}, {"content-type", "application/grpc"}, {"te", "trailers"}}, shared...),
		body:    append([]byte{0, 0, 0, 0, smallBody}, make([]byte, smallBody)...),
		trailer: [2]string{"grpc-status", "0"},
	}
)

// http2Load keeps streams of several connections busy with the call, until end.
func http2Load(ctx context.Context, address string, c call, begin, end time.Time) (int, []time.Duration, error) {
	all := newTally(multiplexed)
	for range multiplexed {
		all.Go(func(t *tally) error {
			conn, err := dial(ctx, address, end)
			if err != nil {
				return err
			}
			defer conn.Close()
			return newMux(conn, c).run(t, begin, end)
		})
	}
	return all.wait()
}

// mux is one client connection. What it sends is the same block of header bytes for every stream: it uses no dynamic table.
type mux struct {
	call   call
	w      *bufio.Writer
	r      *bufio.Reader
	framer *http2.Framer
	block  []byte
	decode *hpack.Decoder
	// status and trailer of the block that is being decoded.
	status, trailer string
	next            uint32
	open            map[uint32]time.Time
	unacknowledged  uint32
	data            int // frames of it
}

func newMux(conn *wire, c call) *mux {
	m := &mux{call: c, w: bufio.NewWriterSize(conn, 16<<10), r: conn.r, next: 1, open: map[uint32]time.Time{}}
	m.framer = http2.NewFramer(m.w, m.r)
	m.framer.SetReuseFrames()
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	e.SetMaxDynamicTableSize(0)
	for _, f := range c.fields {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // into memory
	}
	m.block = block.Bytes()
	m.decode = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		switch f.Name {
		case ":status":
			m.status = f.Value
		case c.trailer[0]:
			m.trailer = f.Value
		}
	})
	return m
}

// greet begins the connection.
func (m *mux) greet() error {
	if _, err := m.w.WriteString(http2.ClientPreface); err != nil {
		return err
	}
	if err := m.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}); err != nil {
		return err
	}
	return m.framer.WriteWindowUpdate(0, 1<<24)
}

func (m *mux) run(t *tally, begin, end time.Time) error {
	if err := m.greet(); err != nil {
		return err
	}
	for range streams {
		if err := m.send(); err != nil {
			return err
		}
	}
	for len(m.open) > 0 {
		if m.r.Buffered() == 0 {
			if err := m.w.Flush(); err != nil {
				return err
			}
		}
		done, err := m.receive()
		if err != nil {
			return err
		}
		if done == 0 {
			continue
		}
		sent, now := m.open[done], time.Now()
		delete(m.open, done)
		if sent.After(begin) && now.Before(end) {
			t.count++
		}
		if now.Before(end) {
			if err := m.send(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *mux) send() error {
	id := m.next
	m.next += 2
	m.open[id] = time.Now()
	bare := m.call.body == nil
	if err := m.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: m.block, EndHeaders: true, EndStream: bare}); err != nil || bare {
		return err
	}
	return m.framer.WriteData(id, true, m.call.body)
}

// receive reads one frame and returns the stream that it ends, if it does.
func (m *mux) receive() (done uint32, err error) {
	frame, err := m.framer.ReadFrame()
	if err != nil {
		return 0, err
	}
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return 0, m.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return 0, m.framer.WritePing(true, f.Data)
		}
	case *http2.HeadersFrame:
		return m.headers(f)
	case *http2.DataFrame:
		if m.unacknowledged += f.Length; m.unacknowledged > 1<<20 {
			if err := m.framer.WriteWindowUpdate(0, m.unacknowledged); err != nil {
				return 0, err
			}
			m.unacknowledged = 0
		}
		m.data++
		if f.StreamEnded() {
			return f.StreamID, m.check()
		}
	case *http2.RSTStreamFrame:
		if f.ErrCode != http2.ErrCodeNo { // what comes after a whole answer only ends the request
			return 0, fmt.Errorf("stream reset: %s", f.ErrCode)
		}
	case *http2.GoAwayFrame:
		return 0, fmt.Errorf("connection refused: %s", f.ErrCode)
	}
	return 0, nil
}

func (m *mux) headers(f *http2.HeadersFrame) (uint32, error) {
	if !f.HeadersEnded() {
		return 0, errors.New("headers in several frames")
	}
	if _, err := m.decode.Write(f.HeaderBlockFragment()); err != nil {
		return 0, err
	}
	if f.StreamEnded() {
		return f.StreamID, m.check()
	}
	return 0, nil
}

// check looks at the answer's status and trailer. Streams interleave, so both are those of the last seen, which all must be good.
func (m *mux) check() error {
	if m.status != "200" || m.trailer != m.call.trailer[1] {
		return fmt.Errorf("answer: status %q, %s %q", m.status, m.call.trailer[0], m.trailer)
	}
	return nil
}
