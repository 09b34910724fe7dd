package sidecar_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/specproxy/specproxy/internal/sidecar/fakecontrol"
)

// TestLeavingWaitsForWebSocketsAndThenEndsThemByACloseFrame: proxies let go first, nothing is cut before the drain timeout, and nothing bare.
func TestLeavingWaitsForWebSocketsAndThenEndsThemByACloseFrame(t *testing.T) {
	ended := make(chan error, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		for {
			kind, data, err := conn.ReadMessage()
			if err != nil {
				ended <- err
				return
			}
			_ = conn.WriteMessage(kind, data)
		}
	}))
	defer s.Close()
	r := newRig(t, guarded)
	r.options.Command, r.options.Upstream, r.options.DrainTimeout = nil, s.URL, 300*time.Millisecond
	r.run()
	conn, res, err := websocket.DefaultDialer.Dial("ws://"+r.ready()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	r.running(1)
	r.signals <- syscall.SIGTERM
	r.control.Wait("leaving", func(v fakecontrol.View) bool { return v.Status.GetLeaving() })
	if err := conn.WriteMessage(websocket.TextMessage, []byte("still here")); err != nil {
		t.Fatal(err)
	}
	if _, data, err := conn.ReadMessage(); err != nil || string(data) != "still here" {
		t.Fatalf("while the sidecar leaves: %q, %v", data, err)
	}
	_, _, err = conn.ReadMessage()
	if closed := (*websocket.CloseError)(nil); !errors.As(err, &closed) || closed.Code != 1012 || !strings.HasPrefix(closed.Text, "INSTANCE_LEAVING") {
		t.Errorf("the client's connection ended by %v", err)
	}
	if closed := (*websocket.CloseError)(nil); !errors.As(get(t, "the agent's end", ended), &closed) || closed.Code != 1012 {
		t.Errorf("the agent's connection ended by %v", closed)
	}
	if err := r.ended(); err != nil {
		t.Error(err)
	}
}
