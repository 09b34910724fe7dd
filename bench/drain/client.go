package drain

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// streamsPerConnection is what one connection carries; the sidecars are told to let it.
const streamsPerConnection = 9000

// plainExchanges opens n requests, each over a connection of its own.
func plainExchanges(address string, n int, deadline time.Time, results chan<- result) error {
	for range n {
		conn, err := dial(address, deadline)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(conn, "POST /work HTTP/1.1\r\nHost: %s\r\nX-Spec-Buffer: 1024\r\nContent-Length: 2\r\n\r\n{}", host); err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			res, err := http.ReadResponse(bufio.NewReaderSize(conn, 1024), nil)
			if err != nil {
				results <- result{Others: 1, Other: err.Error()}
				return
			}
			defer res.Body.Close()
			switch {
			case res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("X-Should-Retry") == "true":
				results <- signalled()
			default:
				results <- result{Others: 1, Other: res.Status}
			}
		}()
	}
	return nil
}

// dial opens a connection on which nothing is waited for beyond the deadline.
func dial(address string, deadline time.Time) (net.Conn, error) {
	conn, err := (&net.Dialer{Deadline: deadline}).DialContext(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(deadline)
}

func signalled() result {
	now := time.Now().UnixNano()
	return result{Signals: 1, FirstNano: now, LastNano: now}
}

// streams opens n gRPC calls over as few connections as can carry them. It speaks HTTP/2 by the frame, so that the client is no bottleneck.
func streams(address string, n int, deadline time.Time, results chan<- result) error {
	for n > 0 {
		count := min(n, streamsPerConnection)
		n -= count
		conn, err := dial(address, deadline)
		if err != nil {
			return err
		}
		m := &multiplexer{framer: http2.NewFramer(conn, conn), conn: conn}
		if err := m.open(count); err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			results <- m.read(count)
		}()
	}
	return nil
}

// multiplexer is one HTTP/2 connection.
type multiplexer struct {
	conn   net.Conn
	framer *http2.Framer
}

func (m *multiplexer) open(count int) error {
	if _, err := m.conn.Write([]byte(http2.ClientPreface)); err != nil {
		return err
	}
	if err := m.framer.WriteSettings(); err != nil {
		return err
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := range count {
		block.Reset()
		for _, f := range [][2]string{
			{":method", "POST"}, {":scheme", "http"}, {":authority", host}, {":path", "/bench.Agent/Work"}, {"content-type", "application/grpc"}, {"te", "trailers"},
		} {
			if err := encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
				return err
			}
		}
		id := uint32(2*i + 1) //nolint:gosec // at most streamsPerConnection
		if err := m.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
			return err
		}
	}
	return nil
}

// read takes what comes until every stream has got the signal, or one has ended in another way.
func (m *multiplexer) read(count int) (r result) {
	m.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for r.Signals < count && r.Others == 0 {
		frame, err := m.framer.ReadFrame()
		if err != nil {
			r.add(result{Others: count - r.Signals, Other: err.Error()})
			return r
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			if !f.StreamEnded() {
				continue
			}
			if retryable(f) {
				r.add(signalled())
			} else {
				r.add(result{Others: 1, Other: fmt.Sprint(f.Fields)})
			}
		case *http2.RSTStreamFrame:
			r.add(result{Others: 1, Other: reset(f)})
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = m.framer.WriteSettingsAck() // an error shows in the next read
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = m.framer.WritePing(true, f.Data)
			}
		case *http2.GoAwayFrame:
			r.add(result{Others: count - r.Signals, Other: "GOAWAY " + f.ErrCode.String()})
		}
	}
	return r
}

// reset says how a stream was ended, and what to do about it where that is known.
func reset(f *http2.RSTStreamFrame) string {
	text := fmt.Sprintf("stream %d: %s", f.StreamID, f.ErrCode)
	if f.ErrCode == http2.ErrCodeRefusedStream {
		text += " (a connection carries no more streams there: raise the sidecar's --max-streams)"
	}
	return text
}

// retryable says that the trailers are the signal: ABORTED (the agent had begun), and when to come back.
func retryable(f *http2.MetaHeadersFrame) bool {
	status, pushback := "", false
	for _, h := range f.Fields {
		switch h.Name {
		case "grpc-status":
			status = h.Value
		case "grpc-retry-pushback-ms":
			pushback = true
		}
	}
	return status == "10" && pushback
}
