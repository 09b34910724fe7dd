package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"

	"github.com/specproxy/specproxy/internal/agentproto/websocket"
)

// farewell bounds what follows the cut of an upgraded connection: the end of a frame under way, the close frames, and their answers.
const farewell = time.Second

// tunnel is the agent's end of an upgraded connection, as net/http/httputil copies from and to it: until one side ends, or a cut ends both.
// A WebSocket is cut between frames, by a close frame to either side; what speaks another protocol is cut off.
type tunnel struct {
	x     *exchange
	agent io.ReadWriteCloser
	// conn is what agent reads and writes; nil if it is not known.
	conn      net.Conn
	webSocket bool
	shutOnce  sync.Once

	mu       sync.Mutex       // held over every Write
	up, down websocket.Frames // to the agent, to the client
	cutting  bool

	// last is what Read still has to return before the end; it belongs to Read.
	last []byte
	over bool
}

// traceConn remembers the connection that an upgrade gets; it is not used for anything else.
func (x *exchange) traceConn(ctx context.Context) context.Context {
	if x.arrival.kind != upgrade {
		return ctx
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { x.agentConn = info.Conn }})
}

// upgraded prepares a 101 of the agent.
func (x *exchange) upgraded(res *http.Response) error {
	agent, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return errors.New("the agent's connection cannot be taken over")
	}
	x.w.status = res.StatusCode
	x.tunnel = &tunnel{x: x, agent: agent, conn: x.agentConn, webSocket: strings.EqualFold(res.Header.Get("Upgrade"), "websocket")}
	x.w.tunnel = x.tunnel
	res.Body = x.tunnel
	return nil
}

// Read reads from the agent. Once the exchange is cut it goes on to the end of a frame at most.
func (t *tunnel) Read(p []byte) (int, error) {
	for {
		if len(t.last) > 0 {
			n := copy(p, t.last)
			t.last = t.last[n:]
			return n, nil
		}
		if t.over {
			t.dismiss()
			return 0, io.EOF
		}
		room := t.conclude(len(p))
		if t.over {
			continue
		}
		n, err := t.agent.Read(p[:room])
		t.x.proxy.heard.Store(t.x.proxy.Now().UnixNano())
		t.mu.Lock()
		t.down.Feed(p[:n])
		t.mu.Unlock()
		if n > 0 {
			return n, nil // the error, if there is one, comes again
		}
		if err != nil {
			if t.conclude(len(p)); t.over {
				continue
			}
			t.dismiss()
			return 0, err
		}
	}
}

// conclude puts the close frame in place of what would follow, if the exchange is cut and no frame is under way. It returns how much may be
// read otherwise.
func (t *tunnel) conclude(room int) int {
	e := t.x.cutBy()
	if e == nil || !t.webSocket {
		return room
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.down.Between() {
		t.deadline(time.Now().Add(farewell))
		return min(room, t.down.Need())
	}
	t.over = true
	if !t.down.Closed() {
		t.last = websocket.CloseFrame(websocket.Reason(t.x.signal(e)), false)
	}
	return room
}

func (t *tunnel) deadline(at time.Time) {
	if t.conn != nil {
		_ = t.conn.SetReadDeadline(at)
	}
}

// Write writes to the agent what the client sends, until the exchange is cut.
func (t *tunnel) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cutting {
		return len(p), nil // the client's answer to the close frame
	}
	n, err := t.agent.Write(p)
	if t.webSocket {
		t.up.Feed(p[:n])
	}
	return n, err
}

// CloseWrite passes on that the client sends nothing more.
func (t *tunnel) CloseWrite() error {
	if half, ok := t.agent.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return http.ErrNotSupported
}

// Close is called when the exchange is cut or has ended.
func (t *tunnel) Close() error {
	e := t.x.cutBy()
	if e == nil || !t.webSocket || t.conn == nil {
		t.shut()
		return nil
	}
	_ = t.conn.SetWriteDeadline(time.Now().Add(farewell)) // of a Write under way too
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cutting = true
	wait := time.Duration(0)
	if !t.down.Between() {
		wait = farewell
	}
	t.deadline(time.Now().Add(wait))
	return nil
}

// dismiss tells the agent that the exchange is cut, after the client: the agent's own close frame would be no answer to it.
func (t *tunnel) dismiss() {
	e := t.x.cutBy()
	if e == nil || !t.webSocket {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cutting = true
	if t.up.Between() && !t.up.Closed() {
		frame := websocket.CloseFrame(websocket.Reason(t.x.signal(e)), true)
		t.up.Feed(frame)
		_, _ = t.agent.Write(frame)
	}
}

// shut ends the connection to the agent.
func (t *tunnel) shut() { t.shutOnce.Do(func() { _ = t.agent.Close() }) }

// Hijack takes the client's connection over for an upgrade.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if guarded, ok := conn.(interface{ Raw() }); ok {
		guarded.Raw()
	}
	return &clientConn{Conn: conn, begun: buffered.Reader, tunnel: w.tunnel}, buffered, nil
}

// clientConn is the client's end of an upgraded connection.
type clientConn struct {
	net.Conn
	begun  *bufio.Reader // what came with the request
	tunnel *tunnel       // nil if the connection goes to another sidecar
}

func (c *clientConn) Read(p []byte) (int, error) {
	if n := c.begun.Buffered(); n > 0 {
		return c.begun.Read(p[:min(n, len(p))])
	}
	return c.Conn.Read(p)
}

// CloseWrite passes on that the agent sends nothing more. After a cut the client gets a moment to answer.
func (c *clientConn) CloseWrite() error {
	if c.tunnel != nil && c.tunnel.x.cutBy() != nil {
		_ = c.SetReadDeadline(time.Now().Add(farewell))
	}
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return http.ErrNotSupported
}
