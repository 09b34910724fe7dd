package proxy_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/specproxy/specproxy/internal/drain"
)

// chat is an agent that echoes messages and says how a connection ended.
type chat struct {
	t     *testing.T
	ended chan error
	pings chan string
}

func newChat(t *testing.T) *chat {
	return &chat{t: t, ended: make(chan error, 10), pings: make(chan string, 10)}
}

func (c *chat) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u := websocket.Upgrader{Subprotocols: []string{"chat"}, EnableCompression: true}
	conn, err := u.Upgrade(w, r, nil)
	if err != nil {
		c.t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	pong := conn.PingHandler()
	conn.SetPingHandler(func(text string) error {
		c.pings <- text
		return pong(text)
	})
	for {
		kind, data, err := conn.ReadMessage()
		if err != nil {
			c.ended <- err
			return
		}
		if string(data) == "leave" {
			_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4002, "you asked"), time.Now().Add(patience))
			continue
		}
		if err := conn.WriteMessage(kind, data); err != nil {
			c.ended <- err
			return
		}
	}
}

func (r *rig) webSocket(compress bool) *websocket.Conn {
	r.t.Helper()
	d := websocket.Dialer{Subprotocols: []string{"other", "chat"}, EnableCompression: compress, HandshakeTimeout: patience}
	conn, res, err := d.Dial("ws://"+r.addr+"/ws", http.Header{"X-Spec-Buffer": {"1024"}})
	if err != nil {
		r.t.Fatal(err)
	}
	_ = res.Body.Close()
	r.t.Cleanup(func() { _ = conn.Close() })
	if conn.Subprotocol() != "chat" || res.Header.Get("X-Execution-Id") == "" {
		r.t.Errorf("the handshake is answered %v", res.Header)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	return conn
}

func echo(t *testing.T, conn *websocket.Conn, kind int, data []byte) {
	t.Helper()
	if err := conn.WriteMessage(kind, data); err != nil {
		t.Fatal(err)
	}
	if got, back, err := conn.ReadMessage(); err != nil || got != kind || !bytes.Equal(back, data) {
		t.Fatalf("%d bytes of kind %d came back as %d of kind %d, %v", len(data), kind, len(back), got, err)
	}
}

func closedWith(t *testing.T, err error, code int, reason string) {
	t.Helper()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != code || !strings.HasPrefix(closed.Text, reason) {
		t.Errorf("ended by %v, want %d %q", err, code, reason)
	}
}

func TestWebSocketPasses(t *testing.T) {
	for _, compress := range []bool{false, true} {
		agent := newChat(t)
		r := newRig(t, completes, agent)
		conn := r.webSocket(compress)
		echo(t, conn, websocket.TextMessage, []byte("grüß dich"))
		echo(t, conn, websocket.BinaryMessage, bytes.Repeat([]byte{0, 1, 2, 3}, 1<<18))
		echo(t, conn, websocket.TextMessage, nil)
		pong := make(chan string, 1)
		conn.SetPongHandler(func(text string) error {
			pong <- text
			return nil
		})
		if err := conn.WriteControl(websocket.PingMessage, []byte("are you there"), time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		echo(t, conn, websocket.TextMessage, []byte("after the ping"))
		if get(t, "ping", agent.pings) != "are you there" || get(t, "pong", pong) != "are you there" {
			t.Error("the ping is not what was sent")
		}
		if compress { // the client ends it
			if err := conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "bye"), time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			closedWith(t, get(t, "the agent's end", agent.ended), 4001, "bye")
			_, _, err := conn.ReadMessage()
			closedWith(t, err, 4001, "")
		} else { // the agent ends it
			if err := conn.WriteMessage(websocket.TextMessage, []byte("leave")); err != nil {
				t.Fatal(err)
			}
			_, _, err := conn.ReadMessage()
			closedWith(t, err, 4002, "you asked")
			closedWith(t, get(t, "the agent's end", agent.ended), 4002, "")
		}
		_ = conn.Close()
		if row := r.endedRow(); row.Status != 101 {
			t.Errorf("ended %+v", row)
		}
	}
}

func TestWebSocketIsCutByCloseFrames(t *testing.T) {
	agent := newChat(t)
	r := newRig(t, cancels, agent)
	conn := r.webSocket(false)
	echo(t, conn, websocket.TextMessage, []byte("hi"))
	r.fence()
	_, _, err := conn.ReadMessage()
	closedWith(t, err, websocket.CloseServiceRestart, "SPEC_VERSION_ROLLED_BACK effects=none retry=true after=2500ms from=2.1.0 to=2.0.3")
	closedWith(t, get(t, "the agent's end", agent.ended), websocket.CloseServiceRestart, "SPEC_VERSION_ROLLED_BACK")
	if row := r.endedRow(); row.Disposition != drain.Cancel {
		t.Errorf("ledger %+v", row)
	}
}

func TestLeavingCutsWebSocketsByCloseFrames(t *testing.T) {
	agent := newChat(t)
	r := newRig(t, completes, agent)
	conn := r.webSocket(true)
	echo(t, conn, websocket.TextMessage, []byte("hi"))
	r.proxy.CutAll()
	_, _, err := conn.ReadMessage()
	closedWith(t, err, websocket.CloseServiceRestart, "INSTANCE_LEAVING")
	closedWith(t, get(t, "the agent's end", agent.ended), websocket.CloseServiceRestart, "INSTANCE_LEAVING")
	if err := r.proxy.AwaitIdle(t.Context()); err != nil {
		t.Error(err)
	}
}

// halfFrame is an agent that sends the beginning of a message and, if it is told to, the rest.
func halfFrame(t *testing.T, rest <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x0aHello")
		if _, ok := <-rest; ok {
			_, _ = io.WriteString(conn, "World\x81\x01x")
		}
		_, _ = io.Copy(io.Discard, rw)
	})
}

const handshake = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

func TestACutWaitsForTheEndOfAFrameButNotForLong(t *testing.T) {
	for _, ends := range []bool{true, false} {
		rest := make(chan struct{}, 1)
		r := newRig(t, cancels, halfFrame(t, rest))
		conn := dial(t, r.addr)
		if _, err := io.WriteString(conn, handshake); err != nil {
			t.Fatal(err)
		}
		seen := ""
		for buf := make([]byte, 1024); !strings.HasSuffix(seen, "Hello"); {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("after %q: %v", seen, err)
			}
			seen += string(buf[:n])
		}
		r.fence()
		if ends {
			rest <- struct{}{}
		}
		tail, err := io.ReadAll(conn)
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
			t.Fatal("the connection lives on")
		}
		if ends && (!strings.HasPrefix(string(tail), "World") || !strings.Contains(string(tail), "\x88\x53\x03\xf4SPEC_VERSION_ROLLED_BACK")) {
			t.Errorf("the client got %q, want the frame's rest and a close frame", tail)
		}
		if !ends && len(tail) > 0 {
			t.Errorf("into the middle of a frame came %q", tail)
		}
		close(rest)
	}
}

func TestUpgradesCloseByHalves(t *testing.T) {
	r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: count\r\n\r\n")
		data, err := io.ReadAll(rw)
		_, _ = io.WriteString(conn, strings.ToUpper(string(data)))
		if err != nil {
			t.Error(err)
		}
	}))
	conn := dial(t, r.addr)
	// The client speaks before it has the answer, which net/http has read with the request.
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: count\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1024)
	if n, err := conn.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 101") {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "one\ntwo\n\n"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "ONE\nTWO\n\n" {
		t.Errorf("after its own end the client got %q, %v", got, err)
	}
	r.refusals.Each(func(reason string, n uint64) {
		if n > 0 {
			t.Errorf("%s: %d", reason, n)
		}
	})
}
