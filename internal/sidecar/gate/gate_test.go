package gate_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/specproxy/specproxy/internal/sidecar/gate"
)

const patience = time.Minute

// door is a server behind a gate.
type door struct {
	t        *testing.T
	addr     string
	refusals *gate.Refusals
	seen     chan string // method, path and body of every request that reached the handler
}

func open(t *testing.T, l gate.Limits) *door {
	t.Helper()
	return openOver(t, l, func(l net.Listener) net.Listener { return l })
}

// openOver is open on a transport.
func openOver(t *testing.T, l gate.Limits, over func(net.Listener) net.Listener) *door {
	t.Helper()
	d := &door{t: t, refusals: &gate.Refusals{}, seen: make(chan string, 1000)}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = inner.Addr().String()
	l = l.WithDefaults()
	server := gate.Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			d.seen <- r.Method + " broken"
			panic(http.ErrAbortHandler)
		}
		d.seen <- fmt.Sprintf("%s %s %q", r.Method, r.RequestURI, body)
		if r.URL.Path == "/missing" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, "ok")
	}), l, d.refusals, zap.NewNop())
	done := make(chan error, 1)
	go func() { done <- server.Serve(gate.Listener(over(inner), l, d.refusals)) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return d
}

func (d *door) dial() net.Conn {
	d.t.Helper()
	c, err := net.Dial("tcp", d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// say sends text in pieces of at most size bytes and returns the statuses that are answered until the connection closes.
func (d *door) say(text string, size int) (statuses []string) {
	d.t.Helper()
	c := d.dial()
	for rest := text; rest != ""; {
		n := min(size, len(rest))
		if _, err := io.WriteString(c, rest[:n]); err != nil {
			break // refused before its end
		}
		rest = rest[n:]
	}
	if half, ok := c.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
	in := bufio.NewReader(c)
	for {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return statuses
		}
		_, _ = io.Copy(io.Discard, res.Body)
		statuses = append(statuses, fmt.Sprint(res.StatusCode))
	}
}

func (d *door) reached() (all []string) {
	for {
		select {
		case s := <-d.seen:
			all = append(all, s)
		default:
			return all
		}
	}
}

func TestSmuggledRequestsAreRefusedAndCounted(t *testing.T) {
	const host = "Host: a\r\n"
	for _, c := range []struct {
		name, send string
		statuses   string // "" also allows that the connection is reset before the answer is read
		reached    []string
		reason     gate.Reason
	}{
		{"Content-Length and Transfer-Encoding", "POST / HTTP/1.1\r\n" + host + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n" + host + "\r\n", "400", nil, gate.Framing},
		{"Transfer-Encoding and Content-Length", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n", "400", nil, gate.Framing},
		{"two Content-Lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", "400", nil, gate.Framing},
		{"a list of Content-Lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 4, 4\r\n\r\nabcd", "400", nil, gate.Framing},
		{"a signed Content-Length", "POST / HTTP/1.1\r\n" + host + "Content-Length: +4\r\n\r\nabcd", "400", nil, gate.Framing},
		{"Transfer-Encoding twice", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400", nil, gate.Framing},
		{"Transfer-Encoding in HTTP/1.0", "POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400", nil, gate.Framing},
		{"bare LF after the request line", "GET / HTTP/1.1\n" + host + "\r\n", "400", nil, gate.BareLF},
		{"bare LF after a header", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", "400", nil, gate.BareLF},
		{"bare LF at the head's end", "GET / HTTP/1.1\r\n" + host + "\n", "400", nil, gate.BareLF},
		{"nothing but LF", "\n", "400", nil, gate.BareLF},
		{"folded header", "GET / HTTP/1.1\r\n" + host + "X: a\r\n b\r\n\r\n", "400", nil, gate.FoldedLine},
		{"header folded by a tab", "GET / HTTP/1.1\r\n" + host + "X: a\r\n\tTransfer-Encoding: chunked\r\n\r\n", "400", nil, gate.FoldedLine},
		{"bare LF in a chunk's size", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", "", []string{"POST broken"}, gate.BareLF},
		{"no CRLF after a chunk", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "", []string{"POST broken"}, gate.Malformed},
		{"a chunk's size that is none", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", "", []string{"POST broken"}, gate.Malformed},
		{"space before the colon", "POST / HTTP/1.1\r\n" + host + "Content-Length : 3\r\n\r\nabc", "400", nil, gate.Malformed},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "400", nil, gate.Malformed},
		{"two hosts", "GET / HTTP/1.1\r\n" + host + host + "\r\n", "400", nil, gate.Malformed},
		{"a lone CR in a value", "GET / HTTP/1.1\r\n" + host + "X: a\rb\r\n\r\n", "400", nil, gate.Malformed},
		{"unknown transfer coding", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n", "501", nil, gate.Malformed},
		{"after a good one", "GET /one HTTP/1.1\r\n" + host + "\r\nGET /two HTTP/1.1\r\n" + host + "X: y\n\r\n", "200 400", []string{`GET /one ""`}, gate.BareLF},
	} {
		for _, size := range []int{1 << 20, 1, 7} {
			t.Run(fmt.Sprintf("%s/in pieces of %d", c.name, size), func(t *testing.T) {
				d := open(t, gate.Limits{})
				statuses := strings.Join(d.say(c.send, size), " ")
				if statuses != c.statuses && !strings.HasPrefix(c.statuses, statuses) {
					t.Errorf("answered %q, want %q", statuses, c.statuses)
				}
				if got := d.reached(); fmt.Sprint(got) != fmt.Sprint(c.reached) {
					t.Errorf("the handler got %q, want %q", got, c.reached)
				}
				d.refusals.Each(func(reason string, n uint64) {
					want := uint64(0)
					if reason == c.reason.String() {
						want = 1
					}
					if n != want {
						t.Errorf("%s is counted %d times, want %d", reason, n, want)
					}
				})
			})
		}
	}
}

func TestGoodRequestsPassByteForByte(t *testing.T) {
	const host = "Host: a\r\n"
	long := strings.Repeat("x", 20_000)
	for _, c := range []struct{ name, send, reached string }{
		{"pipelined", "GET /1 HTTP/1.1\r\n" + host + "\r\nPOST /2 HTTP/1.1\r\n" + host + "Content-Length: 5\r\n\r\nhe\nloGET /3 HTTP/1.1\r\n" + host + "\r\n", `[GET /1 "" POST /2 "he\nlo" GET /3 ""]`},
		{"chunked", "POST /1 HTTP/1.1\r\n" + host + "transfer-encoding: Chunked\r\n\r\n5;name=value\r\n\nello\r\n3 \r\n\r\n\n\r\n0\r\nX-Trailer: y\r\n\r\nGET /2 HTTP/1.1\r\n" + host + "\r\n", `[POST /1 "\nello\r\n\n" GET /2 ""]`},
		{"empty chunked", "POST /1 HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /2 HTTP/1.1\r\n" + host + "\r\n", `[POST /1 "" GET /2 ""]`},
		{"long lines", "GET /1?" + long + " HTTP/1.1\r\n" + host + "X: " + long + "\r\n\r\nGET /2 HTTP/1.1\r\n" + host + "\r\n", `[GET /1?` + long + ` "" GET /2 ""]`},
		{"unknown method", "PURGE /1 HTTP/1.1\r\n" + host + "\r\n", `[PURGE /1 ""]`},
		{"options of all", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", `[OPTIONS * ""]`},
		{"answers of the handler's own are no refusals", "GET /missing HTTP/1.1\r\n" + host + "\r\n", `[GET /missing ""]`},
	} {
		for _, size := range []int{1 << 20, 1, 4095} {
			t.Run(fmt.Sprintf("%s/in pieces of %d", c.name, size), func(t *testing.T) {
				if size == 1 && len(c.send) > 10_000 {
					size = 1000
				}
				d := open(t, gate.Limits{})
				d.say(c.send, size)
				if got := fmt.Sprint(d.reached()); got != c.reached {
					t.Errorf("the handler got %q, want %q", got, c.reached)
				}
				d.nothingRefused()
			})
		}
	}
}

func (d *door) nothingRefused() {
	d.t.Helper()
	d.refusals.Each(func(reason string, n uint64) {
		if n != 0 {
			d.t.Errorf("%s is counted %d times", reason, n)
		}
	})
}

// counted waits for a refusal.
func (d *door) counted(reason gate.Reason, n uint64) {
	d.t.Helper()
	for deadline := time.Now().Add(patience); d.refusals.Of(reason) < n; {
		if time.Now().After(deadline) {
			d.t.Fatalf("%s was counted %d times, want %d", reason, d.refusals.Of(reason), n)
		}
		tick := time.NewTimer(5 * time.Millisecond)
		<-tick.C
	}
}

func TestSlowHeadersAreCutOffAndAFreshConnectionIsNot(t *testing.T) {
	d := open(t, gate.Limits{HeaderTimeout: 100 * time.Millisecond})
	fresh, slow := d.dial(), d.dial()
	if _, err := io.WriteString(slow, "GET / HTTP/1.1\r\nHost: a\r\nX: "); err != nil {
		t.Fatal(err)
	}
	if n, err := slow.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the slow connection got %d bytes, %v; want it closed", n, err)
	}
	d.counted(gate.HeaderTimeout, 1)
	// It has been open for longer than headers may take, without a byte.
	if _, err := io.WriteString(fresh, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if res, err := http.ReadResponse(bufio.NewReader(fresh), nil); err != nil || res.StatusCode != 200 {
		t.Errorf("a connection that waited got %v %v", res, err)
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	d := open(t, gate.Limits{IdleTimeout: 50 * time.Millisecond})
	if n, err := d.dial().Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // io.Reader's contract
		t.Errorf("got %d bytes, %v", n, err)
	}
	d.nothingRefused()
}

func TestOversizedHeadersAreRefused(t *testing.T) {
	d := open(t, gate.Limits{HeaderBytes: 8 << 10})
	statuses := d.say("GET / HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("x", 32<<10)+"\r\n\r\n", 1<<20)
	if len(statuses) > 0 && statuses[0] != "431" || len(d.reached()) > 0 {
		t.Errorf("answered %v", statuses)
	}
	d.counted(gate.HeaderSize, 1)
}

func TestTooManyConnectionsAreClosed(t *testing.T) {
	d := open(t, gate.Limits{Connections: 2})
	ask := func(c net.Conn) error {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			return err
		}
		_, err := http.ReadResponse(bufio.NewReader(c), nil)
		return err
	}
	one, two := d.dial(), d.dial()
	if err := errors.Join(ask(one), ask(two)); err != nil {
		t.Fatal(err)
	}
	if err := ask(d.dial()); err == nil {
		t.Error("the third connection is served")
	}
	d.counted(gate.Connections, 1)
	_ = one.Close()
	for deadline := time.Now().Add(patience); ; {
		if err := ask(d.dial()); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("no place becomes free: %v", err)
		}
	}
}

// TestStreamsPerConnectionAreBounded: a caller is told how many it may open, and what it opens beyond that reaches no handler.
func TestStreamsPerConnectionAreBounded(t *testing.T) {
	for limit, want := range map[int]uint32{0: gate.DefaultStreams, 2: 2} {
		d := open(t, gate.Limits{Streams: limit})
		c := d.dial()
		if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
			t.Fatal(err)
		}
		f := http2.NewFramer(c, c)
		if err := f.WriteSettings(); err != nil {
			t.Fatal(err)
		}
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		settings, ok := frame.(*http2.SettingsFrame)
		if !ok {
			t.Fatalf("the first frame is %v", frame)
		}
		if got, ok := settings.Value(http2.SettingMaxConcurrentStreams); !ok || got != want {
			t.Errorf("told %d streams, want %d", got, want)
		}
		if limit == 0 {
			continue
		}
		// Settings are in force once they are acknowledged.
		if err := f.WriteSettingsAck(); err != nil {
			t.Fatal(err)
		}
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/"}} {
			_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		for id := uint32(1); id <= 5; id += 2 {
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
				t.Fatal(err)
			}
		}
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				t.Fatalf("the third stream is not refused: %v", err)
			}
			if reset, ok := frame.(*http2.RSTStreamFrame); ok {
				if reset.StreamID != 5 || reset.ErrCode != http2.ErrCodeRefusedStream && reset.ErrCode != http2.ErrCodeProtocol {
					t.Errorf("stream %d was reset with %v", reset.StreamID, reset.ErrCode)
				}
				break
			}
		}
	}
}

// TestRapidResetIsRefused begins and resets streams without end (CVE-2023-44487).
func TestRapidResetIsRefused(t *testing.T) {
	hold := make(chan struct{})
	d := open(t, gate.Limits{Streams: 10})
	c := d.dial()
	defer close(hold)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, c)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	goAway := make(chan http2.ErrCode, 1)
	go func() {
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				close(goAway)
				return
			}
			if g, ok := frame.(*http2.GoAwayFrame); ok {
				goAway <- g.ErrCode
				return
			}
		}
	}()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	// The handlers wait for a body that never comes until the reset wakes them; the frames come faster than they can.
	for id := uint32(1); id < 200_000; id += 2 {
		if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true}) != nil || f.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break
		}
	}
	select {
	case code, ok := <-goAway:
		if ok && code != http2.ErrCodeEnhanceYourCalm {
			t.Errorf("GOAWAY %v", code)
		}
	case <-time.After(patience):
		t.Fatal("the connection lives on")
	}
	d.counted(gate.RapidReset, 1)
}
